//go:build e2e

package conformance

import (
	"encoding/json"
	"strings"
	"testing"
)

// byHand is a gateway with what Envoy's documentation offers and neither Istio nor
// Kubeflow writes: tokens in cookies, tokens that must expire, headers added to a check,
// the matchers of metadata that are no strings, a filter without its script on a route,
// and a path so long that a refusal's realm is cut. Its tokens' issuer is one of its own.
func byHand(t *testing.T, tokens *mint, jwks string) configuration {
	t.Helper()
	const types, issuer = `"@type":"type.googleapis.com/envoy.extensions.filters.`, "https://hand.example"
	// jwt_authn.v3.JwtProvider: from_cookies, require_expiration.
	jwt := `{"name":"envoy.filters.http.jwt_authn","typedConfig":{` + types + `http.jwt_authn.v3.JwtAuthentication","providers":{"p":{"issuer":"` + issuer + `","fromCookies":["session"],"fromHeaders":[{"name":"authorization","valuePrefix":"Bearer "}],
	 "requireExpiration":true,"audiences":["postern"],"payloadInMetadata":"payload","localJwks":{"inlineString":` + quoted(jwks) + `}}},"rules":[{"match":{"prefix":"/"},"requires":{"requiresAny":{"requirements":[{"providerName":"p"},{"allowMissing":{}}]}}}]}}`
	// type.matcher.v3.ValueMatcher and config.rbac.v3.SourcedMetadata, with some methods alone, so that others go on.
	matcher := func(claim, value string) string {
		return `{"metadataMatcher":{"filter":"envoy.filters.http.jwt_authn","path":[{"key":"payload"},{"key":"` + claim + `"}],"value":` + value + `}}`
	}
	policy := func(method, claim, value string) string {
		return `{"permissions":[{"andRules":{"rules":[{"header":{"name":":method","stringMatch":{"exact":"` + method + `"}}},{"sourcedMetadata":` + matcher(claim, value) + `}]}}],"principals":[{"any":true}]}`
	}
	either := `{"orMatch":{"valueMatchers":[{"stringMatch":{"exact":"a b"}},{"stringMatch":{"suffix":"y"}}]}}`
	rbac := `{"name":"envoy.filters.http.rbac","typedConfig":{` + types + `http.rbac.v3.RBAC","rules":{"action":"DENY","policies":{
	 "bool":` + policy("POST", "admin", `{"boolMatch":true}`) + `,"null":` + policy("POST", "admin", `{"nullMatch":{}}`) + `,"list":` + policy("PUT", "groups", `{"listMatch":{"oneOf":{"stringMatch":{"exact":"a"}}}}`) + `,
	 "either":{"permissions":[{"any":true}],"principals":[{"sourcedMetadata":` + matcher("email", either) + `}]}}}}}`
	// ext_authz.v3.AuthorizationRequest: "Client request headers with the same key will be overridden".
	authz := `{"name":"envoy.filters.http.ext_authz","typedConfig":{` + types + `http.ext_authz.v3.ExtAuthz","httpService":{"serverUri":{"uri":"http://a","cluster":"authservice.","timeout":"10s"},
	 "authorizationRequest":{"allowedHeaders":{"patterns":[{"exact":"cookie"},{"prefix":"x-"}]},"headersToAdd":[{"key":"x-foo","value":"added"},{"key":"X-New","value":"new"}]}}}}`
	lua := `{"name":"envoy.filters.http.lua","typedConfig":{` + types + `http.lua.v3.Lua","inlineCode":` + quoted("function envoy_on_request(request_handle)\n  local host = request_handle:headers():get(\":authority\")\n  request_handle:headers():add(\"x-forwarded-host\", host)\nend\n") + `}}`
	route := func(path, more string) string {
		return `{"match":{"prefix":"` + path + `"},"route":{"cluster":"up","timeout":"0s"}` + more + `}`
	}
	quiet := `,"typedPerFilterConfig":{"envoy.filters.http.lua":{` + types + `http.lua.v3.LuaPerRoute","disabled":true}}`
	listener := `{"name":"l","address":{"socketAddress":{"address":"0.0.0.0","portValue":8080}},"filterChains":[{"filters":[{"name":"hcm","typedConfig":{` + types + `network.http_connection_manager.v3.HttpConnectionManager",
	 "statPrefix":"x","serverName":"istio-envoy","useRemoteAddress":true,"normalizePath":true,"routeConfig":{"name":"r","ignorePortInHostMatching":true,"virtualHosts":[{"name":"all","domains":["*"],
	 "routes":[` + route("/quiet", quiet) + `,` + route("/"+strings.Repeat("long/", 60), "") + `,` + route("/x", "") + `,` + route("/v1", "") + `]}]},
	 "httpFilters":[` + strings.Join([]string{jwt, rbac, authz, lua}, ",") + `,{"name":"envoy.filters.http.router","typedConfig":{` + types + `http.router.v3.Router"}}]}}]}]}`
	own := *tokens
	own.issuers, own.audiences = []string{issuer}, []string{"postern"}
	return configuration{name: "by-hand", tokens: &own, resources: parse(t, []json.RawMessage{json.RawMessage(listener)}, nil, []json.RawMessage{json.RawMessage(`{"name":"up"}`), json.RawMessage(`{"name":"authservice."}`)})}
}

func quoted(s string) string {
	b, _ := json.Marshal(s) // a string
	return string(b)
}
