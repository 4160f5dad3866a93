package envoy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// compile makes a proxy of one virtual host with the given routes (JSON) and, in
// front of the router, the given filters.
func compile(t *testing.T, routes string, filters ...string) *Proxy {
	t.Helper()
	return compileManager(t, "", routes, filters...)
}

// compileManager is compile with more fields of the connection manager, each with a
// comma behind it.
func compileManager(t *testing.T, manager, routes string, filters ...string) *Proxy {
	t.Helper()
	for field, value := range map[string]string{"useRemoteAddress": "true", "normalizePath": "true"} {
		if !strings.Contains(manager, `"`+field+`"`) {
			manager += `"` + field + `":` + value + `,`
		}
	}
	filters = append(filters, `{"name":"envoy.filters.http.router","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}`)
	listener := fmt.Sprintf(`{"name":"l","address":{"socketAddress":{"address":"0.0.0.0","portValue":8080}},"filterChains":[{"filters":[{"name":"hcm","typedConfig":{
	 "@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","statPrefix":"x","serverName":"istio-envoy",%s
	 "upgradeConfigs":[{"upgradeType":"websocket"}],"routeConfig":{"name":"r","validateClusters":false,"ignorePortInHostMatching":true,"virtualHosts":[{"name":"all","domains":["*"],"routes":[%s]}]},
	 "httpFilters":[%s]}}]}]}`, manager, routes, strings.Join(filters, ","))
	r, err := ParseResources([]json.RawMessage{json.RawMessage(listener)}, nil, []json.RawMessage{json.RawMessage(`{"name":"up"}`), json.RawMessage(`{"name":"other"}`)})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const catchAll = `{"match":{"prefix":"/"},"route":{"cluster":"up","timeout":"0s"}}`

func get(path string) Request {
	return Request{Source: netip.MustParseAddrPort("10.0.0.9:1"), Destination: netip.MustParseAddrPort("10.0.0.1:8080"), Protocol: "HTTP/1.1", Method: "GET", Authority: "a", Path: path}
}

func ask(p *Proxy, method, authority, path string, headers ...string) Outcome {
	req := Request{Source: netip.MustParseAddrPort("10.0.0.9:1"), Destination: netip.MustParseAddrPort("10.0.0.1:8080"), Protocol: "HTTP/1.1", Method: method, Authority: authority, Path: path}
	for i := 0; i < len(headers); i += 2 {
		req.Headers.Add(headers[i], headers[i+1])
	}
	return p.Evaluate(req, Env{RequestID: "id"}, nil)
}

// What the connection manager does to headers, each seen with Envoy 1.40
// (e2e/conformance found them).
func TestHeadersAsEnvoyPassesThemOn(t *testing.T) {
	p := compile(t, catchAll)
	for _, test := range []struct {
		name    string
		headers []string
		header  string
		want    string // "-" for none
	}{
		{"x-forwarded-for is appended to", []string{"x-forwarded-for", "1.2.3.4"}, "x-forwarded-for", "1.2.3.4,10.0.0.9"},
		{"x-forwarded-proto is ours", []string{"x-forwarded-proto", "https"}, "x-forwarded-proto", "http"},
		{"an internal header from outside goes", []string{"x-envoy-retry-on", "5xx"}, "x-envoy-retry-on", "-"},
		{"so does x-envoy-original-host", []string{"x-envoy-original-host", "a"}, "x-envoy-original-host", "-"},
		{"x-envoy-peer-metadata stays", []string{"x-envoy-peer-metadata", "a"}, "x-envoy-peer-metadata", "a"},
		{"what Connection names goes", []string{"connection", "x-foo, close", "x-foo", "1"}, "x-foo", "-"},
		{"te keeps trailers only", []string{"te", "gzip, trailers"}, "te", "trailers"},
		{"te without trailers goes", []string{"te", "gzip"}, "te", "-"},
		{"expect other than 100-continue stays", []string{"expect", "a"}, "expect", "a"},
		{"an empty inline header leaves no comma", []string{"x-forwarded-host", "", "x-forwarded-host", "b"}, "x-forwarded-host", "b"},
		{"repeated inline headers are one", []string{"authorization", "a", "authorization", "b"}, "authorization", "a,b"},
		{"a client certificate header goes", []string{"x-forwarded-client-cert", "By=a"}, "x-forwarded-client-cert", "-"},
	} {
		o := ask(p, "GET", "a", "/", test.headers...)
		got, ok := o.Request.Headers.Get(test.header)
		if !ok {
			got = "-"
		}
		if o.Kind != Forward || got != test.want {
			t.Errorf("%s: got %s %q, want %q", test.name, o.Kind, got, test.want)
		}
	}
	if o := ask(p, "GET", "a", "/", "x-two", "1", "x-two", "2"); len(o.Request.Headers) < 2 {
		t.Errorf("repeated headers of another name stay apart: got %v", o.Request.Headers)
	}
}

// A value match holds for any one value, an inverted one for none; an absent
// header fails both. Routes and RBAC alike (Envoy 1.40).
func TestHeaderMatchers(t *testing.T) {
	cases := []struct {
		name, matcher string
		values        []string
		want          bool
	}{
		{"one of two", `{"stringMatch":{"exact":"a"}}`, []string{"b", "a"}, true},
		{"joined is no value", `{"stringMatch":{"exact":"a"}}`, []string{"a,b"}, false},
		{"no value", `{"stringMatch":{"exact":"a"}}`, nil, false},
		{"inverted, one of two", `{"stringMatch":{"exact":"a"},"invertMatch":true}`, []string{"b", "a"}, false},
		{"inverted, none of two", `{"stringMatch":{"exact":"a"},"invertMatch":true}`, []string{"b", "c"}, true},
		{"inverted, absent", `{"stringMatch":{"exact":"a"},"invertMatch":true}`, nil, false},
		{"inverted, absent as empty", `{"stringMatch":{"exact":"a"},"invertMatch":true,"treatMissingHeaderAsEmpty":true}`, nil, true},
		{"empty, absent as empty", `{"stringMatch":{"exact":""},"treatMissingHeaderAsEmpty":true}`, nil, true},
		{"present", `{"presentMatch":true}`, []string{""}, true},
		{"not present", `{"presentMatch":false}`, nil, true},
		{"not present, inverted", `{"presentMatch":true,"invertMatch":true}`, nil, true},
		{"present, absent as empty", `{"presentMatch":true,"treatMissingHeaderAsEmpty":true}`, nil, true},
		{"regex is whole", `{"safeRegexMatch":{"regex":"a"}}`, []string{"ab"}, false},
		{"a regex reads bytes: no Kelvin sign is a k", `{"safeRegexMatch":{"regex":"(?i)k"}}`, []string{"\u212a"}, false},
		{"a regex reads bytes: an e with an accent is two", `{"safeRegexMatch":{"regex":"a..b"}}`, []string{"a\u00e9b"}, true},
		{"letters beyond ASCII have no case", `{"stringMatch":{"exact":"\u00c9","ignoreCase":true}}`, []string{"\u00e9"}, false},
		{"prefix of any", `{"stringMatch":{"prefix":"b"}}`, []string{"a", "bc"}, true},
	}
	for _, test := range cases {
		matcher := `{"name":"x",` + test.matcher[1:]
		var headers []string
		for _, v := range test.values {
			headers = append(headers, "x", v)
		}
		route := compile(t, `{"match":{"prefix":"/","headers":[`+matcher+`]},"route":{"cluster":"up","timeout":"0s"}}`)
		if got := ask(route, "GET", "a", "/", headers...).Kind == Forward; got != test.want {
			t.Errorf("%s: the route matches: %t, want %t", test.name, got, test.want)
		}
		rbac := compile(t, catchAll, `{"name":"envoy.filters.http.rbac","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC","rules":{"policies":{"p":{"permissions":[{"header":`+matcher+`}],"principals":[{"any":true}]}}}}}`)
		if got := ask(rbac, "GET", "a", "/", headers...).Kind == Forward; got != test.want {
			t.Errorf("%s: the policy matches: %t, want %t", test.name, got, test.want)
		}
	}
}

func TestLocalReplies(t *testing.T) {
	p := compile(t, `{"match":{"prefix":"/known"},"route":{"cluster":"up","timeout":"0s"}},{"match":{"prefix":"/gone"},"route":{"cluster":"nowhere"}}`)
	for _, test := range []struct {
		name, method, host, path string
		headers                  []string
		status                   int
		body                     string
	}{
		{"no route", "GET", "a", "/x", nil, 404, ""},
		{"no cluster", "GET", "a", "/gone", nil, 503, ""},
		{"a bad host", "GET", "a/b", "/known", nil, 400, "Bad Request"},
		{"a space in the path", "GET", "a", "/kno wn", nil, 400, "Bad Request"},
		{"no slash", "GET", "a", "known", nil, 400, "Bad Request"},
		{"an escaped NUL", "GET", "a", "/known%00", nil, 400, ""},
		{"an upgrade that is not allowed", "GET", "a", "/known", []string{"connection", "upgrade", "upgrade", "foo"}, 403, ""},
		{"to gRPC", "POST", "a", "/x", []string{"content-type", "application/grpc+proto"}, 200, ""},
	} {
		o := ask(p, test.method, test.host, test.path, test.headers...)
		if o.Kind != Local || o.Status != test.status || o.Body != test.body {
			t.Errorf("%s: got %s %d %q (%s), want %d %q", test.name, o.Kind, o.Status, o.Body, o.Reason, test.status, test.body)
		}
	}
	o := ask(p, "POST", "a", "/x", "content-type", "application/grpc")
	if s, _ := o.Headers.Get("grpc-status"); s != "12" {
		t.Errorf("404 to gRPC: got grpc-status %q, want 12 (UNIMPLEMENTED)", s)
	}
}

func TestRewrites(t *testing.T) {
	p := compile(t, `{"match":{"prefix":"/jupyter/"},"route":{"cluster":"up","prefixRewrite":"/","hostRewriteLiteral":"b","timeout":"5s","maxGrpcTimeout":"5s"}}`)
	o := ask(p, "POST", "a", "/jupyter/x?y=/jupyter/", "content-type", "application/grpc")
	want := map[string]string{"x-envoy-original-path": "/jupyter/x?y=/jupyter/", "x-envoy-original-host": "a", "x-envoy-expected-rq-timeout-ms": "5000", "grpc-timeout": "5000m"}
	if o.Request.Path != "/x?y=/jupyter/" || o.Request.Authority != "b" {
		t.Errorf("got %s %s", o.Request.Authority, o.Request.Path)
	}
	for name, value := range want {
		if got, _ := o.Request.Headers.Get(name); got != value {
			t.Errorf("%s: got %q, want %q", name, got, value)
		}
	}
}

// What is not modelled makes the answer unknown with its name, unless the rest
// decides.
func TestUnknown(t *testing.T) {
	wasm := `{"name":"my.wasm","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"}}`
	deny := `{"name":"envoy.filters.http.rbac","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC","rules":{}}}`
	lua := `{"name":"envoy.filters.http.lua","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua","inlineCode":"function envoy_on_request(h) end"}}`
	for _, test := range []struct {
		name    string
		routes  string
		filters []string
		want    Kind
		reason  string
	}{
		{"a filter", catchAll, []string{wasm}, Unknown, "my.wasm"},
		{"behind a refusal it does not matter", catchAll, []string{deny, wasm}, Local, ""},
		{"a script of nobody's", catchAll, []string{lua}, Unknown, "envoy.filters.http.lua"},
		{"a route's field", `{"match":{"prefix":"/"},"route":{"cluster":"up","hashPolicy":[{"cookie":{"name":"a","ttl":"1s"}}]}}`, nil, Unknown, "RouteAction.hash_policy"},
		{"a matcher's field", `{"match":{"prefix":"/","grpc":{}},"route":{"cluster":"up"}}`, nil, Unknown, "RouteMatch.grpc"},
		{"a matcher's field on another path", `{"match":{"prefix":"/other","grpc":{}},"route":{"cluster":"up"}},` + catchAll, nil, Forward, ""},
		{"an authorizer nobody answers for", catchAll, []string{`{"name":"envoy.filters.http.ext_authz","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz","grpcService":{"envoyGrpc":{"clusterName":"up"}}}}`}, Unknown, "authorizer up"},
	} {
		o := ask(compile(t, test.routes, test.filters...), "GET", "a", "/")
		if o.Kind != test.want || !strings.Contains(o.Reason, test.reason) {
			t.Errorf("%s: got %s %q, want %s naming %q", test.name, o.Kind, o.Reason, test.want, test.reason)
		}
	}
}

// The zero value of an outcome is no answer.
func TestZeroOutcomeIsUnknown(t *testing.T) {
	if (Outcome{}).Kind != Unknown {
		t.Error("the zero Outcome says something")
	}
}

// What an allowing authorizer adds to the response replaces the upstream's header
// or stands beside it, as its append_action says.
func TestResponseHeadersOfAnAllowingAuthorizer(t *testing.T) {
	p := compile(t, catchAll, `{"name":"envoy.filters.http.ext_authz","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz","grpcService":{"envoyGrpc":{"clusterName":"up"}}}}`)
	option := func(name string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: "1"}, AppendAction: action}
	}
	env := Env{RequestID: "id", Authorize: func(Check) Answer {
		return Answer{GRPC: &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{ResponseHeadersToAdd: []*corev3.HeaderValueOption{
			option("X-Set", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD), option("X-Add", corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD),
		}}}}}
	}}
	req := Request{Source: netip.MustParseAddrPort("10.0.0.9:1"), Destination: netip.MustParseAddrPort("10.0.0.1:8080"), Protocol: "HTTP/1.1", Method: "GET", Authority: "a", Path: "/"}
	o := p.Evaluate(req, env, nil)
	if o.Kind != Forward || len(o.Response) != 2 || o.Response[0] != (HeaderOp{Action: AddHeader, Name: "x-add", Value: "1"}) || o.Response[1] != (HeaderOp{Action: SetHeader, Name: "x-set", Value: "1"}) {
		t.Errorf("got %s %+v", o.Kind, o.Response)
	}
}

// TestDisallowedHeaders: what a check does not carry, whatever else is allowed
// (CheckRequestUtils::setHttpRequest; seen with Envoy 1.40 in e2e/kubeflow).
func TestDisallowedHeaders(t *testing.T) {
	const filter = `{"name":"a","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz","grpcService":{"envoyGrpc":{"clusterName":"up"}},"disallowedHeaders":{"patterns":[{"exact":"user-agent"}]}%s}}`
	for _, tt := range []struct {
		more           string
		other, dropped bool
	}{
		{"", true, false},
		{`,"allowedHeaders":{"patterns":[{"exact":"user-agent"}]}`, false, false},
	} {
		p := compile(t, catchAll, fmt.Sprintf(filter, tt.more))
		var seen map[string]string
		req := Request{Source: netip.MustParseAddrPort("10.0.0.9:1"), Destination: netip.MustParseAddrPort("10.0.0.1:8080"), Protocol: "HTTP/1.1", Method: "GET", Authority: "a", Path: "/"}
		req.Headers.Add("user-agent", "x")
		req.Headers.Add("x-other", "y")
		p.Evaluate(req, Env{RequestID: "id", Authorize: func(a Check) Answer {
			seen = a.GRPC.GetAttributes().GetRequest().GetHttp().GetHeaders()
			return Answer{GRPC: &authv3.CheckResponse{}}
		}}, nil)
		_, other := seen["x-other"]
		_, dropped := seen["user-agent"]
		if other != tt.other || dropped != tt.dropped {
			t.Errorf("%s: the check carries %v", tt.more, seen)
		}
	}
}
