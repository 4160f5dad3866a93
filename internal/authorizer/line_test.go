package authorizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/credential"
)

// TestLine compares a line with the one slog writes.
func TestLine(t *testing.T) {
	f := newFixture(t, testConfig())
	trace := credential.Headers{"traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}
	var lines, log bytes.Buffer
	now := time.Now()
	f.Authorizer.now = func() time.Time { return now }
	f.Authorizer.lines = Lines{To: &lines}
	f.Authorizer.log = slog.New(slog.NewJSONHandler(&log, nil))
	allowed := f.Decide(t.Context(), RequestOf(check(podAddr, 8081, "POST", openIn, predictPath, nil)))
	for _, row := range []struct {
		req Request
		v   Verdict
	}{
		{Request{}, Verdict{}},
		{Request{Source: netip.MustParseAddr("10.0.0.1"), Door: 8080, Method: "GET", Host: "a", Path: "/b", Headers: trace}, allowed},
		{Request{Source: netip.MustParseAddr("fe80::1"), Host: "quote\"back\\slash\n\t\x00", Path: "/\xff\u2028é<>&" + strings.Repeat("x", 1000)}, Verdict{Reason: Internal, Status: 503, cause: errors.New("a \"cause\"\nof two lines")}},
		{Request{Headers: credential.Headers{"traceparent": {"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"}}}, Verdict{Reason: "r", Credential: "id", How: ByKey, Caller: access.Caller{User: "u"}, Resource: access.Resource{Namespace: "n", Resource: "r", Name: "m"}}},
	} {
		lines.Reset()
		log.Reset()
		f.Authorizer.record(t.Context(), row.req, row.v, now, 1234)
		var got, want map[string]any
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil || strings.Count(lines.String(), "\n") != 1 {
			t.Fatalf("%v: %s", err, lines.String())
		}
		if err := json.Unmarshal(log.Bytes(), &want); err != nil {
			t.Fatal(err)
		}
		delete(got, "time")
		delete(want, "time")
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got\n%v\nwant\n%v", got, want)
		}
	}
	lines.Reset()
	f.Authorizer.lines.From = slog.LevelError
	f.Authorizer.record(t.Context(), Request{}, allowed, now, 1)
	if f.Authorizer.record(t.Context(), Request{}, Verdict{Reason: LoginUnavailable}, now, 1); strings.Count(lines.String(), "\n") != 1 {
		t.Errorf("level error: got %s", lines.String())
	}
}
