package authorizer

import (
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/internal/credential"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

const (
	app = "https://app.example.com"
	// pages is a model that pages of two origins may call, and one whose annotation
	// is wrong.
	pages = `
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: paged, namespace: alice, annotations: {postern.dev/allowed-origins: "https://app.example.com, http://localhost:3000"}}
spec: {predictor: {sklearn: {}}}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: wild, namespace: alice, annotations: {postern.dev/allowed-origins: "*, https://*.example.com, null"}}
spec: {predictor: {sklearn: {}}}
---
apiVersion: v1
kind: Service
metadata: {name: mixed, namespace: alice}
spec: {selector: {app: mixed}, ports: [{port: 80}]}
`
	paged = "paged.alice.example.com"
)

func TestPreflight(t *testing.T) {
	s := newShop(t)
	s.swap(pages)
	asks := "access-control-request-method: POST"
	from := "origin: " + app
	for _, tt := range []struct {
		name   string
		req    Request
		status int
		reason string
	}{
		{"allowed", ask(8080, outside, "OPTIONS", paged, predictPath, from, asks), 204, Preflight},
		{"the other origin", ask(8080, outside, "OPTIONS", paged, predictPath, "origin: http://localhost:3000", asks), 204, Preflight},
		{"from a pod's browser", ask(8081, podAddr, "OPTIONS", "paged.alice.svc.cluster.local", predictPath, from, asks), 204, Preflight},
		{"with an old session", ask(8080, outside, "OPTIONS", paged, predictPath, from, asks, "cookie: authservice_session=old"), 204, Preflight},
		{"another origin", ask(8080, outside, "OPTIONS", paged, predictPath, "origin: https://evil.example", asks), 401, CredentialRequired},
		{"one that ends so", ask(8080, outside, "OPTIONS", paged, predictPath, "origin: "+app+".evil.example", asks), 401, CredentialRequired},
		{"by http", ask(8080, outside, "OPTIONS", paged, predictPath, "origin: http://app.example.com", asks), 401, CredentialRequired},
		{"null", ask(8080, outside, "OPTIONS", paged, predictPath, "origin: null", asks), 401, CredentialRequired},
		{"two origins", ask(8080, outside, "OPTIONS", paged, predictPath, from, "origin: https://evil.example", asks), 401, CredentialRequired},
		{"no method asked for", ask(8080, outside, "OPTIONS", paged, predictPath, from), 401, CredentialRequired},
		{"a method that is not allowed", ask(8080, outside, "OPTIONS", paged, predictPath, from, "access-control-request-method: TRACE"), 401, CredentialRequired},
		{"two methods", ask(8080, outside, "OPTIONS", paged, predictPath, from, asks, asks), 401, CredentialRequired},
		{"not OPTIONS", ask(8080, outside, "POST", paged, predictPath, from, asks), 401, CredentialRequired},
		{"OPTIONS by a forged header", ask(8080, outside, "POST", paged, predictPath, from, asks, "x-original-method: OPTIONS", "x-http-method-override: OPTIONS", "x-forwarded-method: OPTIONS", ":method: OPTIONS"), 401, CredentialRequired},
		{"a model without origins", ask(8080, outside, "OPTIONS", openOut, predictPath, from, asks), 401, CredentialRequired},
		{"a model with patterns for origins", ask(8080, outside, "OPTIONS", "wild.alice.example.com", predictPath, from, asks), 401, CredentialRequired},
		{"and null", ask(8080, outside, "OPTIONS", "wild.alice.example.com", predictPath, "origin: null", asks), 401, CredentialRequired},
		{"and a star", ask(8080, outside, "OPTIONS", "wild.alice.example.com", predictPath, "origin: *", asks), 401, CredentialRequired},
		{"an application's is its own affair", ask(8080, outside, "OPTIONS", "web.example.com", "/", from, asks), 401, CredentialRequired},
		{"the dashboard", ask(8080, outside, "OPTIONS", dashboard, "/", from, asks), 302, LoginRefused},
		{"the second hop", ask(8081, gwAddr, "OPTIONS", "paged-predictor.alice.svc.cluster.local", predictPath, from, asks), 401, CredentialRequired},
	} {
		v := s.decide(t, tt.req)
		if v.Allow || v.Status != tt.status || v.Reason != tt.reason {
			t.Errorf("%s: got %t %d %s, want %d %s", tt.name, v.Allow, v.Status, v.Reason, tt.status, tt.reason)
		}
		origin := headerOf(v.Headers, "access-control-allow-origin")
		if want := strings.Join(tt.req.Headers["origin"], ","); (tt.status == 204) != (len(origin) == 1 && origin[0] == want) && !slices.Equal(origin, []string{app}) {
			t.Errorf("%s: got origin %v", tt.name, origin)
		}
	}
	req := ask(8080, outside, "OPTIONS", paged, predictPath, from, asks, "access-control-request-headers: Authorization, x-api-key,bad name,", "access-control-request-private-network: true")
	v := s.decide(t, req)
	for name, want := range map[string]string{
		"access-control-allow-headers": "authorization, x-api-key", "access-control-allow-credentials": "true", "access-control-max-age": "600",
		"access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE", "vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
	} {
		if got := headerOf(v.Headers, name); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %v, want %s", name, got, want)
		}
	}
	if len(v.Body) > 0 || len(v.Set) > 0 {
		t.Errorf("got %+v", v)
	}
	req.Headers["access-control-request-headers"] = []string{strings.Repeat("a,", maxRequestHeaders)}
	if v := s.decide(t, req); len(headerOf(v.Headers, "access-control-allow-headers")) > 0 {
		t.Error("an endless list is answered")
	}
}

func TestCrossOrigin(t *testing.T) {
	s := newShop(t)
	s.swap(pages)
	from := []string{"origin: " + app, "sec-fetch-site: cross-site"}
	call := func(headers ...string) Request {
		return ask(8080, outside, "POST", paged, predictPath, append(headers, from...)...)
	}
	v := s.decide(t, call(aliceCook))
	if !v.Allow || !slices.Equal(headerOf(v.Response, "access-control-allow-origin"), []string{app}) || !slices.Equal(headerOf(v.Response, "vary"), []string{"Origin"}) {
		t.Errorf("a session from an allowed page: got %s %v", v.Reason, v.Response)
	}
	for _, h := range Response(v).GetOkResponse().GetResponseHeadersToAdd() {
		want := core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD // the model may have said "*"
		if h.Header.Key == "vary" {
			want = core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
		}
		if h.AppendAction != want {
			t.Errorf("%s: got %s", h.Header.Key, h.AppendAction)
		}
	}
	for name, r := range map[string]Request{"nothing": call(), "not allowed": call(adaCookie), "a bad key": call("x-api-key: postern_x")} {
		v := s.decide(t, r)
		if v.Allow || !slices.Equal(headerOf(v.Headers, "access-control-allow-origin"), []string{app}) || len(v.Response) > 0 ||
			!slices.Equal(headerOf(v.Headers, "vary"), []string{"Origin"}) || !slices.Equal(headerOf(v.Headers, "access-control-expose-headers"), []string{"www-authenticate"}) {
			t.Errorf("%s: got %s %v", name, v.Reason, v.Headers)
		}
	}
	from = []string{"origin: https://evil.example"}
	if v := s.decide(t, call(aliceCook)); v.Reason != credential.CrossSite || len(headerOf(v.Headers, "access-control-allow-origin")) > 0 {
		t.Errorf("another page: got %s %v", v.Reason, v.Headers)
	}
}

// TestSandbox: on a host with something else on it a model's page is nobody's.
func TestSandbox(t *testing.T) {
	s := newShop(t)
	shared := `
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: mixed, namespace: alice}
spec: {gateways: [kubeflow/kubeflow-gateway], hosts: [paged.alice.example.com], http: [{match: [{uri: {prefix: /app/}}], route: [{destination: {host: mixed}}]}]}
`
	req := ask(8080, outside, "GET", paged, predictPath, aliceCook)
	s.swap(pages)
	if v := s.decide(t, req); !v.Allow || len(v.Response) > 0 {
		t.Errorf("a host of its own: got %s %v", v.Reason, v.Response)
	}
	nobody := ask(8080, outside, "GET", paged, predictPath)
	if got := headerOf(s.decide(t, nobody).Headers, "www-authenticate"); len(got) != 1 || !strings.Contains(got[0], "resource_metadata") {
		t.Errorf("a host of its own: got %v", got)
	}
	s.swap(pages, shared)
	v := s.decide(t, nobody)
	if got := headerOf(v.Headers, "www-authenticate"); v.Status != 401 || len(got) != 1 || strings.Contains(got[0], "resource_metadata") {
		t.Errorf("a shared host has no metadata of one resource: got %d %v", v.Status, got)
	}
	v = s.decide(t, req)
	if !v.Allow || !slices.Equal(headerOf(v.Response, "content-security-policy"), []string{"sandbox"}) || !slices.Equal(headerOf(v.Response, "x-content-type-options"), []string{"nosniff"}) {
		t.Errorf("got %s %v", v.Reason, v.Response)
	}
}

func TestTokensConfig(t *testing.T) {
	const base = `tokens:
  issuers:
  - issuer: https://dex.example.com
    audiences: [postern]
    algorithms: [RS256]
    username: {claim: email, skipPrefix: true}
    groups: {claim: groups, prefix: "dex:"}
  - issuer: https://dex.example.com
    audiences: [machines]
    username: {prefix: "client:"}
  - issuer: http://git.local/x
    audiences: [postern]
    jwksURL: http://git.local/keys
    insecureHTTP: true
  cluster:
    issuer: https://kubernetes.default.svc
    audiences: [postern]
    jwksURL: https://kubernetes.default.svc/openid/v1/jwks
    caFile: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
cors:
  methods: [GET, POST]
  maxAge: 1m
`
	c, err := ParseConfig("c.yaml", []byte(base))
	if err != nil {
		t.Fatal(err)
	}
	if u := c.Tokens.Issuers[2].user(); u.Name != "sub" || u.Prefix != "http://git.local/x#" {
		t.Errorf("got %+v", u)
	}
	if u := c.Tokens.Issuers[0].user(); u.Name != "email" || u.Prefix != "" {
		t.Errorf("got %+v", u)
	}
	for _, tt := range []struct{ old, new, want string }{
		{"https://dex.example.com\n    audiences: [postern]", "dex.example.com\n    audiences: [postern]", `c.yaml:3: tokens.issuers[0].issuer: got "dex.example.com"`},
		{"audiences: [machines]", "audiences: []", "c.yaml:9: tokens.issuers[1].audiences: required"},
		{"audiences: [machines]", `audiences: [a, ""]`, "c.yaml:9: tokens.issuers[1].audiences: required"},
		{"audiences: [machines]", "audiences: [machines, postern]", "c.yaml:9: tokens.issuers[1].audiences: tokens.issuers[0] is the same issuer"},
		{"[RS256]", "[HS256]", `c.yaml:5: tokens.issuers[0].algorithms[0]: got "HS256"`},
		{"[RS256]", "[none]", `got "none"`},
		{`prefix: "client:"`, "skipPrefix: true", "c.yaml:10: tokens.issuers[1].username.skipPrefix: tokens.issuers[0] skips it too"},
		{`prefix: "client:"`, `prefix: "system:"`, "tokens.issuers[1].username.prefix"},
		{`prefix: "client:"`, `prefix: "http:"`, "begins with the other"},
		{`prefix: "dex:"`, `prefix: "dex:", skipPrefix: true`, "c.yaml:7: tokens.issuers[0].groups.skipPrefix: there is a prefix"},
		{`claim: groups, `, ``, "tokens.issuers[0].groups.claim: required"},
		{"    insecureHTTP: true\n", "", "tokens.issuers[2].insecureHTTP: the keys would come by plain http"},
		{"    jwksURL: http://git.local/keys\n", "    jwksURL: http://git.local/keys\n    jwks: x\n", "want one of jwks"},
		{"    jwksURL: http://git.local/keys\n", "    jwks: x\n    caFile: y\n", "caFile and tokenFile are for keys that are fetched"},
		{"    jwksURL: https://kubernetes.default.svc/openid/v1/jwks\n", "", "tokens.cluster.tokenFile: needs jwksURL"},
		{"issuer: https://kubernetes.default.svc\n", "issuer: https://dex.example.com\n", "tokens.cluster.issuer: also among"},
		{"  cluster:", "  cluster: {}\n  x:", "x: unknown field"},
		{"jwksURL: http:", "jwksUrl: http:", "jwksUrl: unknown field"},
		{"[GET, POST]", "[get]", `cors.methods: got "get"`},
		{"[GET, POST]", "[TRACE]", `cors.methods: got "TRACE"`},
		{"maxAge: 1m", "maxAge: 48h", "cors.maxAge"},
	} {
		if !strings.Contains(base, tt.old) {
			t.Fatalf("%q is not in the configuration", tt.old)
		}
		if _, err := ParseConfig("c.yaml", []byte(strings.Replace(base, tt.old, tt.new, 1))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.new, err, tt.want)
		}
	}
	for _, k := range []Keys{{JWKS: "x"}, {JWKSFile: "/nowhere"}, {CAFile: "/nowhere"}, {CAFile: "cors_test.go"}} {
		if _, err := New(Config{Tokens: Tokens{Issuers: []Issuer{{Issuer: "https://a", Audiences: []string{"b"}, Keys: k}}}}, Options{}); err == nil || !strings.Contains(err.Error(), "tokens.issuers[0]") {
			t.Errorf("%+v: got %v", k, err)
		}
	}
}
