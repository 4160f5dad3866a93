//go:build e2e

package conformance

import (
	"fmt"
	"strings"
	"testing"

	"postern.dev/postern/internal/envoy"
)

const filterTypes = `"@type":"type.googleapis.com/envoy.extensions.filters.`

// denying is an RBAC filter that refuses what matches, with more of its fields in front.
func denying(name, action, more, permission string) string {
	return fmt.Sprintf(`{"name":%q,%s"typedConfig":{%shttp.rbac.v3.RBAC","rules":{"action":%q,"policies":{"p":{"permissions":[%s],"principals":[{"any":true}]}}}}}`, name, more, filterTypes, action, permission)
}

// switching is typed_per_filter_config: pairs of a filter's name and its configuration.
func switching(pairs ...string) string {
	var list []string
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, fmt.Sprintf("%q:%s", pairs[i], pairs[i+1]))
	}
	return `"typedPerFilterConfig":{` + strings.Join(list, ",") + `}`
}

const (
	filterConfig = `{"@type":"type.googleapis.com/envoy.config.route.v3.FilterConfig"`
	off          = filterConfig + `,"disabled":true}`
	on           = filterConfig + `,"config":{}}`
	offWithMore  = filterConfig + `,"disabled":true,"config":{` + filterTypes + `http.rbac.v3.RBACPerRoute"}}`
	ownRBAC      = `{` + filterTypes + `http.rbac.v3.RBACPerRoute","rbac":{"rules":{"action":"DENY","policies":{"own":{"permissions":[{"header":{"name":"x-own","presentMatch":true}}],"principals":[{"any":true}]}}}}}`
	noRBAC       = `{` + filterTypes + `http.rbac.v3.RBACPerRoute"}`
	rewriting    = `{` + filterTypes + `http.header_mutation.v3.HeaderMutationPerRoute","mutations":{"requestMutations":[{"append":{"header":{"key":"x-route","value":"1"}}}],"responseMutations":[{"append":{"header":{"key":"x-route-answer","value":"1"}}}]}}`
	quiet        = `{` + filterTypes + `http.lua.v3.LuaPerRoute","disabled":true}`
	aloud        = `{` + filterTypes + `http.lua.v3.LuaPerRoute"}`
	extended     = `{` + filterTypes + `http.ext_authz.v3.ExtAuthzPerRoute","checkSettings":{"contextExtensions":{"a":"b"}}}`
	corsPolicy   = `{` + filterTypes + `http.cors.v3.CorsPolicy","allowOriginStringMatch":[{"prefix":"https"}],"allowMethods":"GET"}`
	hostScript   = `"function envoy_on_request(request_handle)\n  local host = request_handle:headers():get(\":authority\")\n  request_handle:headers():add(\"x-forwarded-host\", host)\nend\n"`
)

// switchable are the filters that may be switched, in their order.
func switchable(state string) []string {
	return []string{
		denying("rbac", "DENY", state, `{"header":{"name":"x-deny","presentMatch":true}}`),
		`{"name":"authz",` + state + `"typedConfig":{` + filterTypes + `http.ext_authz.v3.ExtAuthz","grpcService":{"envoyGrpc":{"clusterName":"posternd."},"timeout":"5s"}}}`,
		`{"name":"cors",` + state + `"typedConfig":{` + filterTypes + `http.cors.v3.Cors"}}`,
		`{"name":"fault",` + state + `"typedConfig":{` + filterTypes + `http.fault.v3.HTTPFault","abort":{"httpStatus":418,"percentage":{"numerator":100}},"headers":[{"name":"x-fault","presentMatch":true}]}}`,
		`{"name":"mutation",` + state + `"typedConfig":{` + filterTypes + `http.header_mutation.v3.HeaderMutation","mutations":{"requestMutations":[{"append":{"header":{"key":"x-filter","value":"1"}}}],"responseMutations":[{"append":{"header":{"key":"x-filter-answer","value":"1"}}}]}}}`,
		`{"name":"lua",` + state + `"typedConfig":{` + filterTypes + `http.lua.v3.Lua","inlineCode":` + hostScript + `}}`,
	}
}

// TestSwitchedFilters: filters that are off or on by themselves, and what the levels of
// the route configuration make of it.
func TestSwitchedFilters(t *testing.T) {
	names := []string{"rbac", "authz", "cors", "fault", "mutation", "lua"}
	own := map[string]string{"rbac": ownRBAC, "authz": extended, "cors": corsPolicy, "fault": on, "mutation": rewriting, "lua": aloud}
	all := func(config string) string {
		var pairs []string
		for _, n := range names {
			pairs = append(pairs, n, config)
		}
		return switching(pairs...)
	}
	var each []string
	for _, n := range names {
		each = append(each, n, own[n])
	}
	var routes []string
	var paths []string
	add := func(path, more string) {
		routes = append(routes, fmt.Sprintf(`{"match":{"path":%q},%s,"route":{"cluster":"up","timeout":"0s"}}`, path, more))
		paths = append(paths, path)
	}
	add("/off", all(off))
	add("/on", all(on))
	add("/own", switching(each...))
	add("/off-with-more", switching("rbac", offWithMore))
	add("/none", switching("rbac", noRBAC))
	add("/config", switching("rbac", filterConfig+`,"config":`+ownRBAC+`}`))
	add("/lua-quiet", switching("lua", quiet, "rbac", on))
	add("/lua-aloud", switching("lua", aloud))
	add("/another-name", switching("nobody", ownRBAC))
	routes = append(routes, `{"match":{"path":"/weighted"},`+switching("rbac", off, "fault", on)+`,"route":{"timeout":"0s","weightedClusters":{"clusters":[{"name":"up","weight":1,`+switching("rbac", on, "fault", off, "mutation", rewriting)+`}]}}}`,
		`{"match":{"path":"/chosen-again","headers":[{"name":"x-forwarded-host","presentMatch":true}]},`+all(on)+`,"route":{"cluster":"up","timeout":"0s"}}`,
		`{"match":{"path":"/chosen-again"},`+switching("lua", on)+`,"route":{"cluster":"up","timeout":"0s"}}`,
		`{"match":{"path":"/direct"},`+all(on)+`,"directResponse":{"status":200}}`,
		`{"match":{"prefix":"/plain"},"route":{"cluster":"up","timeout":"0s"}}`)
	paths = append(paths, "/weighted", "/chosen-again", "/direct", "/plain", "/nowhere", "/plain/../../bad%")
	for i, state := range []string{"", `"disabled":true,`} {
		for j, level := range []string{"", all(off), all(on), switching("rbac", off, "mutation", on), switching(each...), switching("lua", quiet)} {
			for k, place := range []string{`"domains":["*"],`, `"virtualHosts":[`} { // of the virtual host, and of the whole
				if level == "" && k > 0 {
					continue
				}
				listener := listenerOf("l", "0.0.0.0", "", strings.Join(routes, ","), switchable(state)...)
				if level != "" {
					listener = strings.Replace(listener, place, map[int]string{0: place + level + ",", 1: level + "," + place}[k], 1)
				}
				var list []request
				for _, path := range paths {
					for _, h := range []envoy.Headers{nil, {{Name: "x-deny", Value: "1"}}, {{Name: "x-own", Value: "1"}}, {{Name: "x-fault", Value: "1"}}, {{Name: "origin", Value: "https://a.example"}}} {
						list = append(list, request{proto: "HTTP/1.1", host: "a", target: path, headers: h})
					}
				}
				for _, path := range paths {
					list = append(list, request{proto: "HTTP/2", method: "OPTIONS", host: "a", target: path, headers: envoy.Headers{{Name: "origin", Value: "https://a.example"}, {Name: "access-control-request-method", Value: "GET"}}})
				}
				list = append(list, request{proto: "HTTP/1.1", host: "a", target: "/plain", headers: envoy.Headers{{Name: "upgrade", Value: "x"}, {Name: "connection", Value: "upgrade"}}}, request{proto: "HTTP/1.1", host: "a/b", target: "/plain"})
				t.Run(fmt.Sprintf("%d-%d-%d", i, j, k), func(t *testing.T) { asked(t, byte(1+20*i+2*j+k), listener, list...) })
			}
		}
	}
}

// TestTypesNotNames: a filter is what its configuration's type says, whatever its name.
func TestTypesNotNames(t *testing.T) {
	get := request{proto: "HTTP/1.1", host: "a", target: "/"}
	for i, name := range []string{"istio.stats", "istio.metadata_exchange", "istio.alpn", "istio_authn", "envoy.filters.http.cors"} {
		t.Run(name, func(t *testing.T) {
			asked(t, byte(60+i), listenerOf("l", "0.0.0.0", "", everyPath, denying(name, "DENY", "", `{"any":true}`)), get)
		})
	}
	network := `{"name":"istio_authn","typedConfig":{` + filterTypes + `network.rbac.v3.RBAC","statPrefix":"x","rules":{"action":"DENY","policies":{"p":{"permissions":[{"any":true}],"principals":[{"any":true}]}}}}},`
	r := small(t, strings.Replace(listenerOf("l", "0.0.0.0", "", everyPath), `"filters":[`, `"filters":[`+network, 1))
	p, err := envoy.Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	o := p.Evaluate(get.engine(addrPort("127.0.0.1:1"), addrPort("10.0.0.1:8080")), envoy.Env{}, nil)
	if o.Kind != envoy.Unknown || !strings.Contains(o.Reason, "network.rbac.v3.RBAC") {
		t.Errorf("a network filter with a name of Istio's: got %s %s, want unknown by its type", o.Kind, o.Reason)
	}
}

// TestLogNeverDenies: RBAC of action LOG, which Istio makes of AUDIT, as rules, as
// shadow rules and per route; what it leaves is seen by an authorizer that is told.
func TestLogNeverDenies(t *testing.T) {
	authz := func(more string) string {
		return `{"name":"authz","typedConfig":{` + filterTypes + `http.ext_authz.v3.ExtAuthz","grpcService":{"envoyGrpc":{"clusterName":"posternd."},"timeout":"5s"},` + more + `"metadataContextNamespaces":["envoy.common","envoy.filters.http.rbac"]}}`
	}
	post := `{"header":{"name":":method","stringMatch":{"exact":"POST"}}}`
	policies := `"policies":{"p":{"permissions":[` + post + `],"principals":[{"any":true}]}}`
	shadow := `{"name":"rbac","typedConfig":{` + filterTypes + `http.rbac.v3.RBAC","shadowRulesStatPrefix":"s_","shadowRules":{"action":"LOG",` + policies + `}}}`
	enabled := `"filterEnabledMetadata":{"filter":"envoy.filters.http.rbac","path":[{"key":"s_shadow_engine_result"}],"value":{"stringMatch":{"exact":"allowed"}}},`
	perRoute := everyPath[:len(everyPath)-1] + `,` + switching("rbac", `{`+filterTypes+`http.rbac.v3.RBACPerRoute","rbac":{"rules":{"action":"LOG",`+policies+`}}}`) + `}`
	for i, listener := range []string{
		listenerOf("l", "0.0.0.0", "", everyPath, denying("rbac", "LOG", "", post), authz("")),
		listenerOf("l", "0.0.0.0", "", everyPath, denying("rbac", "LOG", "", post), denying("second", "LOG", "", `{"header":{"name":"x-second","presentMatch":true}}`), authz("")),
		listenerOf("l", "0.0.0.0", "", everyPath, shadow, authz(enabled)),
		listenerOf("l", "0.0.0.0", "", everyPath, denying("rbac", "ALLOW", "", `{"any":true}`), denying("rbac", "DENY", "", `{"header":{"name":"x-never","presentMatch":true}}`), authz("")),
		listenerOf("l", "0.0.0.0", "", everyPath, strings.Replace(denying("rbac", "DENY", "", post), `"rules":`, `"rulesStatPrefix":"r_","rules":`, 1), authz("")),
		listenerOf("l", "0.0.0.0", "", perRoute, denying("rbac", "DENY", "", `{"any":true}`), authz("")),
		listenerOf("l", "0.0.0.0", "", everyPath, `{"name":"rbac","typedConfig":{`+filterTypes+`http.rbac.v3.RBAC","rules":{"action":"LOG"}}}`, authz("")),
	} {
		asked(t, byte(70+i), listener, request{proto: "HTTP/1.1", host: "a", target: "/"}, request{proto: "HTTP/1.1", method: "POST", host: "a", target: "/", body: "x"},
			request{proto: "HTTP/2", method: "POST", host: "a", target: "/", headers: envoy.Headers{{Name: "x-second", Value: "1"}}})
	}
}
