package envoy

import (
	"encoding/base64"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// What Envoy's documentation offers and neither Istio nor Kubeflow writes, each seen with
// Envoy 1.40 (e2e/conformance, the configuration by hand).

// jwtFilter is a filter with a provider of issuer i and no keys.
func jwtFilter(provider string) string {
	return `{"name":"jwt","typedConfig":{` + filterType + `jwt_authn.v3.JwtAuthentication","providers":{"p":{"issuer":"i","localJwks":{"inlineString":"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"alg\":\"ES256\",\"x\":\"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\",\"y\":\"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\"}]}"},` + provider + `}},"rules":[{"match":{"prefix":"/"},"requires":{"providerName":"p"}}]}}`
}

func unsigned(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + ".AA"
}

// The realm that a refusal names is cut in its path, after 256 bytes of it
// (Http::Utility::buildOriginalUri).
func TestRealmIsCutInItsPath(t *testing.T) {
	p := compile(t, catchAll, jwtFilter(`"forward":true`))
	for _, n := range []int{255, 256, 300} {
		path := "/" + strings.Repeat("a", n-1)
		want := `Bearer realm="http://host.example` + path[:min(n, 256)] + `"`
		if o := ask(p, "GET", "host.example", path); headerOf(o.Headers, "www-authenticate") != want {
			t.Errorf("a path of %d bytes: got %q, want %q", n, headerOf(o.Headers, "www-authenticate"), want)
		}
	}
}

// A route may go without the Lua filter's script (LuaPerRoute.disabled). A script of its
// own is not modelled.
func TestLuaPerRoute(t *testing.T) {
	const lua = `{"name":"lua","typedConfig":{` + filterType + `lua.v3.Lua","inlineCode":"function envoy_on_request(request_handle)\n  local host = request_handle:headers():get(\":authority\")\n  request_handle:headers():add(\"x-forwarded-host\", host)\nend\n"}}`
	route := func(path, config string) string {
		return `{"match":{"prefix":"` + path + `"},"route":{"cluster":"up"},"typedPerFilterConfig":{"lua":{` + filterType + `lua.v3.LuaPerRoute"` + config + `}}}`
	}
	p := compile(t, strings.Join([]string{route("/off", `,"disabled":true`), route("/same", ""), route("/own", `,"sourceCode":{"inlineString":"x"}`), catchAll}, ","), lua)
	for path, want := range map[string]struct {
		kind Kind
		host string
	}{"/off": {Forward, ""}, "/same": {Forward, "a"}, "/own": {Unknown, ""}, "/": {Forward, "a"}} {
		o := ask(p, "GET", "a", path)
		if got := headerOf(o.Request.Headers, "x-forwarded-host"); o.Kind != want.kind || got != want.host {
			t.Errorf("%s: got %s with x-forwarded-host %q (%s), want %s with %q", path, o.Kind, got, o.Reason, want.kind, want.host)
		}
	}
}

// Where a token is looked for: each Cookie field by itself, the first cookie of a name,
// without one pair of quotes (Http::Utility::forEachCookie). Each value of a header may
// hold one. The last place is verified first (AuthenticatorImpl::startVerify).
func TestPlacesOfTokens(t *testing.T) {
	p := compile(t, catchAll, jwtFilter(`"fromCookies":["session","other"],"fromHeaders":[{"name":"x-token","valuePrefix":"T "}]`))
	good, foreign := unsigned(`{"iss":"i"}`), unsigned(`{"iss":"j"}`) // good but for the keys
	for _, tt := range []struct {
		name    string
		headers []string
		want    jwtStatus
	}{
		{"no cookie", nil, jwtMissing},
		{"a cookie", []string{"cookie", "session=" + good}, jwtNoKey},
		{"behind another", []string{"cookie", "a=b; session=" + good}, jwtNoKey},
		{"in a second field", []string{"cookie", "a=b", "cookie", "session=" + good}, jwtNoKey},
		{"in quotes", []string{"cookie", `session="` + good + `"`}, jwtNoKey},
		{"with one quote", []string{"cookie", `session="` + good}, jwtHeaderBase64},
		{"of another case", []string{"cookie", "Session=" + good}, jwtMissing},
		{"the first of a name", []string{"cookie", "session=x; session=" + good}, jwtBadFormat},
		{"names in their order, the last one first", []string{"cookie", "session=" + good + "; other=" + foreign}, jwtNoKey},
		{"a cookie before a header", []string{"x-token", "T " + good, "cookie", "session=" + foreign}, jwtUnknownIssuer},
		{"a header's second value first", []string{"x-token", "T " + good, "x-token", "T " + foreign}, jwtUnknownIssuer},
		{"behind what no token has", []string{"x-token", "a T  ;~" + foreign}, jwtUnknownIssuer},
		{"nothing that a token may have", []string{"x-token", "T !"}, jwtBadFormat},
	} {
		want := string(tt.want)
		if o := ask(p, "GET", "a", "/", tt.headers...); o.Kind != Local || o.Body != want {
			t.Errorf("%s: got %s %q, want %q", tt.name, o.Kind, o.Body, want)
		}
	}
}

// A token that must expire and does not fails as if its signature did, behind the
// audience and before the keys (JwksData::isLifetimeAllowed).
func TestRequireExpiration(t *testing.T) {
	must, may := jwtFilter(`"requireExpiration":true,"audiences":["a"]`), jwtFilter(`"audiences":["a"]`)
	for _, tt := range []struct {
		filter, claims string
		want           jwtStatus
	}{
		{must, `{"iss":"i","aud":"a","exp":99999999999}`, jwtNoKey},
		{must, `{"iss":"i","aud":"a"}`, jwtBadSignature},
		{must, `{"iss":"i","aud":"a","exp":0}`, jwtBadSignature},
		{must, `{"iss":"i","aud":"b"}`, jwtAudience},
		{may, `{"iss":"i","aud":"a"}`, jwtNoKey},
	} {
		if o := ask(compile(t, catchAll, tt.filter), "GET", "a", "/", "authorization", "Bearer "+unsigned(tt.claims)); o.Body != string(tt.want) {
			t.Errorf("%s: got %q, want %q", tt.claims, o.Body, tt.want)
		}
	}
}

// A header that is added to an HTTP check takes the place of the client's
// (AuthorizationRequest.headers_to_add), and only there.
func TestHeadersAddedToACheck(t *testing.T) {
	p := compile(t, catchAll, `{"name":"authz","typedConfig":{`+filterType+`ext_authz.v3.ExtAuthz","httpService":{"serverUri":{"uri":"http://a","cluster":"other","timeout":"1s"},
	 "authorizationRequest":{"allowedHeaders":{"patterns":[{"prefix":"x-"}]},"headersToAdd":[{"key":"X-Foo","value":"added"}]}}}}`)
	req := get("/")
	req.Headers = Headers{{"x-foo", "1"}, {"x-foo", "2"}, {"x-bar", "3"}}
	var check *Upstream
	o := p.Evaluate(req, Env{Authorize: func(c Check) Answer {
		check = c.HTTP
		return Answer{Status: 200}
	}}, nil)
	if check == nil || headerOf(check.Headers, "x-foo") != "added" || headerOf(check.Headers, "x-bar") != "3" {
		t.Fatalf("got the check %+v, want x-foo: added and x-bar: 3", check)
	}
	if got := headerOf(o.Request.Headers, "x-foo"); o.Kind != Forward || got != "1,2" {
		t.Errorf("got %s with x-foo %q, want it forwarded with the client's", o.Kind, got)
	}
}

// Values of the dynamic metadata that are no plain strings (type.matcher.v3.ValueMatcher),
// in permissions and principals (config.rbac.v3.SourcedMetadata).
func TestMetadataMatchers(t *testing.T) {
	const authz = `{"name":"authz","typedConfig":{` + filterType + `ext_authz.v3.ExtAuthz","grpcService":{"envoyGrpc":{"clusterName":"other"}}}}`
	said, err := structpb.NewStruct(map[string]any{"yes": true, "none": nil, "text": "abc", "list": []any{1, "x"}, "number": 1, "deep": map[string]any{"yes": true}})
	if err != nil {
		t.Fatal(err)
	}
	env := Env{Authorize: func(Check) Answer { return Answer{GRPC: &authv3.CheckResponse{DynamicMetadata: said}} }}
	for _, tt := range []struct {
		path, value string
		want        bool
	}{
		{"yes", `{"boolMatch":true}`, true},
		{"yes", `{"boolMatch":false}`, false},
		{"text", `{"boolMatch":true}`, false},
		{"none", `{"nullMatch":{}}`, true},
		{"yes", `{"nullMatch":{}}`, false},
		{"absent", `{"nullMatch":{}}`, false},
		{"none", `{"presentMatch":true}`, true},
		{"absent", `{"presentMatch":true}`, false},
		{"list", `{"listMatch":{"oneOf":{"stringMatch":{"exact":"x"}}}}`, true},
		{"text", `{"listMatch":{"oneOf":{"stringMatch":{"exact":"abc"}}}}`, false},
		{"text", `{"orMatch":{"valueMatchers":[{"nullMatch":{}},{"stringMatch":{"suffix":"c"}}]}}`, true},
		{"number", `{"orMatch":{"valueMatchers":[{"nullMatch":{}},{"stringMatch":{"suffix":"1"}}]}}`, false},
		{`deep"},{"key":"yes`, `{"boolMatch":true}`, true},
	} {
		matcher := `{"sourcedMetadata":{"metadataMatcher":{"filter":"envoy.filters.http.ext_authz","path":[{"key":"` + tt.path + `"}],"value":` + tt.value + `}}}`
		for _, policy := range []string{`"permissions":[` + matcher + `],"principals":[{"any":true}]`, `"permissions":[{"any":true}],"principals":[` + matcher + `]`} {
			p := compile(t, catchAll, authz, `{"name":"rbac","typedConfig":{`+filterType+`rbac.v3.RBAC","rules":{"policies":{"p":{`+policy+`}}}}}`)
			if o := p.Evaluate(get("/"), env, nil); o.Kind == Unknown || (o.Kind == Forward) != tt.want {
				t.Errorf("%s %s: got %s %s, want matched %v", tt.path, tt.value, o.Kind, o.Reason, tt.want)
			}
		}
	}
}
