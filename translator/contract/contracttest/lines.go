package contracttest

import (
	"encoding/json"
	"regexp"
	"sort"
	"strings"
	"testing"

	"postern.dev/postern/translator/contract"
)

// Facts are what tells lines apart and can change an answer: translator/README.md, "How lines differ". An empty string is a field that
// the line does not write.
type Facts struct {
	DeprecatedNames  bool   // an EnvoyFilter may name filters as before Envoy 1.14
	RetryCodes       string // of the default retry policy
	Proxy100Continue string
	NetworkAuthn     string // a network filter before the connection manager
	AllowedHeaders   string // where ext_authz has them
	ShadowPrefix     string // of the rules that switch a CUSTOM provider on
	ShadowPolicy     string // what the matched policy's name must begin with
	SecondProvider   string // what is denied on a workload with two CUSTOM providers
	Principal        string // the filter whose metadata a request principal is read from
	ClearRouteCache  string // jwt_authn has Envoy choose the route again
	ConfigVersion    string // in a route's istio.config
	DirectResponse   string // the longest body, in bytes; Envoy's default is 4096
	Placeholder      string // how the modulus of the key begins that stands in for keys that cannot be fetched
}

// envoyFilters are what becomes of the releases' EnvoyFilters, with and without deprecated names: the filters that decide, in order.
var envoyFilters = []struct{ release, with, without string }{
	{"v1.4.0-shared", "ext_authz rbac lua", "ext_authz rbac"}, // `listener:` beside `match:` is ignored, so it matches all gateways
	{"v1.6.1", "ext_authz rbac lua", "rbac"},
	{"v1.8.1-shared", "ext_authz rbac lua", "rbac"}, // no login at all
	{"v1.8.1-shared-blogfix", "rbac ext_authz rbac lua", "rbac ext_authz rbac"},
	{"v1.9.1", "rbac ext_authz jwt_authn rbac rbac", "rbac ext_authz jwt_authn rbac rbac"}, // none of them decides
	{"26.03", "rbac ext_authz jwt_authn rbac rbac", "rbac ext_authz jwt_authn rbac rbac"},
}

// CompareFacts translates the same releases by every line.
func CompareFacts(t *testing.T, line contract.Line, toJSON ToJSON, want Facts) {
	t.Helper()
	for _, tt := range envoyFilters {
		t.Run(tt.release, func(t *testing.T) {
			out := Translate(t, line, Release(t, toJSON, tt.release), IngressGateway())
			decide := tt.without
			if want.DeprecatedNames {
				decide = tt.with
			}
			if got := strings.Join(deciding(t, out.Proxies[0], 8080), " "); got != decide {
				t.Errorf("got filters %s, want %s", got, decide)
			}
		})
	}
	t.Run("fields", func(t *testing.T) {
		provider := text(Translate(t, line, Release(t, toJSON, "v1.8.1-shared-blogfix"), IngressGateway()).Proxies[0])
		tokens := text(Translate(t, line, Release(t, toJSON, "v1.9.1"), IngressGateway()).Proxies[0])
		got := Facts{
			DeprecatedNames:  want.DeprecatedNames,
			RetryCodes:       find(provider, `"retriableStatusCodes":\[([^]]*)`),
			Proxy100Continue: find(provider, `"proxy100Continue":(\w+)`),
			NetworkAuthn:     find(provider, `"typeUrl":"type.googleapis.com/(io.istio.network.authn)`),
			AllowedHeaders:   find(provider, `"(authorizationRequest|@type":"type.googleapis.com/[\w.]*ExtAuthz)"[,:]{?"allowedHeaders"`),
			ShadowPrefix:     find(provider, `"shadowRulesStatPrefix":"(istio_ext_authz[^"]*)"`),
			ShadowPolicy:     find(provider, `"stringMatch":{"prefix":"(istio-ext-authz[^"]*)"`),
			SecondProvider:   denied(text(Translate(t, line, Objects(t, toJSON, twoProviders()), IngressGateway()).Proxies[0])),
			Principal:        find(tokens, `"metadata":{"filter":"(istio_authn|envoy.filters.http.jwt_authn)"`),
			ClearRouteCache:  find(tokens, `"clearRouteCache":(\w+)`),
			ConfigVersion:    find(provider, `"config":"/apis/networking.istio.io/(\w+)/`),
			DirectResponse:   find(provider, `"maxDirectResponseBodySizeBytes":(\w+)`),
			Placeholder:      find(tokens, `\\"n\\": *\\"(.{6})`),
		}
		if i := strings.LastIndex(got.AllowedHeaders, "."); i >= 0 {
			got.AllowedHeaders = got.AllowedHeaders[i+1:]
		}
		if got != want {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
	})
}

// twoProviders is the suite's world with a second CUSTOM provider on the gateway.
func twoProviders() string {
	return strings.Replace(world, "    extensionProviders:\n", `    extensionProviders:
    - name: second
      envoyExtAuthzHttp: {service: login.istio-system.svc.cluster.local, port: 8080}
`, 1) + `
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: second, namespace: istio-system}
spec:
  action: CUSTOM
  provider: {name: second}
  selector: {matchLabels: {istio: ingressgateway}}
  rules: [{to: [{operation: {paths: [/second]}}]}]
`
}

// denied reads what Istio puts in place of CUSTOM policies that it does not take.
func denied(config string) string {
	switch {
	case strings.Contains(config, `"default-deny-all-due-to-bad-CUSTOM-action":`):
		return "everything"
	case strings.Contains(config, `[login]-rule[0]-deny-due-to-bad-CUSTOM-action":`) && strings.Contains(config, `[second]-rule[0]-deny-due-to-bad-CUSTOM-action":`):
		return "what their rules match"
	}
	return ""
}

// find returns what a pattern's group matches, each text once.
func find(in, pattern string) string {
	seen := map[string]bool{}
	var out []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(in, -1) {
		if !seen[m[1]] {
			seen[m[1]] = true
			out = append(out, m[1])
		}
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

// deciding are the HTTP filters that decide, by their short names, of a proxy's listener on a port, in order.
func deciding(t *testing.T, c contract.ProxyConfig, port int) []string {
	t.Helper()
	short := map[string]string{
		"envoy.filters.http.ext_authz": "ext_authz",
		"envoy.filters.http.jwt_authn": "jwt_authn",
		"envoy.filters.http.rbac":      "rbac",
		"envoy.filters.http.lua":       "lua",
	}
	var out []string
	for _, f := range filters(t, c, port) {
		if s, ok := short[f]; ok {
			out = append(out, s)
		}
	}
	return out
}

// filters are the names of the HTTP filters of a proxy's listener on a port, in order.
func filters(t *testing.T, c contract.ProxyConfig, port int) []string {
	t.Helper()
	for _, l := range c.Listeners {
		var read struct {
			Address struct {
				SocketAddress struct {
					PortValue int `json:"portValue"`
				} `json:"socketAddress"`
			} `json:"address"`
			FilterChains []struct {
				Filters []struct {
					TypedConfig struct {
						HTTPFilters []struct {
							Name string `json:"name"`
						} `json:"httpFilters"`
					} `json:"typedConfig"`
				} `json:"filters"`
			} `json:"filterChains"`
		}
		if err := json.Unmarshal(l, &read); err != nil {
			t.Fatal(err)
		}
		if read.Address.SocketAddress.PortValue != port {
			continue
		}
		var out []string
		for _, chain := range read.FilterChains {
			for _, filter := range chain.Filters {
				for _, h := range filter.TypedConfig.HTTPFilters {
					out = append(out, h.Name)
				}
			}
		}
		return out
	}
	t.Fatalf("proxy %s: no listener on port %d", c.Name, port)
	return nil
}
