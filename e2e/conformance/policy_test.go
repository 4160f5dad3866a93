//go:build e2e

package conformance

import (
	"math/rand/v2"
	"strings"
)

// randomPolicy is an AuthorizationPolicy on the gateway: of each action but CUSTOM, of
// one to three rules, some of them a dry run.
func randomPolicy(r *rand.Rand, i int) map[string]any {
	var rules []any
	for range 1 + r.IntN(3) {
		rules = append(rules, randomRule(r))
	}
	spec := map[string]any{"action": pick(r, []string{"ALLOW", "DENY", "DENY", "AUDIT"}), "rules": rules, "selector": map[string]any{"matchLabels": map[string]any{"istio": "ingressgateway"}}}
	o := object("AuthorizationPolicy", "security.istio.io/v1beta1", "istio-system", i, spec)
	if r.IntN(6) == 0 {
		o["metadata"].(map[string]any)["annotations"] = map[string]any{"istio.io/dry-run": "true"}
	}
	return o
}

func randomRule(r *rand.Rand) map[string]any {
	rule := map[string]any{}
	several := func(of func() any) (list []any) {
		for range 1 + r.IntN(2) {
			list = append(list, of())
		}
		return list
	}
	if r.IntN(2) == 0 {
		rule["to"] = several(func() any { return map[string]any{"operation": randomOperation(r)} })
	}
	if r.IntN(2) == 0 {
		rule["from"] = several(func() any {
			source := randomSource(r)
			if r.IntN(3) == 0 {
				for k, v := range randomSource(r) {
					source[k] = v
				}
			}
			return map[string]any{"source": source}
		})
	}
	if r.IntN(2) == 0 {
		rule["when"] = several(func() any {
			return map[string]any{"key": pick(r, []string{"request.headers[x-foo]", "request.headers[x-tenant]", "request.headers[:method]", "request.headers[user-agent]", "destination.port", "destination.ip", "source.ip", "remote.ip", "source.principal", "source.namespace",
				"connection.sni", "request.auth.claims[iss]", "request.auth.claims[groups]", "request.auth.principal", "request.auth.audiences", "request.auth.presenter"}),
				pick(r, []string{"values", "notValues"}): some(r, "a", "*", "b*", "*a", "8080", "POST", "https://one.example", "postern", ours+".0.0/16")}
		})
	}
	return rule
}

func randomSource(r *rand.Rand) map[string]any {
	key := pick(r, []string{"ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks", "principals", "notPrincipals", "namespaces", "notNamespaces", "requestPrincipals", "notRequestPrincipals"})
	values := some(r, "cluster.local/ns/a/sa/b", "*", "https://one.example/*")
	switch {
	case strings.Contains(strings.ToLower(key), "ipblocks"):
		values = some(r, ours+".0.0/16", "10.0.0.0/8", ours+".101.2", "1.2.3.4")
	case strings.HasSuffix(strings.ToLower(key), "namespaces"):
		values = some(r, "kubeflow", "team-*")
	}
	return map[string]any{key: values}
}

func randomOperation(r *rand.Rand) map[string]any {
	op := map[string]any{}
	for range 1 + r.IntN(2) {
		not := pick(r, []string{"", "not"})
		name := func(s string) string {
			if not != "" {
				return not + strings.ToUpper(s[:1]) + s[1:]
			}
			return s
		}
		switch r.IntN(4) {
		case 0:
			op[name("paths")] = some(r, "/v1*", "/pipeline", "*predict", "/dex/*", "*")
		case 1:
			op[name("methods")] = some(r, "GET", "POST", "OPTIONS")
		case 2:
			op[name("hosts")] = some(r, "sklearn-iris.kserve-test.example.com", "*.example.com", "orders*", "LOCALHOST:8080")
		case 3:
			op[name("ports")] = some(r, "8080", "8081")
		}
	}
	return op
}
