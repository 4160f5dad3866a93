package envoy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What Envoy 1.40 does with header options, rewrites and the like, each seen with it
// (e2e/conformance/options_test.go asks it again).

// optionOf is a HeaderValueOption with more fields, each with a comma before it.
func optionOf(name, value, more string) string {
	return `{"header":{"key":"` + name + `","value":"` + value + `"}` + more + `}`
}

func TestHeaderOptions(t *testing.T) {
	const set, ifThere, ifAbsent, keep = `,"appendAction":"OVERWRITE_IF_EXISTS_OR_ADD"`, `,"appendAction":"OVERWRITE_IF_EXISTS"`, `,"appendAction":"ADD_IF_ABSENT"`, `,"keepEmptyValue":true`
	for _, tt := range []struct {
		name    string
		options []string
		there   string // what x-r is with "old" before
		absent  string // and without; "-" for none
		filter  string // of these, where header_mutation differs: it does one after the other
	}{
		{"an empty value changes nothing", []string{optionOf("x-r", "", set)}, "old", "-", ""},
		{"also in the old form", []string{optionOf("x-r", "", `,"append":false`)}, "old", "-", ""},
		{"nor where it is added", []string{optionOf("x-r", "", "")}, "old", "-", ""},
		{"unless it is kept", []string{optionOf("x-r", "", set+keep)}, "", "", ""},
		{"kept beside another", []string{optionOf("x-r", "", keep)}, "old,", "", ""},
		{"raw_value counts for nothing", []string{`{"header":{"key":"x-r","rawValue":"YQ=="},"appendAction":"OVERWRITE_IF_EXISTS_OR_ADD"}`}, "old", "-", ""},
		{"what is overwritten goes first", []string{optionOf("x-r", "1", ""), optionOf("x-r", "2", set)}, "2,1", "2,1", "2 2"},
		{"what is there is looked up before", []string{optionOf("x-r", "1", set), optionOf("x-r", "2", ifThere)}, "2", "1", "2 2"},
		{"also for what is added", []string{optionOf("x-r", "1", set), optionOf("x-r", "2", ifAbsent)}, "1", "1,2", "1 1"},
		{"and added before", []string{optionOf("x-r", "1", ""), optionOf("x-r", "2", ifAbsent)}, "old,1", "1,2", "old,1 1"},
	} {
		list := strings.Join(tt.options, ",")
		mutations := `[{"append":` + strings.Join(tt.options, `},{"append":`) + `}]`
		p := compile(t, `{"match":{"path":"/route"},"route":{"cluster":"up"},"requestHeadersToAdd":[`+list+`],"responseHeadersToAdd":[`+list+`]},{"match":{"path":"/direct"},"directResponse":{"status":200},"responseHeadersToAdd":[`+list+`]},
		 {"match":{"path":"/filter"},"route":{"cluster":"up"},"typedPerFilterConfig":{"m":{`+filterType+`header_mutation.v3.HeaderMutationPerRoute","mutations":{"requestMutations":`+mutations+`,"responseMutations":`+mutations+`}}}}`,
			`{"name":"m","typedConfig":{`+filterType+`header_mutation.v3.HeaderMutation"}}`)
		for path, want := range map[string]string{"/route": tt.there + " " + tt.absent, "/filter": tt.filter, "/direct": tt.absent + " " + tt.absent} {
			if want == "" {
				want = tt.there + " " + tt.absent
			}
			var got [2]string
			for i, before := range []Headers{{{"x-r", "old"}}, nil} {
				req := get(path)
				req.Headers = before
				o := p.Evaluate(req, Env{}, nil)
				answer := o.Headers
				if o.Kind == Forward {
					answer = append(Headers(nil), before...)
					o.Response.Apply(&answer)
					if asked := valueOf(o.Request.Headers, "x-r"); asked != valueOf(answer, "x-r") {
						t.Errorf("%s, %s: got %q in the request and %q in the answer", tt.name, path, asked, valueOf(answer, "x-r"))
					}
				}
				got[i] = valueOf(answer, "x-r")
			}
			if strings.Join(got[:], " ") != want {
				t.Errorf("%s, %s: got %q, want %q", tt.name, path, got, want)
			}
		}
	}
}

// valueOf is a header's value, "-" for none.
func valueOf(h Headers, name string) string {
	if v, ok := h.Get(name); ok {
		return v
	}
	return "-"
}

func TestPathsRewritten(t *testing.T) {
	for _, tt := range []struct{ match, action, path, want string }{
		{`"prefix":"/v1"`, `"prefixRewrite":"/new"`, "/v1/m?q=/v1", "/new/m?q=/v1"},
		{`"safeRegex":{"regex":"/v[0-9].*"}`, `"prefixRewrite":"/new"`, "/v1/m?q=/v1", "/new?q=/v1"},
		{`"safeRegex":{"regex":"/v[0-9].*"}`, `"prefixRewrite":"/new"`, "/v1/m", "/new"},
		{`"prefix":"/v1"`, `"regexRewrite":{"pattern":{"regex":"v([0-9])"},"substitution":"w\\1"}`, "/v1/v2?v3", "/w1/w2?v3"},
		{`"prefix":"/v1"`, `"regexRewrite":{"pattern":{"regex":".*"},"substitution":""}`, "/v1?q", "/v1?q"}, // never empty
		{`"prefix":"/v1"`, `"regexRewrite":{"pattern":{"regex":"v([0-9])"},"substitution":"w\\2"}`, "/v1?q", "/v1?q"},
		{`"prefix":"/v1"`, `"regexRewrite":{"pattern":{"regex":"v([0-9])"},"substitution":"$1\\\\\\0\\ax\\1"}`, "/v1", `/$1\v1`},
		{`"prefix":"/v1"`, `"regexRewrite":{"pattern":{"regex":"/.\\z"},"substitution":"/x"}`, "/v1/\xe9", "/v1/x"}, // a byte, not a character
		{`"prefix":"/v1"`, `redirect "prefixRewrite":"/new"`, "/v1/m?q", "http://a/new/m?q"},
		{`"safeRegex":{"regex":"/v[0-9].*"}`, `redirect "prefixRewrite":"/new"`, "/v1/m?q", "http://a/new?q"},
		{`"prefix":"/v1"`, `redirect "prefixRewrite":"new"`, "/v1/m", "http://a/new/m"},
		{`"prefix":"/v1"`, `redirect "prefixRewrite":""`, "/v1/m", "http://a/v1/m"},
		{`"prefix":"/v1"`, `redirect "prefixRewrite":"/new?x=1"`, "/v1/m?q", "http://a/new?x=1/m?q"},
		{`"prefix":"/v1"`, `redirect "prefixRewrite":"/new?x=1","stripQuery":true`, "/v1/m?q", "http://a/new"},
		{`"prefix":"/v1"`, `redirect "pathRedirect":"new?x=1","stripQuery":true`, "/v1/m?q", "http://a/new?x=1"},
	} {
		action, redirect := strings.CutPrefix(tt.action, "redirect ")
		if redirect {
			action = `"redirect":{` + action + `}`
		} else {
			action = `"route":{"cluster":"up",` + action + `}`
		}
		p := compileManager(t, `"normalizePath":false,`, `{"match":{`+tt.match+`},`+action+`}`)
		req := get(tt.path)
		req.Protocol, req.Scheme = "HTTP/2", "http"
		o := p.Evaluate(req, Env{}, nil)
		got := o.Request.Path
		if redirect {
			got = headerOf(o.Headers, "location")
		}
		if o.Kind == Unknown || got != tt.want {
			t.Errorf("%s %s on %s: got %s %q (%s), want %q", tt.match, tt.action, tt.path, o.Kind, got, o.Reason, tt.want)
		}
	}
}

// What header options may not, a header_mutation may: take pseudo headers away.
func TestRemovedPseudoHeaders(t *testing.T) {
	mutate := func(names, more string) string {
		return `{"name":"m","typedConfig":{` + filterType + `header_mutation.v3.HeaderMutation","mutations":{"requestMutations":[{"remove":"` + names + `"}]` + more + `}}}`
	}
	const lua = `{"name":"lua","typedConfig":{` + filterType + `lua.v3.Lua","inlineCode":"function envoy_on_request(request_handle)\n  local host = request_handle:headers():get(\":authority\")\n  request_handle:headers():add(\"x-forwarded-host\", host)\nend\n"}}`
	rewritten := `{"match":{"prefix":"/"},"route":{"cluster":"up","prefixRewrite":"/x","hostRewriteLiteral":"b"}}`
	for _, tt := range []struct {
		name, route string
		filters     []string
		want        string
	}{
		{"the host", catchAll, []string{mutate(":authority", "")}, `forward "" /v1`},
		{"the same", catchAll, []string{mutate("Host", "")}, `forward "" /v1`},
		{"the path", catchAll, []string{mutate(":path", "")}, "local 503 missing required header: :path"},
		{"the method", catchAll, []string{mutate(`:path"},{"remove":":method`, "")}, "local 503 missing required header: :method"},
		{"the scheme", catchAll, []string{mutate(":scheme", "")}, `forward "a" /v1`},
		{"what is none", catchAll, []string{mutate(":protocol", "")}, `forward "a" /v1`},
		{"an answer's status", catchAll, []string{mutate("x", `,"responseMutations":[{"remove":":Status"}]`)}, "unknown"},
		{"before another filter", catchAll, []string{mutate(":path", ""), lua}, "unknown"},
		{"behind it", catchAll, []string{lua, mutate(":path", "")}, "local 503 missing required header: :path"},
		{"what is rewritten", rewritten, []string{mutate(":path", "")}, "unknown"},
		{"a rewritten host", rewritten, []string{mutate("host", "")}, "unknown"},
		{"before a redirect", `{"match":{"prefix":"/"},"redirect":{"pathRedirect":"/x"}}`, []string{mutate(":scheme", "")}, "unknown"},
		{"without a cluster", `{"match":{"prefix":"/"},"route":{"cluster":"nobody"}}`, []string{mutate(":path", "")}, "local 503 "},
	} {
		o := compile(t, tt.route, tt.filters...).Evaluate(get("/v1"), Env{}, nil)
		got := o.Kind.String()
		switch o.Kind {
		case Forward:
			got = fmt.Sprintf("%s %q %s", got, o.Request.Authority, o.Request.Path)
		case Local:
			got = fmt.Sprintf("%s %d %s", got, o.Status, o.Body)
		}
		if got != tt.want {
			t.Errorf("%s: got %s (%s), want %s", tt.name, got, o.Reason, tt.want)
		}
	}
}

func TestClusterNotFound(t *testing.T) {
	for code, want := range map[string]int{"SERVICE_UNAVAILABLE": 503, "NOT_FOUND": 404, "INTERNAL_SERVER_ERROR": 500} {
		p := compile(t, `{"match":{"prefix":"/"},"route":{"cluster":"nobody","clusterNotFoundResponseCode":"`+code+`"}}`)
		if o := p.Evaluate(get("/"), Env{}, nil); o.Kind != Local || o.Status != want {
			t.Errorf("%s: got %s %d, want %d", code, o.Kind, o.Status, want)
		}
	}
}

func TestHTTP10(t *testing.T) {
	for _, tt := range []struct {
		manager, protocol, host string
		status                  int // 0: forwarded
		want                    string
	}{
		{``, "HTTP/1.0", "a", 426, ""},
		{`"httpProtocolOptions":{"defaultHostForHttp10":"old"},`, "HTTP/1.0", "", 426, ""},
		{`"httpProtocolOptions":{"acceptHttp10":true},`, "HTTP/1.0", "a", 0, "a"},
		{`"httpProtocolOptions":{"acceptHttp10":true},`, "HTTP/1.0", "", 400, ""},
		{`"httpProtocolOptions":{"acceptHttp10":true,"defaultHostForHttp10":"old:80"},"stripAnyHostPort":true,`, "HTTP/1.0", "", 0, "old"},
		{`"httpProtocolOptions":{"acceptHttp10":true,"defaultHostForHttp10":"old"},`, "HTTP/1.0", "a", 0, "a"},
		{`"httpProtocolOptions":{"acceptHttp10":true,"defaultHostForHttp10":"old"},`, "HTTP/1.1", "", 400, ""},
	} {
		req := get("/")
		req.Protocol, req.Authority = tt.protocol, tt.host
		if o := compileManager(t, tt.manager, catchAll).Evaluate(req, Env{}, nil); o.Kind == Unknown || o.Status != tt.status || o.Request.Authority != tt.want {
			t.Errorf("%s %s of %q: got %s %d %q (%s), want %d %q", tt.manager, tt.protocol, tt.host, o.Kind, o.Status, o.Request.Authority, o.Reason, tt.status, tt.want)
		}
	}
}

// https in plain text is refused at the edge only.
func TestSchemes(t *testing.T) {
	for _, tt := range []struct {
		manager, target string
		status          int
	}{
		{``, "https://b/x", 403}, {``, "http://b/x", 0}, {``, "ws://b/x", 400},
		{`"xffNumTrustedHops":1,`, "https://b/x", 0}, {`"xffNumTrustedHops":1,`, "ws://b/x", 400},
		{`"useRemoteAddress":false,`, "https://b/x", 0},
	} {
		if o := compileManager(t, tt.manager, catchAll).Evaluate(get(tt.target), Env{}, nil); o.Kind == Unknown || o.Status != tt.status {
			t.Errorf("%s %s: got %s %d (%s), want %d", tt.manager, tt.target, o.Kind, o.Status, o.Reason, tt.status)
		}
	}
}

// A configuration that Envoy refuses is an error that names the place.
func TestRefusedConfigurations(t *testing.T) {
	mutation := func(m string) string {
		return `,"typedPerFilterConfig":{"m":{` + filterType + `header_mutation.v3.HeaderMutationPerRoute","mutations":{` + m + `}}}`
	}
	for _, tt := range []struct{ route, want string }{
		{`,"requestHeadersToAdd":[` + optionOf("hostname", "x", "") + `]`, ""},
		{`,"requestHeadersToAdd":[` + optionOf(":path", "/x", "") + `]`, "header :path"},
		{`,"requestHeadersToAdd":[` + optionOf("Host", "", "") + `]`, "header host"},
		{`,"responseHeadersToAdd":[` + optionOf(":status", "500", "") + `]`, "header :status"},
		{`,"requestHeadersToAdd":[` + optionOf("x", `a\nb`, "") + `]`, "HeaderValue.Value"},
		{`,"requestHeadersToAdd":[` + optionOf("x", "1", `,"append":false,"appendAction":"ADD_IF_ABSENT"`) + `]`, "append and append_action"},
		{`,"requestHeadersToAdd":[` + optionOf("x", "1", `,"append":true,"appendAction":"APPEND_IF_EXISTS_OR_ADD"`) + `]`, ""},
		{`,"requestHeadersToRemove":[":authority"]`, "header :authority"},
		{`,"responseHeadersToRemove":["HOST"]`, "header HOST"},
		{mutation(`"requestMutations":[{"append":` + optionOf(":method", "GET", "") + `}]`), "header :method"},
		{mutation(`"responseMutations":[{"append":` + optionOf("host", "a", "") + `}]`), "header host"},
		{mutation(`"requestMutations":[{"remove":":method"}]`), ""},
		{`},{"match":{"prefix":"/"},"route":{"cluster":"up","prefixRewrite":"/x","regexRewrite":{"pattern":{"regex":"x"},"substitution":"y"}}`, "prefix_rewrite beside"},
		{`},{"match":{"prefix":"/"},"route":{"prefixRewrite":"/x"}`, "ClusterSpecifier"},
	} {
		_, err := compileRoutesOf(t, `{"match":{"prefix":"/"},"route":{"cluster":"up"}`+tt.route+`}`)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.route, err, tt.want)
		}
	}
}

func compileRoutesOf(t *testing.T, routes string) (*routeTable, error) {
	t.Helper()
	r, err := ParseResources(nil, []json.RawMessage{json.RawMessage(`{"name":"r","virtualHosts":[{"name":"all","domains":["*"],"routes":[` + routes + `]}]}`)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return compileRoutes(r.Routes[0], nil)
}

// What an old proxy takes is read as the new form of the same.
func TestRewriteHosts(t *testing.T) {
	routes := `{"name":"r","virtualHosts":[{"name":"all","domains":["*"],"routes":[
	 {"match":{"path":"/one"},"route":{"cluster":"up"},"requestHeadersToAdd":[` + optionOf("x", "1", "") + `,` + optionOf("Host", "b", `,"append":false`) + `]},
	 {"match":{"path":"/two"},"route":{"weightedClusters":{"clusters":[{"name":"up","weight":1,"requestHeadersToAdd":[` + optionOf("host", "b", `,"append":false`) + `]}]}}}]}]}`
	r, err := ParseResources(nil, []json.RawMessage{json.RawMessage(routes)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := compileRoutes(r.Routes[0], nil); err == nil {
		t.Error("a header option for host is taken")
	}
	r.RewriteHosts()
	table, err := compileRoutes(r.Routes[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	one, two := table.any.routes[0], table.any.routes[1]
	if one.action.hostRewrite != "b" || len(one.change.request) != 1 || two.action.clusters[0].hostRewrite != "b" {
		t.Errorf("got hosts %q and %q, and the options %v", one.action.hostRewrite, two.action.clusters[0].hostRewrite, one.change.request)
	}
}

// What a gRPC authorizer's header options do (copyHeaderFieldIntoResponse, and the
// filter's onComplete and encodeHeaders).
func TestOptionsOfAuthorizers(t *testing.T) {
	const add, ifAbsent, set, ifThere = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD, corev3.HeaderValueOption_ADD_IF_ABSENT, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS
	option := func(name, value string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: action}
	}
	old := func(name, value string, yes bool) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, Append: wrapperspb.Bool(yes)}
	}
	raw := &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: "x-r", RawValue: []byte("1")}, AppendAction: set}
	p := compile(t, catchAll, `{"name":"a","typedConfig":{`+filterType+`ext_authz.v3.ExtAuthz","grpcService":{"envoyGrpc":{"clusterName":"up"}}}}`)
	for _, tt := range []struct {
		options                   []*corev3.HeaderValueOption
		request, response, denial string // x-r; the request has "a" and "b", the upstream's answer "c"
	}{
		{[]*corev3.HeaderValueOption{option("x-r", "1", add)}, "1", "c,1", "1"},
		{[]*corev3.HeaderValueOption{option("x-r", "", ifAbsent)}, "", "c", ""},
		{[]*corev3.HeaderValueOption{option("x-r", "1", ifThere)}, "1", "1", "1"},
		{[]*corev3.HeaderValueOption{option("x-r", "1", set), option("x-r", "2", add)}, "2", "1", "1,2"},
		{[]*corev3.HeaderValueOption{old("x-r", "1", true)}, "a,1,b", "c,1", "-"},
		{[]*corev3.HeaderValueOption{old("x-r", "", true)}, "a,b", "c,", "-"},
		{[]*corev3.HeaderValueOption{old("x-r", "1", false)}, "1", "1", "1"},
		{[]*corev3.HeaderValueOption{old("x-n", "1", true)}, "a,b", "c", "-"},
		{[]*corev3.HeaderValueOption{raw}, "", "", ""},
	} {
		evaluate := func(r *authv3.CheckResponse) Outcome {
			req := get("/")
			req.Headers = Headers{{"x-r", "a"}, {"x-r", "b"}}
			return p.Evaluate(req, Env{Authorize: func(Check) Answer { return Answer{GRPC: r} }}, nil)
		}
		if got := valueOf(evaluate(&authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: tt.options}}}).Request.Headers, "x-r"); got != tt.request {
			t.Errorf("%v: got %q in the request, want %q", tt.options, got, tt.request)
		}
		answer := Headers{{"x-r", "c"}}
		o := evaluate(&authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{ResponseHeadersToAdd: tt.options}}})
		if o.Response.Apply(&answer); valueOf(answer, "x-r") != tt.response {
			t.Errorf("%v: got %q in the answer, want %q", tt.options, valueOf(answer, "x-r"), tt.response)
		}
		o = evaluate(&authv3.CheckResponse{Status: &status.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Headers: tt.options}}})
		if got := valueOf(o.Headers, "x-r"); got != tt.denial {
			t.Errorf("%v: got %q in the refusal, want %q", tt.options, got, tt.denial)
		}
	}
}

// An authorizer may set what header options may not, and Envoy does not choose the route
// again for that unless it is told to.
func TestAuthorizersSetPseudoHeaders(t *testing.T) {
	const authz = `{"name":"a","typedConfig":{` + filterType + `ext_authz.v3.ExtAuthz",%s"grpcService":{"envoyGrpc":{"clusterName":"up"}}}}`
	routes := `{"match":{"path":"/new"},"route":{"cluster":"other"}},{"match":{"prefix":"/old/"},"route":{"cluster":"up","prefixRewrite":"/"}},` + catchAll
	for _, tt := range []struct{ more, path, name, value, want string }{
		{``, "/x", ":path", "/new", "up GET a/new"},
		{`"clearRouteCache":true,`, "/x", ":path", "/new", "other GET a/new"},
		{``, "/x", "Host", "b", "up GET b/x"},
		{``, "/x", ":authority", "b", "up GET b/x"},
		{``, "/x", ":method", "PUT", "up PUT a/x"},
		{``, "/x", ":method", "HEAD", "unknown"},
		{``, "/x", ":scheme", "https", "up GET a/x"},
		{``, "/x", ":other", "x", "unknown"},
		{``, "/old/x", ":path", "/new", "unknown"}, // there is no prefix to rewrite
		{``, "/old/x", ":path", "/OLD/y", "up GET a/y"},
	} {
		answer := &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: tt.name, Value: tt.value}}}}}}
		o := compile(t, routes, fmt.Sprintf(authz, tt.more)).Evaluate(get(tt.path), Env{Authorize: func(Check) Answer { return Answer{GRPC: answer} }}, nil)
		got := o.Kind.String()
		if o.Kind == Forward {
			got = o.Cluster + " " + o.Request.Method + " " + o.Request.Authority + o.Request.Path
		}
		if got != tt.want {
			t.Errorf("%s sets %s: got %s (%s), want %s", tt.path, tt.name, got, o.Reason, tt.want)
		}
	}
}

// An answer that adds to more headers than the listener takes is refused, with what the
// route adds to answers, also where the choice of the route was cleared.
func TestAnswerThatFillsTheRequest(t *testing.T) {
	for _, clear := range []string{"false", "true"} {
		p := compileManager(t, `"commonHttpProtocolOptions":{"maxHeadersCount":10},`, `{"match":{"prefix":"/"},"route":{"cluster":"up"},"responseHeadersToAdd":[`+optionOf("x-s", "1", "")+`]}`,
			`{"name":"a","typedConfig":{`+filterType+`ext_authz.v3.ExtAuthz","clearRouteCache":`+clear+`,"grpcService":{"envoyGrpc":{"clusterName":"up"}}}}`)
		answer := &authv3.OkHttpResponse{}
		for i := range 9 {
			answer.Headers = append(answer.Headers, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: fmt.Sprintf("x-%d", i), Value: "1"}})
		}
		o := p.Evaluate(get("/"), Env{Authorize: func(Check) Answer {
			return Answer{GRPC: &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: answer}}}
		}}, nil)
		if o.Kind != Local || o.Status != 500 || headerOf(o.Headers, "x-s") != "1" {
			t.Errorf("clear_route_cache %s: got %s %d %v (%s)", clear, o.Kind, o.Status, o.Headers, o.Reason)
		}
	}
}

// A request that is let through although the authorizer failed says so, beside what the
// client says.
func TestFailureModeHeader(t *testing.T) {
	p := compile(t, catchAll, `{"name":"a","typedConfig":{`+filterType+`ext_authz.v3.ExtAuthz","failureModeAllow":true,"failureModeAllowHeaderAdd":true,"grpcService":{"envoyGrpc":{"clusterName":"up"}}}}`)
	req := get("/")
	req.Headers = Headers{{"x-envoy-auth-failure-mode-allowed", "false"}}
	o := p.Evaluate(req, Env{Authorize: func(Check) Answer { return Answer{Err: errors.New("x")} }}, nil)
	if got := valueOf(o.Request.Headers, "x-envoy-auth-failure-mode-allowed"); got != "false,true" {
		t.Errorf("got %q", got)
	}
}
