//go:build e2e

package conformance

import (
	"math/rand/v2"
)

// enrich adds to a tenant's route what VirtualServices can ask of Envoy beside a
// destination.
func enrich(r *rand.Rand, http map[string]any) {
	if _, routed := http["route"]; routed && r.IntN(3) == 0 {
		destination := func(host string, weight int) map[string]any {
			d := map[string]any{"destination": map[string]any{"host": host, "port": map[string]any{"number": 80}}, "weight": weight}
			if r.IntN(2) == 0 {
				d["headers"] = map[string]any{"request": map[string]any{"set": map[string]any{"x-branch": "1"}, "remove": []any{"x-two"}}, "response": map[string]any{"add": map[string]any{"x-r": "branch"}, "remove": []any{"x-t"}}}
			}
			return d
		}
		first := pick(r, []int{0, 10, 50, 100})
		http["route"] = []any{destination("ml-pipeline-ui.kubeflow.svc.cluster.local", first), destination("orders.backend.svc.cluster.local", 100-first)}
	}
	if r.IntN(3) == 0 {
		cors := map[string]any{"allowOrigins": some1(r, map[string]any{"exact": "https://a.example"}, map[string]any{"prefix": "https://"}, map[string]any{"regex": "https://[a-b]\\.example"}, map[string]any{"exact": "*"})}
		for key, value := range map[string]any{"allowMethods": []any{"GET", "POST"}, "allowHeaders": []any{"x-foo", "authorization"}, "exposeHeaders": []any{"x-r"}, "maxAge": "86400s", "allowCredentials": true} {
			if r.IntN(2) == 0 {
				cors[key] = value
			}
		}
		http["corsPolicy"] = cors
	}
	if r.IntN(4) == 0 {
		abort := map[string]any{"httpStatus": pick(r, []int{400, 418, 503}), "percentage": map[string]any{"value": pick(r, []int{0, 100, 100})}}
		http["fault"] = pick(r, []map[string]any{{"abort": abort}, {"delay": map[string]any{"fixedDelay": "0.001s", "percentage": map[string]any{"value": 100}}}})
	}
	if _, routed := http["route"]; routed && r.IntN(4) == 0 {
		http["mirror"] = map[string]any{"host": "orders.backend.svc.cluster.local", "port": map[string]any{"number": 80}}
	}
	if _, routed := http["route"]; routed && r.IntN(4) == 0 {
		http["retries"] = pick(r, []map[string]any{{"attempts": 0}, {"attempts": 2, "perTryTimeout": "2s"}, {"attempts": 3, "retryOn": "gateway-error,503"}})
	}
}

func some1(r *rand.Rand, from ...any) []any {
	var out []any
	for _, x := range from {
		if r.IntN(2) == 0 {
			out = append(out, x)
		}
	}
	if len(out) == 0 {
		return []any{from[r.IntN(len(from))]}
	}
	return out
}

// randomPatches is an EnvoyFilter of one to three patches.
func randomPatches(r *rand.Rand, i int) map[string]any {
	var patches []any
	for range 1 + r.IntN(3) {
		patches = append(patches, randomPatch(r))
	}
	return object("EnvoyFilter", "networking.istio.io/v1alpha3", "istio-system", i, map[string]any{"workloadSelector": map[string]any{"labels": map[string]any{"istio": "ingressgateway"}}, "priority": 10, "configPatches": patches})
}

// randomPatch is one of what administrators write: another filter, a connection
// manager's setting, an authorizer's, a route's.
func randomPatch(r *rand.Rand) map[string]any {
	const api = "type.googleapis.com/envoy.extensions.filters.http."
	manager := map[string]any{"context": "GATEWAY", "listener": map[string]any{"filterChain": map[string]any{"filter": map[string]any{"name": "envoy.filters.network.http_connection_manager"}}}}
	sub := func(name string) map[string]any {
		return map[string]any{"context": "GATEWAY", "listener": map[string]any{"filterChain": map[string]any{"filter": map[string]any{"name": "envoy.filters.network.http_connection_manager", "subFilter": map[string]any{"name": name}}}}}
	}
	insert := func(value map[string]any) map[string]any {
		return map[string]any{"applyTo": "HTTP_FILTER", "match": sub(pick(r, []string{"envoy.filters.http.router", "envoy.filters.http.router", "envoy.filters.http.cors"})), "patch": map[string]any{"operation": "INSERT_BEFORE", "value": value}}
	}
	var patch map[string]any
	switch r.IntN(8) {
	case 0: // Kubeflow's own Lua once more, which chooses the route again
		patch = insert(map[string]any{"name": "envoy.filters.http.lua", "typed_config": map[string]any{"@type": api + "lua.v3.Lua",
			"inlineCode": "function envoy_on_request(request_handle)\n  local host = request_handle:headers():get(\":authority\")\n  request_handle:headers():add(\"x-forwarded-host\", host)\nend\n"}})
	case 1:
		patch = insert(map[string]any{"name": "envoy.filters.http.header_mutation", "typed_config": map[string]any{"@type": api + "header_mutation.v3.HeaderMutation", "mutations": map[string]any{
			"request_mutations":  []any{randomMutation(r, "x-foo", "x-tenant", "via"), randomMutation(r, "x-two", "x-foo")},
			"response_mutations": []any{randomMutation(r, "x-r"), randomMutation(r, "x-u", "x-t")}}}})
	case 2:
		patch = insert(map[string]any{"name": "envoy.filters.http.fault", "typed_config": map[string]any{"@type": api + "fault.v3.HTTPFault",
			"abort":   map[string]any{"percentage": map[string]any{"numerator": pick(r, []int{0, 100})}, pick(r, []string{"http_status", "grpc_status"}): pick(r, []int{404, 503, 429})},
			"headers": []any{map[string]any{"name": pick(r, []string{"x-foo", ":method"}), "string_match": map[string]any{"exact": pick(r, []string{"a", "POST"})}}}}})
	case 3:
		value := pick(r, []map[string]any{{"merge_slashes": true}, {"path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"}, {"path_with_escaped_slashes_action": "REJECT_REQUEST", "merge_slashes": true}, {"path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT"},
			{"common_http_protocol_options": map[string]any{"headers_with_underscores_action": "REJECT_REQUEST"}}, {"common_http_protocol_options": map[string]any{"headers_with_underscores_action": "DROP_HEADER"}},
			{"strip_any_host_port": true}, {"strip_matching_host_port": true}, {"strip_trailing_host_dot": true}, {"xff_num_trusted_hops": 1}, {"xff_num_trusted_hops": 2}, {"skip_xff_append": true}, {"normalize_path": false},
			{"http_protocol_options": map[string]any{"accept_http_10": true}}, {"http_protocol_options": map[string]any{"accept_http_10": true, "default_host_for_http_10": "tenant.example.org"}}})
		value["@type"] = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
		patch = map[string]any{"applyTo": "NETWORK_FILTER", "match": manager, "patch": map[string]any{"operation": "MERGE", "value": map[string]any{"typed_config": value}}}
	case 4:
		value := pick(r, []map[string]any{{"failure_mode_allow": true}, {"failure_mode_allow": true, "failure_mode_allow_header_add": true}, {"status_on_error": map[string]any{"code": "BadGateway"}}, {"clear_route_cache": true},
			{"disallowed_headers": map[string]any{"patterns": []any{map[string]any{"exact": "x-foo"}, map[string]any{"prefix": "x-t"}}}}, {"filter_enabled": map[string]any{"default_value": map[string]any{"numerator": 0}}},
			{"metadata_context_namespaces": []any{"envoy.filters.http.jwt_authn", "envoy.filters.http.rbac"}}, {"route_metadata_context_namespaces": []any{"istio"}}})
		value["@type"] = api + "ext_authz.v3.ExtAuthz"
		patch = map[string]any{"applyTo": "HTTP_FILTER", "match": sub("envoy.filters.http.ext_authz"), "patch": map[string]any{"operation": "MERGE", "value": map[string]any{"name": "envoy.filters.http.ext_authz", "typed_config": value}}}
	default:
		patch = routePatch(r)
	}
	return patch
}

// randomMutation is one of header_mutation's, most often sound.
func randomMutation(r *rand.Rand, names ...string) map[string]any {
	name := pick(r, names)
	if r.IntN(12) == 0 {
		name = pick(r, []string{":authority", "host", ":path", ":method", ":scheme"})
	}
	if name[0] == ':' && r.IntN(4) > 0 || r.IntN(4) == 0 {
		return map[string]any{"remove": name}
	}
	return map[string]any{"append": randomOption(r, name)}
}

// randomOption is a HeaderValueOption.
func randomOption(r *rand.Rand, name string) map[string]any {
	o := map[string]any{"header": map[string]any{"key": name, "value": pick(r, []string{"", "a", "alpha", "mutated"})}}
	switch r.IntN(6) {
	case 0: // the default
	case 1:
		o["append"] = r.IntN(2) == 0
	default:
		o["append_action"] = pick(r, []string{"APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS"})
	}
	if r.IntN(3) == 0 {
		o["keep_empty_value"] = true
	}
	return o
}

// headersPatch gives a level of the route configuration header options.
func headersPatch(r *rand.Rand) map[string]any {
	value := map[string]any{}
	for key, names := range map[string][]string{"request_headers_to_add": {"x-foo", "x-two", "x-tenant", "via"}, "response_headers_to_add": {"x-r", "x-t", "x-u", "x-new"}} {
		if r.IntN(40) == 0 {
			names = []string{"host", ":path", ":authority", "Host"}
		}
		var options []any
		for range r.IntN(4) {
			options = append(options, randomOption(r, pick(r, names)))
		}
		value[key] = options
	}
	if r.IntN(4) == 0 {
		value[pick(r, []string{"request_headers_to_remove", "response_headers_to_remove"})] = []any{pick(r, []string{"x-foo", "x-r", "x-t", "X-Two", "via"})}
	}
	return value
}

// actionPatch gives a tenant's routes what VirtualServices cannot ask for. On a route
// that leads to no cluster Envoy refuses it.
func actionPatch(r *rand.Rand) map[string]any {
	return map[string]any{"route": pick(r, []map[string]any{{"cluster_not_found_response_code": "NOT_FOUND"}, {"cluster_not_found_response_code": "INTERNAL_SERVER_ERROR"},
		{"regex_rewrite": map[string]any{"pattern": map[string]any{"regex": "/v([0-9]+)"}, "substitution": `/w\1`}}, {"prefix_rewrite": "/patched"}})}
}

// routePatch gives routes, virtual hosts or whole route configurations header options
// and settings of filters, or routes more of their action.
func routePatch(r *rand.Rand) map[string]any {
	merge := func(applyTo string, value map[string]any) map[string]any {
		return map[string]any{"applyTo": applyTo, "match": map[string]any{"context": "GATEWAY"}, "patch": map[string]any{"operation": "MERGE", "value": value}}
	}
	levels := []string{"HTTP_ROUTE", "HTTP_ROUTE", "VIRTUAL_HOST", "ROUTE_CONFIGURATION"}
	switch r.IntN(5) {
	case 0:
		return merge("HTTP_ROUTE", actionPatch(r))
	case 1, 2:
		return merge(pick(r, levels), headersPatch(r))
	}
	const api = "type.googleapis.com/envoy.extensions.filters.http."
	filter := pick(r, []string{"envoy.filters.http.ext_authz", "envoy.filters.http.rbac", "envoy.filters.http.cors", "envoy.filters.http.fault", "envoy.filters.http.header_mutation", "envoy.filters.http.ext_authz"})
	config := map[string]map[string]any{
		"envoy.filters.http.ext_authz": pick(r, []map[string]any{{"@type": api + "ext_authz.v3.ExtAuthzPerRoute", "disabled": true}, {"@type": api + "ext_authz.v3.ExtAuthzPerRoute", "check_settings": map[string]any{"context_extensions": map[string]any{"from": "route"}}}}),
		"envoy.filters.http.rbac": pick(r, []map[string]any{{"@type": api + "rbac.v3.RBACPerRoute"}, {"@type": api + "rbac.v3.RBACPerRoute", "rbac": map[string]any{"rules": map[string]any{"action": "DENY", "policies": map[string]any{
			"p": map[string]any{"permissions": []any{map[string]any{"header": map[string]any{"name": ":method", "string_match": map[string]any{"exact": "POST"}}}}, "principals": []any{map[string]any{"any": true}}}}}}}}),
		"envoy.filters.http.cors":            {"@type": api + "cors.v3.CorsPolicy", "allow_origin_string_match": []any{map[string]any{"prefix": "https"}}, "allow_methods": "GET", "forward_not_matching_preflights": r.IntN(2) == 0},
		"envoy.filters.http.fault":           {"@type": api + "fault.v3.HTTPFault", "abort": map[string]any{"percentage": map[string]any{"numerator": 100}, "http_status": 418}, "headers": []any{map[string]any{"name": "x-foo", "present_match": true}}},
		"envoy.filters.http.header_mutation": {"@type": api + "header_mutation.v3.HeaderMutationPerRoute", "mutations": map[string]any{"request_mutations": []any{randomMutation(r, "x-two")}, "response_mutations": []any{randomMutation(r, "x-r")}}},
	}[filter]
	if r.IntN(5) == 0 {
		config = map[string]any{"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true, "config": config}
	}
	return merge(pick(r, levels), map[string]any{"typed_per_filter_config": map[string]any{filter: config}})
}

// randomAuthentication is a RequestAuthentication on the gateway with keys of ours.
func randomAuthentication(r *rand.Rand, i int, tokens *mint) map[string]any {
	rule := map[string]any{"issuer": pick(r, tokens.issuers), "jwks": tokens.keys}
	if r.IntN(2) == 0 {
		rule["audiences"] = some(r, tokens.audiences...)
	}
	if r.IntN(3) == 0 {
		rule["fromHeaders"] = pick(r, [][]any{{map[string]any{"name": "x-token"}}, {map[string]any{"name": "x-token", "prefix": "T "}, map[string]any{"name": "Authorization", "prefix": "Bearer "}}})
	}
	if r.IntN(3) == 0 {
		rule["fromParams"] = []any{"token"}
	}
	if r.IntN(2) == 0 {
		rule["forwardOriginalToken"] = true
	}
	if r.IntN(3) == 0 {
		rule["outputPayloadToHeader"] = "x-payload"
	}
	if r.IntN(2) == 0 {
		rule["outputClaimToHeaders"] = []any{map[string]any{"header": "x-tenant", "claim": "scope"}, map[string]any{"header": "kubeflow-userid", "claim": "email"}}
	}
	return object("RequestAuthentication", "security.istio.io/v1beta1", "istio-system", i, map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"istio": "ingressgateway"}}, "jwtRules": []any{rule}})
}
