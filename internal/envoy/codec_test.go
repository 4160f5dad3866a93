package envoy

import (
	"net/netip"
	"testing"
)

// What the codecs and the connection manager do with the form of a request, each
// seen with Envoy 1.40 (e2e/conformance).
func TestCodecs(t *testing.T) {
	p := compile(t, `{"match":{"prefix":"/known"},"route":{"cluster":"up","timeout":"0s"}}`)
	type forwarded struct{ authority, path, header, value string }
	for _, test := range []struct {
		name   string
		req    Request
		status int // 0: the connection ends; -1: forwarded
		body   string
		want   forwarded
	}{
		{"CONNECT without a port", Request{Method: "CONNECT", Path: "a", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"CONNECT with one has no route", Request{Method: "CONNECT", Path: "a:443", Authority: "a"}, 404, "", forwarded{}},
		{"CONNECT of a path", Request{Method: "CONNECT", Path: "/known", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"CONNECT is never gRPC", Request{Method: "CONNECT", Path: "a:443", Authority: "a", Headers: Headers{{"content-type", "application/grpc"}}}, 404, "", forwarded{}},
		{"HTTP/1.0", Request{Protocol: "HTTP/1.0", Path: "/known", Authority: "a"}, 426, "Upgrade Required", forwarded{}},
		{"HTTP/1.0 with a bad host", Request{Protocol: "HTTP/1.0", Path: "/known", Authority: "a b"}, 426, "Upgrade Required", forwarded{}},
		{"CONNECT with an underscore", Request{Method: "CONNECT", Path: "a_b:443", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"no Host", Request{Path: "/known"}, 400, "", forwarded{}},
		{"no Host, gRPC", Request{Path: "/known", Headers: Headers{{"content-type", "application/grpc"}}}, 200, "", forwarded{}},
		{"two Hosts are one", Request{Path: "/known", Authority: "a", Headers: Headers{{"host", "b"}}}, -1, "", forwarded{authority: "a,b", path: "/known"}},
		{"an absolute target says the host", Request{Path: "http://u:p@b:80/known", Authority: "a"}, -1, "", forwarded{authority: "b:80", path: "/known"}},
		{"without its user, also an empty one", Request{Path: "http://@b/known", Authority: "a"}, -1, "", forwarded{authority: "b", path: "/known"}},
		{"two users", Request{Path: "http://u@v@b/known", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"a user in brackets", Request{Path: "http://[u]@b/known", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"CONNECT with a user", Request{Method: "CONNECT", Path: "u@a:443", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"CONNECT with an empty one", Request{Method: "CONNECT", Path: "@a:443", Authority: "a"}, 404, "", forwarded{}},
		{"its scheme may be in capitals", Request{Path: "HTTP://b/known", Authority: "a"}, -1, "", forwarded{authority: "b", path: "/known"}},
		{"https in plain text", Request{Path: "https://b/known", Authority: "a"}, 403, "Forbidden", forwarded{}},
		{"another scheme", Request{Path: "ws://b/known", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"a port beyond 65535", Request{Path: "http://b:65536/known", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"a path without a slash", Request{Path: "known", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"GET *", Request{Path: "*", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"OPTIONS *", Request{Method: "OPTIONS", Path: "*", Authority: "a"}, 404, "", forwarded{}},
		{"an unknown method", Request{Method: "X-OTHER", Path: "/known", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"an upgrade that is not allowed, on a route", Request{Path: "/known", Authority: "a", Headers: Headers{{"connection", "keep-alive, Upgrade"}, {"upgrade", ""}}}, 403, "", forwarded{}},
		{"the same without a route", Request{Path: "/x", Authority: "a", Headers: Headers{{"connection", "Upgrade"}, {"upgrade", "other"}}}, 404, "", forwarded{}},
		{"an upgrade keeps te", Request{Path: "/known", Authority: "a", Headers: Headers{{"connection", "Upgrade"}, {"upgrade", "WebSocket"}, {"te", "gzip"}}}, -1, "", forwarded{"a", "/known", "te", "gzip"}},

		{"HTTP/2 joins cookies", Request{Protocol: "HTTP/2", Scheme: "http", Path: "/known", Authority: "a", Headers: Headers{{"cookie", "a=1"}, {"cookie", "b=2"}}}, -1, "", forwarded{"a", "/known", "cookie", "a=1; b=2"}},
		{"HTTP/2 leaves Host out", Request{Protocol: "HTTP/2", Scheme: "http", Path: "/known", Authority: "a", Headers: Headers{{"host", "b"}}}, -1, "", forwarded{authority: "a", path: "/known"}},
		{"HTTP/2 takes UTF-8 in a path", Request{Protocol: "HTTP/2", Scheme: "http", Path: "/known\u00e9", Authority: "a"}, -1, "", forwarded{authority: "a", path: "/known%C3%A9"}},
		{"and bytes that are none", Request{Protocol: "HTTP/2", Scheme: "http", Path: "/known\xc0\xaf", Authority: "a"}, -1, "", forwarded{authority: "a", path: "/known%C0%AF"}},
		{"HTTP/1.1 takes neither", Request{Path: "/known\xa9", Authority: "a"}, 400, "Bad Request", forwarded{}},
		{"HTTP/2 without :authority", Request{Protocol: "HTTP/2", Scheme: "http", Path: "/known"}, 0, "", forwarded{}},
		{"HTTP/2 with a user", Request{Protocol: "HTTP/2", Scheme: "http", Path: "/known", Authority: "u@a"}, 0, "", forwarded{}},
		{"HTTP/2 with a user in a Host that does not count", Request{Protocol: "HTTP/2", Scheme: "http", Path: "/known", Authority: "a", Headers: Headers{{"host", "u@a"}}}, 0, "", forwarded{}},
		{"HTTP/2 without a scheme", Request{Protocol: "HTTP/2", Path: "/known", Authority: "a"}, 0, "", forwarded{}},
		{"HTTP/2 with Connection", Request{Protocol: "HTTP/2", Scheme: "http", Path: "/known", Authority: "a", Headers: Headers{{"connection", "x"}}}, 0, "", forwarded{}},
		{"HTTP/2 with te: gzip", Request{Protocol: "HTTP/2", Scheme: "http", Path: "/known", Authority: "a", Headers: Headers{{"te", "gzip"}}}, 0, "", forwarded{}},
		{"HTTP/2 with a name in capitals", Request{Protocol: "HTTP/2", Scheme: "http", Path: "/known", Authority: "a", Headers: Headers{{"X-Foo", "1"}}}, 0, "", forwarded{}},
		{"HTTP/2 with a method that is no token", Request{Protocol: "HTTP/2", Scheme: "http", Method: "G,T", Path: "/known", Authority: "a"}, 0, "", forwarded{}},
		{"HTTP/2 with an absolute path", Request{Protocol: "HTTP/2", Scheme: "http", Path: "http://a/known", Authority: "a"}, 0, "", forwarded{}},
		{"of another scheme", Request{Protocol: "HTTP/2", Scheme: "ftp", Path: "http://a/known", Authority: "a"}, 404, "", forwarded{}},
	} {
		req := test.req
		req.Source, req.Destination = netip.MustParseAddrPort("10.0.0.9:1"), netip.MustParseAddrPort("10.0.0.1:8080")
		if req.Protocol == "" {
			req.Protocol = "HTTP/1.1"
		}
		if req.Method == "" {
			req.Method = "GET"
		}
		o := p.Evaluate(req, Env{}, nil)
		if test.status >= 0 {
			if o.Kind != Local || o.Status != test.status || o.Body != test.body {
				t.Errorf("%s: got %s %d %q (%s), want %d %q", test.name, o.Kind, o.Status, o.Body, o.Reason, test.status, test.body)
			}
			continue
		}
		value, _ := o.Request.Headers.Get(test.want.header)
		if o.Kind != Forward || o.Request.Authority != test.want.authority || o.Request.Path != test.want.path || value != test.want.value {
			t.Errorf("%s: got %s (%s) %s %s %q, want %+v", test.name, o.Kind, o.Reason, o.Request.Authority, o.Request.Path, value, test.want)
		}
	}
	empty := p.Evaluate(Request{Source: netip.MustParseAddrPort("10.0.0.9:1"), Destination: netip.MustParseAddrPort("10.0.0.1:8080"), Protocol: "HTTP/2", Scheme: "http", Method: "GET", Authority: "a", Path: "/x"}, Env{}, nil)
	if _, ok := empty.Headers.Get("content-length"); ok || empty.Status != 404 {
		t.Errorf("an empty answer over HTTP/2: got %d %v, want 404 without content-length", empty.Status, empty.Headers)
	}
}

// A gRPC request's own time-out counts up to the route's maximum
// (Router::FilterUtility::finalTimeout, Grpc::Common).
func TestGRPCTimeouts(t *testing.T) {
	for _, test := range []struct{ name, action, asked, expected, told string }{
		{"shorter than the maximum", `"timeout":"5s","maxGrpcTimeout":"5s"`, "100m", "100", "100m"},
		{"longer", `"timeout":"5s","maxGrpcTimeout":"5s"`, "1H", "5000", "5000m"},
		{"none", `"timeout":"5s","maxGrpcTimeout":"5s"`, "", "5000", "5000m"},
		{"malformed", `"timeout":"5s","maxGrpcTimeout":"5s"`, "x", "5000", "5000m"},
		{"without a maximum", `"timeout":"0s","maxGrpcTimeout":"0s"`, "200H", "720000000", "720000S"},
		{"not looked at", `"timeout":"5s"`, "1S", "5000", "1S"},
		{"per attempt", `"timeout":"5s","maxGrpcTimeout":"5s","retryPolicy":{"perTryTimeout":"2s"}`, "", "2000", "2000m"},
		{"a stream's duration", `"timeout":"5s","maxStreamDuration":{"maxStreamDuration":"9s"}`, "1S", "", "1S"},
	} {
		p := compile(t, `{"match":{"prefix":"/"},"route":{"cluster":"up",`+test.action+`}}`)
		headers := []string{"content-type", "application/grpc"}
		if test.asked != "" {
			headers = append(headers, "grpc-timeout", test.asked)
		}
		o := ask(p, "POST", "a", "/", headers...)
		expected, _ := o.Request.Headers.Get("x-envoy-expected-rq-timeout-ms")
		told, _ := o.Request.Headers.Get("grpc-timeout")
		if expected != test.expected || told != test.told {
			t.Errorf("%s: got %q and %q, want %q and %q", test.name, expected, told, test.expected, test.told)
		}
	}
}
