package authorizer

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"postern.dev/postern/internal/access"
)

// wholeCheck has every field that Envoy may send.
func wholeCheck(t testing.TB) *auth.CheckRequest {
	t.Helper()
	in := check("::ffff:10.0.0.1", 8081, "POST", "a.b", "/p?q=1?2", map[string]string{"x-a": "1", "X-Upper": "2", "empty": ""})
	at := in.Attributes
	at.Source.Service, at.Source.Principal, at.Source.Certificate = "s", "spiffe://x", "cert"
	at.Source.Labels = map[string]string{"a": "b"}
	at.ContextExtensions = map[string]string{"c": "d"}
	at.TlsSession = &auth.AttributeContext_TLSSession{Sni: "sni"}
	at.Request.Time = timestamppb.Now()
	h := at.Request.Http
	h.Id, h.Scheme, h.Query, h.Fragment, h.Protocol, h.Body, h.RawBody, h.Size = "1", "http", "q", "f", "HTTP/1.1", "b", []byte{0xff}, -1
	meta := func(fields map[string]any) *core.Metadata {
		s, err := structpb.NewStruct(fields)
		if err != nil {
			t.Fatal(err)
		}
		typed, err := anypb.New(s)
		if err != nil {
			t.Fatal(err)
		}
		return &core.Metadata{
			FilterMetadata:      map[string]*structpb.Struct{"istio": s, "other": s},
			TypedFilterMetadata: map[string]*anypb.Any{"t": typed},
		}
	}
	at.MetadataContext = meta(map[string]any{"config": "not this"})
	at.RouteMetadataContext = meta(map[string]any{"config": "/apis/x", "n": 1.5, "nil": nil, "b": true, "l": []any{"x", map[string]any{"config": "nor this"}}})
	return in
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadCheck(t *testing.T) {
	raw := wholeCheck(t)
	raw.Attributes.Request.Http.Headers = nil
	raw.Attributes.Request.Http.HeaderMap = &core.HeaderMap{Headers: []*core.HeaderValue{
		{Key: "x-b", RawValue: []byte("2\xff")}, {Key: "X-B", Value: "3"}, {Key: "both", Value: "v", RawValue: []byte("r")}, {Key: "none"},
	}}
	for name, in := range map[string]*auth.CheckRequest{
		"whole": wholeCheck(t), "raw headers": raw, "empty": {}, "no request": {Attributes: &auth.AttributeContext{}},
		"a pipe":     {Attributes: &auth.AttributeContext{Source: &auth.AttributeContext_Peer{Address: &core.Address{Address: &core.Address_Pipe{Pipe: &core.Pipe{Path: "/x", Mode: 1}}}}}},
		"no address": check("", 8081, "GET", "a", "/", nil), "a high port": check("1.2.3.4", 8081+65536, "GET", "a", "/", nil),
	} {
		got, err := readCheck(marshal(t, in))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if want := RequestOf(in); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// field is one field of a message in bytes.
func field(num protowire.Number, content ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), slices.Concat(content...))
}

// TestReadCheckRefuses: what no serializer writes is not guessed at.
func TestReadCheckRefuses(t *testing.T) {
	good := marshal(t, wholeCheck(t))
	http := func(fields ...[]byte) []byte { return field(1, field(4, field(2, fields...))) }
	header := func(k, v string) []byte { return field(3, field(1, []byte(k)), field(2, []byte(v))) }
	meta := func(values ...[]byte) []byte {
		return field(1, field(13, field(1, field(1, []byte("istio")), field(2, values...))))
	}
	config := func(v string) []byte {
		return field(1, field(1, []byte("config")), field(2, field(3, []byte(v))))
	}
	deep := field(3, []byte("x"))
	for range 100 {
		deep = field(5, field(1, field(1, []byte("k")), field(2, deep)))
	}
	many := make([][]byte, 0, maxHeaders+1)
	for i := range maxHeaders + 1 {
		many = append(many, header(fmt.Sprint("h", i), ""))
	}
	socket := func(fields ...[]byte) []byte { return field(1, field(1, field(1, field(1, fields...)))) }
	for name, in := range map[string][]byte{
		"truncated":               good[:len(good)-1],
		"attributes twice":        slices.Concat(good, good),
		"garbage":                 {0xff, 0xff},
		"a group":                 {1<<3 | 3, 1<<3 | 4},
		"an unknown group":        {15<<3 | 3, 15<<3 | 4},
		"field 0":                 {0, 0},
		"wrong wire type":         {1 << 3, 1},
		"method twice":            http(field(2, []byte("GET")), field(2, []byte("POST"))),
		"path twice":              http(field(4, []byte("/a")), field(4, []byte("/b"))),
		"no UTF-8":                http(field(4, []byte("/\xff"))),
		"no UTF-8 where unread":   http(field(11, []byte("\xff"))),
		"a header twice":          http(header("a", "1"), header("a", "2")),
		"a header in two cases":   http(header("a", "1"), header("A", "2")),
		"headers after the other": http(field(13), header("a", "1")),
		"too many headers":        http(many...),
		"a key twice in an entry": http(field(3, field(1, []byte("a")), field(1, []byte("b")))),
		"two addresses":           field(1, field(1, field(1, field(1), field(2)))),
		"a named port":            socket(field(4, []byte("http"))),
		"a port of 64 bits":       socket(protowire.AppendVarint([]byte{3 << 3}, 1<<32+80)),
		"metadata twice":          slices.Concat(meta(config("a")), meta(config("a"))),
		"config twice":            meta(config("a"), config("b")),
		"two values in one":       meta(field(1, field(1, []byte("config")), field(2, field(3, []byte("a")), field(3, []byte("b"))))),
		"metadata too deep":       meta(field(1, field(1, []byte("k")), field(2, deep))),
	} {
		if got, err := readCheck(in); err == nil || !reflect.DeepEqual(got, Request{}) {
			t.Errorf("%s: got %+v %v, want an error and no request", name, got, err)
		}
	}
	// Unknown fields are stepped over, as by the generated decoder.
	if got, err := readCheck(slices.Concat(http(field(2, []byte("GET")), field(500, []byte("\xff"))), field(77, []byte{1}))); err != nil || got.Method != "GET" {
		t.Errorf("unknown fields: got %+v %v", got, err)
	}
}

// TestFieldsOfACheck notices when Envoy's definitions get a field that readCheck
// does not go through.
func TestFieldsOfACheck(t *testing.T) {
	known := map[protoreflect.FullName]string{
		"envoy.service.auth.v3.CheckRequest":                 "1",
		"envoy.service.auth.v3.AttributeContext":             "1 2 4 10 11 12 13",
		"envoy.service.auth.v3.AttributeContext.Peer":        "1 2 3 4 5",
		"envoy.service.auth.v3.AttributeContext.Request":     "1 2",
		"envoy.service.auth.v3.AttributeContext.HttpRequest": "1 2 3 4 5 6 7 8 9 10 11 12 13",
		"envoy.service.auth.v3.AttributeContext.TLSSession":  "1",
		"envoy.config.core.v3.Address":                       "1 2 3",
		"envoy.config.core.v3.SocketAddress":                 "1 2 3 4 5 6 7",
		"envoy.config.core.v3.Pipe":                          "1 2",
		"envoy.config.core.v3.EnvoyInternalAddress":          "1 2",
		"envoy.config.core.v3.HeaderMap":                     "1",
		"envoy.config.core.v3.HeaderValue":                   "1 2 3",
		"envoy.config.core.v3.Metadata":                      "1 2",
		"google.protobuf.Timestamp":                          "1 2",
		"google.protobuf.Struct":                             "1",
		"google.protobuf.Value":                              "1 2 3 4 5 6",
		"google.protobuf.ListValue":                          "1",
		"google.protobuf.Any":                                "1 2",
	}
	seen := map[protoreflect.FullName]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(d protoreflect.MessageDescriptor) {
		if seen[d.FullName()] {
			return
		}
		seen[d.FullName()] = true
		var numbers []int
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			numbers = append(numbers, int(f.Number()))
			if f.Message() != nil {
				walk(f.Message())
			}
		}
		slices.Sort(numbers)
		if got := strings.Trim(fmt.Sprint(numbers), "[]"); !d.IsMapEntry() && got != known[d.FullName()] {
			t.Errorf("%s: got fields %s, readCheck knows %q", d.FullName(), got, known[d.FullName()])
		}
	}
	walk((*auth.CheckRequest)(nil).ProtoReflect().Descriptor())
}

// FuzzReadCheck: what readCheck accepts, the generated decoder accepts, and both
// find the same request.
func FuzzReadCheck(f *testing.F) {
	whole := marshal(f, wholeCheck(f))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(marshal(f, check("1.2.3.4", 8080, "GET", "a", "/", nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readCheck(b)
		if err != nil {
			return
		}
		in := new(auth.CheckRequest)
		if err := proto.Unmarshal(b, in); err != nil {
			t.Fatalf("the generated decoder refuses what readCheck accepts: %v", err)
		}
		if want := RequestOf(in); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

// TestReadCheckMutated does a little of the fuzzing in every run: valid checks
// are always accepted, and damaged ones never read differently.
func TestReadCheckMutated(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 1))
	whole := wholeCheck(t)
	accepted := 0
	for range 20000 {
		h := whole.Attributes.Request.Http
		h.Headers = map[string]string{}
		for i := range r.IntN(20) {
			h.Headers[fmt.Sprint("h", i)] = strings.Repeat("v", r.IntN(200))
		}
		b := marshal(t, whole)
		if _, err := readCheck(b); err != nil {
			t.Fatalf("a valid check: %v", err)
		}
		for range 1 + r.IntN(3) {
			b[r.IntN(len(b))] = byte(r.IntN(256))
		}
		got, err := readCheck(b)
		if err != nil {
			continue
		}
		accepted++
		in := new(auth.CheckRequest)
		if err := proto.Unmarshal(b, in); err != nil {
			t.Fatalf("the generated decoder refuses what readCheck accepts: %v: %x", err, b)
		}
		if want := RequestOf(in); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	}
	if accepted == 0 {
		t.Error("no damaged check was accepted: the comparison compared nothing")
	}
}

func sameAnswer(t *testing.T, v Verdict) {
	t.Helper()
	got := new(auth.CheckResponse)
	if err := proto.Unmarshal(appendResponse(nil, v), got); err != nil {
		t.Fatalf("%+v: %v", v, err)
	}
	if want := Response(v); !proto.Equal(got, want) {
		t.Errorf("%+v: got\n%v\nwant\n%v", v, got, want)
	}
}

func TestAppendResponse(t *testing.T) {
	long := strings.Repeat("x", 20000)
	for _, v := range []Verdict{
		{}, {Status: 200}, {Status: 99}, {Status: 401, Reason: "r", Body: []byte("b\xff")}, {Status: 302, Headers: []Header{{"a", "1"}, {"a", "2\xff"}, {"e", ""}, {"l", long}}, Body: []byte(long)},
		{Allow: true, Response: []Header{{"vary", "Origin"}, {"content-security-policy", "sandbox"}, {"x", long}}, Credential: "c\xff"},
		{Allow: true}, {Allow: true, Status: 401, Set: []Header{{"a", "1"}, {"b", long}}, Remove: []string{"x", "", long}, Caller: access.Caller{User: "u\xff"}, Resource: access.Resource{Namespace: "n", Resource: "inferenceservices", Name: "m"}},
	} {
		sameAnswer(t, v)
	}
}

func FuzzAppendResponse(f *testing.F) {
	f.Add(true, 200, "r", "n", "v", "x", []byte("b"), "u")
	f.Add(false, 401, "", "", "", "", []byte(nil), "")
	f.Fuzz(func(t *testing.T, allow bool, status int, reason, name, value, remove string, body []byte, user string) {
		for _, s := range []string{reason, name, remove} { // ours, and names of headers: always text
			if strings.ToValidUTF8(s, "") != s {
				return
			}
		}
		h := []Header{{name, value}, {"fixed", value}}
		sameAnswer(t, Verdict{Allow: allow, Status: status, Reason: reason, Set: h, Headers: h, Response: h, Remove: []string{remove, name}, Body: body, Caller: access.Caller{User: user}, Credential: user})
	})
}

// TestNewServer compares the two servers over gRPC.
func TestNewServer(t *testing.T) {
	f := newFixture(t, testConfig())
	var log bytes.Buffer
	f.Authorizer.log = slog.New(slog.NewJSONHandler(&log, nil))
	srv := NewServer(f.Authorizer)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() { srv.Stop(); <-done }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, in := range []*auth.CheckRequest{
		{}, check(outside, 8080, "POST", openOut, predictPath, nil), check(outside, 8080, "GET", dashboard, "/", nil),
		check(podAddr, 8081, "POST", openIn, predictPath, map[string]string{"kubeflow-userid": "eve", "cookie": "a=1,authservice_session=old"}),
	} {
		got, err := auth.NewAuthorizationClient(conn).Check(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Server{Authorizer: f.Authorizer}.Check(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(want.GetOkResponse().GetHeadersToRemove())
		if !proto.Equal(got, want) {
			t.Errorf("got\n%v\nwant\n%v", got, want)
		}
	}
	if got, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: got %v %v", got, err)
	}
	// A check that cannot be read is refused by a whole answer and logged.
	out := new(auth.CheckResponse)
	err = conn.Invoke(context.Background(), auth.Authorization_Check_FullMethodName, wireAnswer{&[]byte{0xff}, &answers{}}, out, grpc.ForceCodecV2(codec{encoding.GetCodecV2("proto")}))
	if err != nil || out.GetDeniedResponse().GetStatus().GetCode() != 503 || !strings.Contains(out.GetDeniedResponse().GetBody(), MalformedCheck) {
		t.Errorf("got %v %v", out, err)
	}
	if !strings.Contains(log.String(), "reading the check") {
		t.Errorf("got log %s", log.String())
	}
}
