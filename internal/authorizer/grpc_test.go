package authorizer

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func socket(addr string, port uint32) *auth.AttributeContext_Peer {
	return &auth.AttributeContext_Peer{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: addr, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port},
	}}}}
}

// check is what Envoy sends.
func check(source string, door uint32, method, host, path string, headers map[string]string) *auth.CheckRequest {
	h := map[string]string{":authority": host, ":path": path, ":method": method}
	for k, v := range headers {
		h[k] = v
	}
	return &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source: socket(source, 40000), Destination: socket("10.244.0.20", door),
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: method, Host: host, Path: path, Headers: h}},
	}}
}

func TestRequestOf(t *testing.T) {
	in := check("::ffff:10.0.0.1", 8081, "POST", "a.b", "/p?q=1?2", map[string]string{"X-A": "1"})
	in.Attributes.Request.Http.HeaderMap = &core.HeaderMap{Headers: []*core.HeaderValue{{Key: "x-b", RawValue: []byte("2")}, {Key: "X-B", Value: "3"}}}
	meta, err := structpb.NewStruct(map[string]any{"config": "/apis/x"})
	if err != nil {
		t.Fatal(err)
	}
	in.Attributes.RouteMetadataContext = &core.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": meta}}
	r := RequestOf(in)
	if r.Source.String() != "10.0.0.1" || r.Door != 8081 || r.Method != "POST" || r.Host != "a.b" || r.Path != "/p" || r.Query != "?q=1?2" || r.RouteVirtualService != "/apis/x" {
		t.Errorf("got %+v", r)
	}
	if !slices.Equal(r.Headers["x-a"], []string{"1"}) || !slices.Equal(r.Headers["x-b"], []string{"2", "3"}) {
		t.Errorf("got headers %v", r.Headers)
	}
	f := newFixture(t, testConfig())
	for _, in := range []*auth.CheckRequest{nil, {}, {Attributes: &auth.AttributeContext{}}, check("", 8081, "GET", openIn, "/", nil), check("pipe", 8081, "GET", openIn, "/", nil), check(podAddr, 8081+65536, "GET", openIn, "/", nil)} {
		out := Response(f.decide(t, RequestOf(in)))
		if out.GetStatus().GetCode() == int32(codes.OK) || out.GetDeniedResponse() == nil {
			t.Errorf("%v: got %v", in, out)
		}
	}
}

// TestZeroVerdict: Envoy takes an empty answer for a yes.
func TestZeroVerdict(t *testing.T) {
	for _, v := range []Verdict{{}, {Status: 200}, {Reason: Allowed}, {Status: 99}, {Status: 100000}, {Status: 401}} {
		out := Response(v)
		if out.Status == nil || out.Status.Code == 0 || out.GetOkResponse() != nil || out.GetDeniedResponse().GetStatus().GetCode() < 200 {
			t.Errorf("%+v: got %v", v, out)
		}
		if _, err := proto.Marshal(out); err != nil {
			t.Error(err)
		}
	}
	out := Response(Verdict{Status: 302, Body: []byte("\xff"), Headers: []Header{{"a", "\xff"}}})
	if _, err := proto.Marshal(out); err != nil {
		t.Errorf("a login's page that is no UTF-8: %v", err)
	}
}

func TestCheckOverGRPC(t *testing.T) {
	f := newFixture(t, testConfig())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	auth.RegisterAuthorizationServer(srv, Server{Authorizer: f.Authorizer})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() {
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := auth.NewAuthorizationClient(conn)

	out, err := client.Check(t.Context(), check(podAddr, 8081, "POST", openIn, predictPath, map[string]string{"kubeflow-userid": "eve", "cookie": "a=1,authservice_session=old"}))
	if err != nil {
		t.Fatal(err)
	}
	ok := out.GetOkResponse()
	if out.GetStatus().GetCode() != 0 || ok == nil || !slices.Contains(ok.HeadersToRemove, "kubeflow-userid") {
		t.Fatalf("got %v", out)
	}
	set := map[string]string{}
	for _, h := range ok.Headers {
		set[h.Header.Key] = h.Header.Value
		if h.AppendAction != core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Errorf("%s is appended", h.Header.Key)
		}
	}
	if set["x-postern-caller"] != "postern:pod:default:default" || set["cookie"] != "a=1" || set["x-postern-passport"] == "" {
		t.Errorf("got %v", set)
	}
	said := out.GetDynamicMetadata().GetFields()["postern"].GetStructValue().AsMap()
	for name, want := range map[string]any{"verdict": "allow", "reason": Allowed, "caller": "postern:pod:default:default", "resource": "models/inferenceservices/open"} {
		if said[name] != want {
			t.Errorf("metadata %s: got %v, want %v", name, said[name], want)
		}
	}

	out, err = client.Check(t.Context(), check(outside, 8080, "POST", openOut, predictPath, nil))
	if err != nil || out.GetStatus().GetCode() != int32(codes.Unauthenticated) || out.GetDeniedResponse().GetStatus().GetCode() != http.StatusUnauthorized || !strings.Contains(out.GetDeniedResponse().GetBody(), CredentialRequired) {
		t.Errorf("got %v %v", out, err)
	}
	out, err = client.Check(t.Context(), check(outside, 8080, "GET", dashboard, "/", nil))
	if err != nil || out.GetDeniedResponse().GetStatus().GetCode() != http.StatusFound {
		t.Fatalf("got %v %v", out, err)
	}
	var cookies []string
	for _, h := range out.GetDeniedResponse().GetHeaders() {
		if h.Header.Key == "set-cookie" {
			cookies = append(cookies, h.Header.Value)
		}
	}
	if !slices.Equal(cookies, []string{"oidc_state_csrf=1", "b=2"}) {
		t.Errorf("got cookies %v", cookies)
	}
	if _, err := (Server{}).Check(t.Context(), nil); err != nil {
		t.Errorf("a Server without an Authorizer: got an error, which leaves only the gateway's statusOnError: %v", err)
	}
}

// FuzzCheck: whatever arrives as a check, the answer is a whole one.
func FuzzCheck(f *testing.F) {
	fx := newFixture(f, testConfig())
	for _, in := range []*auth.CheckRequest{check(podAddr, 8081, "POST", openIn, predictPath, nil), check(outside, 8080, "GET", dashboard, "/", nil)} {
		b, err := proto.Marshal(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := new(auth.CheckRequest)
		if proto.Unmarshal(b, in) != nil {
			return
		}
		out, err := Server{Authorizer: fx.Authorizer}.Check(t.Context(), in)
		if err != nil || out.GetStatus() == nil || (out.GetStatus().GetCode() == 0) != (out.GetOkResponse() != nil) {
			t.Fatalf("got %v %v", out, err)
		}
		if _, err := proto.Marshal(out); err != nil {
			t.Fatal(err)
		}
	})
}
