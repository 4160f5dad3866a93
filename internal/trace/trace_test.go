package trace

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/credential"
)

// receiver is a collector.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*otlp.Span
	text  string // of all that came
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		in := &collector.ExportTraceServiceRequest{}
		if err != nil || req.URL.Path != "/v1/traces" || proto.Unmarshal(body, in) != nil {
			http.Error(w, "no spans", http.StatusBadRequest)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.text += protojson.Format(in)
		for _, rs := range in.GetResourceSpans() {
			for _, ss := range rs.GetScopeSpans() {
				r.spans = append(r.spans, ss.GetSpans()...)
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

const (
	clients = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	gateway = "00-4bf92f3577b34da6a3ce929d0e0e4736-aaaaaaaaaaaaaaaa-01"
	unasked = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

func request(parent string) authorizer.Request {
	h := credential.Headers{"authorization": {"Bearer S3CRET"}, "cookie": {"authservice_session=S3CRET"}, "x-api-key": {"S3CRET"}, "x-postern-passport": {"S3CRET"}, "tracestate": {"a=b"}}
	if parent != "" {
		h["traceparent"] = []string{parent}
	}
	return authorizer.Request{Door: 8081, Source: netip.MustParseAddr("10.0.0.1"), Method: "POST", Host: "iris", Path: "/S3CRET", Query: "?code=S3CRET", Headers: h}
}

// TestDecision: whose child a span is, what it says, and that no secret is in it.
func TestDecision(t *testing.T) {
	r := newReceiver(t)
	tr, err := New(t.Context(), Config{Endpoint: r.URL, InsecureHTTP: true}, func(f string, a ...any) { t.Errorf(f, a...) })
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now()
	begin := end.Add(-3 * time.Millisecond)
	v := authorizer.Verdict{
		Allow: true, Status: 200, Reason: authorizer.Allowed, How: authorizer.ByKey, Credential: "id", Caller: access.Caller{User: "postern:key:a:b"},
		Resource: access.Model("a", "iris"), Set: []authorizer.Header{{Name: "x-postern-passport", Value: "S3CRET"}},
	}
	byGateway := metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", gateway))
	tr.Decision(byGateway, request(clients), v, begin, end)
	tr.Decision(t.Context(), request(clients), v, begin, end)
	tr.Decision(t.Context(), request(clients), authorizer.Verdict{Reason: authorizer.Internal, Status: 503}, begin, end)
	// Not traced: whoever began the trace did not want it, no trace, no good one.
	tr.Decision(t.Context(), request(unasked), v, begin, end)
	tr.Decision(t.Context(), request(""), v, begin, end)
	tr.Decision(t.Context(), request("00-zz"), v, begin, end)
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(r.spans) != 3 || strings.Contains(r.text, "S3CRET") {
		t.Fatalf("got %d spans, want 3 and no secret: %s", len(r.spans), r.text)
	}
	for i, parent := range []string{"aaaaaaaaaaaaaaaa", "00f067aa0ba902b7", "00f067aa0ba902b7"} {
		s := r.spans[i]
		if id := fmt.Sprintf("%x %x", s.GetTraceId(), s.GetParentSpanId()); id != "4bf92f3577b34da6a3ce929d0e0e4736 "+parent {
			t.Errorf("span %d: got trace and parent %s, want parent %s", i, id, parent)
		}
		if took := time.Duration(s.GetEndTimeUnixNano() - s.GetStartTimeUnixNano()); took != 3*time.Millisecond || s.GetKind() != otlp.Span_SPAN_KIND_SERVER {
			t.Errorf("span %d: got %s, kind %s", i, took, s.GetKind())
		}
		if failed := s.GetStatus().GetCode() == otlp.Status_STATUS_CODE_ERROR; failed != (i == 2) {
			t.Errorf("span %d: got status %s", i, s.GetStatus())
		}
	}
	got := map[string]string{}
	for _, a := range r.spans[0].GetAttributes() {
		got[a.GetKey()] = a.GetValue().GetStringValue()
	}
	for k, want := range map[string]string{"postern.verdict": "allow", "postern.reason": "allowed", "postern.by": "api-key", "postern.credential": "id", "postern.caller": "postern:key:a:b", "postern.resource": "a/inferenceservices/iris"} {
		if got[k] != want {
			t.Errorf("%s: got %q, want %q", k, got[k], want)
		}
	}
}

// TestSample: of checks without a trace the configured share.
func TestSample(t *testing.T) {
	r := newReceiver(t)
	tr, err := New(t.Context(), Config{Endpoint: r.URL + "/", InsecureHTTP: true, Sample: 1}, func(f string, a ...any) { t.Errorf(f, a...) })
	if err != nil {
		t.Fatal(err)
	}
	tr.Decision(t.Context(), request(""), authorizer.Verdict{}, time.Now(), time.Now())
	tr.Decision(t.Context(), request(unasked), authorizer.Verdict{}, time.Now(), time.Now())
	if err := tr.Close(t.Context()); err != nil || len(r.spans) != 1 {
		t.Errorf("got %d spans, want the one without a trace (%v)", len(r.spans), err)
	}
}

// TestAway: a collector that is away costs spans, is said, and nothing else.
func TestAway(t *testing.T) {
	r := newReceiver(t)
	r.Close()
	var said []string
	tr, err := New(t.Context(), Config{Endpoint: r.URL, InsecureHTTP: true, Sample: 1}, func(f string, a ...any) { said = append(said, fmt.Sprintf(f, a...)) })
	if err != nil {
		t.Fatal(err)
	}
	tr.Decision(t.Context(), request(""), authorizer.Verdict{}, time.Now(), time.Now())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_ = tr.Close(ctx) // what is lost is said
	if len(said) != 1 || !strings.Contains(said[0], "1 spans are lost") {
		t.Errorf("got %q", said)
	}
}

func TestCheck(t *testing.T) {
	for _, row := range []struct {
		c    Config
		want string // the field at fault
	}{
		{Config{}, ""},
		{Config{Endpoint: "https://otel:4318"}, ""},
		{Config{Endpoint: "http://otel:4318", InsecureHTTP: true, Sample: 0.5}, ""},
		{Config{Endpoint: "http://otel:4318"}, "insecureHTTP"},
		{Config{Endpoint: "otel:4318"}, "endpoint"},
		{Config{Endpoint: "https://u:p@otel"}, "endpoint"},
		{Config{Sample: 1}, "endpoint"},
		{Config{Endpoint: "https://otel", Sample: 1.1}, "sample"},
		{Config{Endpoint: "http://otel", InsecureHTTP: true, CAFile: "x"}, "caFile"},
	} {
		var got string
		row.c.Check(func(field, _ string, _ ...any) { got = field })
		if got != row.want {
			t.Errorf("%+v: got %q, want %q", row.c, got, row.want)
		}
	}
}
