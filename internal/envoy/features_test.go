package envoy

import (
	"errors"
	"testing"
)

const (
	filterType = `"@type":"type.googleapis.com/envoy.extensions.filters.http.`
	corsFilter = `{"name":"cors","typedConfig":{` + filterType + `cors.v3.Cors"}}`
	denyPOST   = `{"name":"rbac","typedConfig":{` + filterType + `rbac.v3.RBAC","rules":{"action":"DENY","policies":{"p":{"permissions":[{"header":{"name":":method","stringMatch":{"exact":"POST"}}}],"principals":[{"any":true}]}}}}}`
)

func headerOf(h Headers, name string) string {
	v, _ := h.Get(name)
	return v
}

// Who changes an answer that Envoy gives by itself, each seen with Envoy 1.40
// (e2e/conformance, random configurations).
func TestLocalRepliesAreChanged(t *testing.T) {
	const mutate = `{"name":"mutation","typedConfig":{` + filterType + `header_mutation.v3.HeaderMutation","mutations":{"responseMutations":[{"append":{"header":{"key":"x-r","value":"mutated"}}}]}}}`
	const route = `{"match":{"prefix":"/r"},"route":{"cluster":"up"},"responseHeadersToAdd":[{"header":{"key":"x-r","value":"route"},"appendAction":"OVERWRITE_IF_EXISTS_OR_ADD"}]}`
	for _, test := range []struct {
		name, method, host, path string
		filters                  []string
		status                   int
		want                     string
	}{
		{"a route's headers are on a filter's refusal", "POST", "a", "/r", []string{denyPOST}, 403, "route"},
		{"without a route there are none", "POST", "a", "/x", []string{denyPOST}, 403, ""},
		{"a filter behind the one that refuses changes the answer", "POST", "a", "/x", []string{denyPOST, mutate}, 403, "mutated"},
		{"after the route", "POST", "a", "/r", []string{denyPOST, mutate}, 403, "route,mutated"},
		{"and what the codec refuses", "GET", "", "/x", []string{mutate}, 400, "mutated"},
	} {
		o := ask(compile(t, route, test.filters...), test.method, test.host, test.path)
		if got := headerOf(o.Headers, "x-r"); o.Kind != Local || o.Status != test.status || got != test.want {
			t.Errorf("%s: got %s %d with %q, want %d with %q", test.name, o.Kind, o.Status, got, test.status, test.want)
		}
	}
}

func TestCors(t *testing.T) {
	p := compile(t, `{"match":{"prefix":"/"},"route":{"cluster":"up"},"typedPerFilterConfig":{"cors":{`+filterType+`cors.v3.CorsPolicy","allowOriginStringMatch":[{"exact":"https://a"}],"allowMethods":"GET","exposeHeaders":"x-r","allowCredentials":true,"forwardNotMatchingPreflights":false}}}`, corsFilter)
	preflight := []string{"access-control-request-method", "GET", "origin"}
	o := ask(p, "OPTIONS", "a", "/", append(preflight, "https://a")...)
	if o.Kind != Local || o.Status != 200 || headerOf(o.Headers, "access-control-allow-origin") != "https://a" || headerOf(o.Headers, "access-control-allow-methods") != "GET" || headerOf(o.Headers, "access-control-expose-headers") != "x-r" {
		t.Errorf("a preflight: got %s %d %v", o.Kind, o.Status, o.Headers)
	}
	o = ask(p, "OPTIONS", "a", "/", append(preflight, "https://b")...)
	if _, ok := o.Headers.Get("access-control-allow-origin"); o.Kind != Local || ok {
		t.Errorf("another origin's preflight that is not to go on: got %s %v", o.Kind, o.Headers)
	}
	answer := Headers{{"access-control-allow-origin", "upstream"}}
	o = ask(p, "GET", "a", "/", "origin", "https://a")
	if o.Response.Apply(&answer); o.Kind != Forward || headerOf(answer, "access-control-allow-origin") != "https://a" {
		t.Errorf("a request of the origin: got %s, answer %v", o.Kind, answer)
	}
}

func TestFaults(t *testing.T) {
	p := compile(t, catchAll, `{"name":"fault","typedConfig":{`+filterType+`fault.v3.HTTPFault","headers":[{"name":"x-foo","presentMatch":true}],"abort":{"percentage":{"numerator":100},"grpcStatus":5}}}`)
	if o := ask(p, "POST", "a", "/", "x-foo", "1", "content-type", "application/grpc"); o.Kind != Local || headerOf(o.Headers, "grpc-status") != "5" || headerOf(o.Headers, "grpc-message") != "fault filter abort" {
		t.Errorf("an abort: got %s %v", o.Kind, o.Headers)
	}
	if o := ask(p, "POST", "a", "/"); o.Kind != Forward {
		t.Errorf("another request: got %s", o.Kind)
	}
	half := compile(t, catchAll, `{"name":"fault","typedConfig":{`+filterType+`fault.v3.HTTPFault","abort":{"percentage":{"numerator":50},"httpStatus":503}}}`)
	if o := ask(half, "GET", "a", "/"); o.Kind != Unknown {
		t.Errorf("a fault by chance: got %s, want unknown", o.Kind)
	}
}

func TestWeightedClusters(t *testing.T) {
	p := compile(t, `{"match":{"prefix":"/"},"route":{"timeout":"0s","regexRewrite":{"pattern":{"regex":"^/v1/(.*)$"},"substitution":"/v2/\\1"},"requestMirrorPolicies":[{"cluster":"up"}],
	 "weightedClusters":{"clusters":[{"name":"up","weight":10},{"name":"nobody","weight":0},{"name":"other","weight":90,"hostRewriteLiteral":"b","requestHeadersToAdd":[{"header":{"key":"x-branch","value":"1"}}]}]}}}`)
	for random, want := range map[uint64]string{0: "up", 9: "up", 10: "other", 99: "other", 100: "up"} {
		o := p.Evaluate(get("/v1/m?q"), Env{Random: random}, nil)
		if o.Cluster != want || len(o.Shares) != 2 || len(o.Mirrors) != 1 || o.Request.Path != "/v2/m?q" || (headerOf(o.Request.Headers, "x-branch") == "1") != (want == "other") || (o.Request.Authority == "b") != (want == "other") {
			t.Errorf("random %d: got %s %s%s of %v (%s), want %s", random, o.Cluster, o.Request.Authority, o.Request.Path, o.Shares, o.Reason, want)
		}
	}
}

func TestConnectionManagerSettings(t *testing.T) {
	const hops = `"xffNumTrustedHops":1,`
	remote := `{"name":"rbac","typedConfig":{` + filterType + `rbac.v3.RBAC","rules":{"policies":{"p":{"permissions":[{"any":true}],"principals":[{"remoteIp":{"addressPrefix":"1.2.3.4","prefixLen":32}}]}}}}}`
	for _, test := range []struct {
		name, manager, host, path string
		filters, headers          []string
		status                    int // 0: forwarded
		want                      string
	}{
		{"escaped slashes stay", ``, "a", "/a%2fb", nil, nil, 0, "/a%2fb"},
		{"are unescaped before dots are resolved", `"pathWithEscapedSlashesAction":"UNESCAPE_AND_FORWARD",`, "a", "/a%2F..%5Cb?c=%2F", nil, nil, 0, "/b?c=%2F"},
		{"are refused", `"pathWithEscapedSlashesAction":"REJECT_REQUEST",`, "a", "/a%2fb", nil, nil, 400, ""},
		{"are sent elsewhere", `"pathWithEscapedSlashesAction":"UNESCAPE_AND_REDIRECT",`, "a", "/a%2fb", nil, nil, 307, "/a/b"},
		{"a name with an underscore is refused", `"commonHttpProtocolOptions":{"headersWithUnderscoresAction":"REJECT_REQUEST"},`, "a", "/", nil, []string{"a_b", "1"}, 400, ""},
		{"a trusted hop says who calls", hops, "a", "/", []string{remote}, []string{"x-forwarded-for", "9.9.9.9, 1.2.3.4"}, 0, "/"},
		{"and nobody else does", ``, "a", "/", []string{remote}, []string{"x-forwarded-for", "1.2.3.4"}, 403, ""},
		{"an empty x-forwarded-proto that is trusted finds no route", hops, "a", "/", nil, []string{"x-forwarded-proto", ""}, 404, ""},
	} {
		o := ask(compileManager(t, test.manager, catchAll, test.filters...), "GET", test.host, test.path, test.headers...)
		got := o.Request.Path
		if o.Kind == Local {
			got = headerOf(o.Headers, "location")
		}
		if o.Kind == Unknown || o.Status != test.status || got != test.want {
			t.Errorf("%s: got %s %d %q (%s), want %d %q", test.name, o.Kind, o.Status, got, o.Reason, test.status, test.want)
		}
	}
	o := ask(compileManager(t, `"stripAnyHostPort":true,"stripTrailingHostDot":true,`, catchAll), "GET", "a.:80", "/")
	if o.Request.Authority != "a" {
		t.Errorf("a host without dot and port: got %q, want a", o.Request.Authority)
	}
}

// A filter that the route chosen first switches off does not run.
func TestFilterSwitchedOff(t *testing.T) {
	const off = `{"match":{"prefix":"/open"},"route":{"cluster":"up"},"typedPerFilterConfig":{"rbac":{"@type":"type.googleapis.com/envoy.config.route.v3.FilterConfig","disabled":true}}}`
	p := compile(t, off+","+catchAll, denyPOST)
	if o := ask(p, "POST", "a", "/open"); o.Kind != Forward {
		t.Errorf("switched off: got %s", o.Kind)
	}
	if o := ask(p, "POST", "a", "/"); o.Kind != Local {
		t.Errorf("elsewhere: got %s", o.Kind)
	}
}

// Istio turns {*} and {**} in a policy's paths into a URI template.
func TestTemplates(t *testing.T) {
	p := compile(t, catchAll, `{"name":"rbac","typedConfig":{`+filterType+`rbac.v3.RBAC","rules":{"policies":{"p":{"permissions":[{"uriTemplate":{"name":"t","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig","pathTemplate":"/v1/models/*/versions/**"}}}],"principals":[{"any":true}]}}}}}`)
	for path, want := range map[string]Kind{"/v1/models/m/versions/1/x?q=/": Forward, "/v1/models/m/n/versions/1": Local, "/v1/models//versions/1": Local, "/v2/models/m/versions/1": Local} {
		if o := p.Evaluate(get(path), Env{}, nil); o.Kind != want {
			t.Errorf("%s: got %s, want %s", path, o.Kind, want)
		}
	}
}

// Keys that are fetched come from Env; a token may be in a parameter.
func TestRemoteKeys(t *testing.T) {
	p := compile(t, catchAll, `{"name":"jwt","typedConfig":{`+filterType+`jwt_authn.v3.JwtAuthentication","providers":{"p":{"issuer":"i","fromParams":["t"],"remoteJwks":{"httpUri":{"uri":"http://keys/","cluster":"up","timeout":"1s"}}}},"rules":[{"match":{"prefix":"/"},"requires":{"providerName":"p"}}]}}`)
	token := "/?t=eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJpIn0.AA"
	if o := p.Evaluate(get(token), Env{}, nil); o.Kind != Unknown {
		t.Errorf("nobody has the keys: got %s %q", o.Kind, o.Body)
	}
	for _, test := range []struct {
		path, keys string
		err        error
		want       jwtStatus
	}{{"/", "", nil, jwtMissing}, {token, "", errors.New("x"), jwtFetchFailed}, {token, `{"keys":[]}`, nil, jwtNoKey}} {
		o := p.Evaluate(get(test.path), Env{Keys: func(s KeySource) (string, error) { return test.keys, test.err }}, nil)
		if o.Kind != Local || o.Body != string(test.want) {
			t.Errorf("%s with %q, %v: got %s %q, want %q", test.path, test.keys, test.err, o.Kind, o.Body, test.want)
		}
	}
}
