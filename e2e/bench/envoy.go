package main

import "fmt"

// object is JSON.
type object = map[string]any

// bootstrap has a listener for every variant; they differ in whom they ask.
func bootstrap(variants []*variant, upstream, admin int) object {
	clusters := []any{cluster("upstream", upstream, false)}
	var listeners []any
	for i, v := range variants {
		name := fmt.Sprintf("v%d", i)
		filters := []any{}
		if v.filter != nil {
			filters = append(filters, v.filter(name))
		}
		if v.asks != nil {
			clusters = append(clusters, cluster(name, v.asks.port(), !v.byHTTP))
		}
		filters = append(filters, object{"name": "envoy.filters.http.router", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})
		listeners = append(listeners, object{"name": name, "address": socket(v.port), "filter_chains": []any{object{"filters": []any{object{
			"name": "envoy.filters.network.http_connection_manager", "typed_config": object{
				"@type":              "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
				"stat_prefix":        "bench",
				"use_remote_address": true,
				"normalize_path":     true,
				"http_filters":       filters,
				"route_config": object{"virtual_hosts": []any{object{"name": "all", "domains": []any{"*"}, "routes": []any{
					object{"match": object{"prefix": "/"}, "route": object{"cluster": "upstream"}}}}}},
			}}}}}})
	}
	return object{
		"node":             object{"id": "bench", "cluster": "bench"},
		"admin":            object{"address": socket(admin)},
		"static_resources": object{"listeners": listeners, "clusters": clusters},
	}
}

func extAuthz(more object) object {
	config := object{
		"@type":                 "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
		"transport_api_version": "V3",
		"status_on_error":       object{"code": "ServiceUnavailable"},
	}
	for k, v := range more {
		config[k] = v
	}
	return object{"name": "envoy.filters.http.ext_authz", "typed_config": config}
}

// byGRPC asks with all headers.
func byGRPC(cluster string) object {
	return extAuthz(object{"grpc_service": object{"envoy_grpc": object{"cluster_name": cluster}, "timeout": "2s"}})
}

// fewHeaders are those that posternd looks at: credentials, what CORS and session
// rules need, the trace, and whatever may name a caller, in any spelling. Without
// the last, a header that a client has sent could not be removed. (One regular
// expression of all is refused: Envoy takes RE2 programs up to a size of 100.)
func fewHeaders() object {
	var patterns []any
	for _, name := range []string{"authorization", "cookie", "content-type", "accept", "origin", "traceparent", "sec-fetch-site"} {
		patterns = append(patterns, object{"exact": name})
	}
	for _, begin := range []string{"access-control-request-", "kubeflow", "x-api", "x_api", "x-auth", "x_auth", "x-forwarded", "x_forwarded", "x-postern", "x_postern", "x-user", "x_user"} {
		patterns = append(patterns, object{"prefix": begin})
	}
	return object{"patterns": patterns}
}

// byGRPCFew asks with those headers only.
func byGRPCFew(cluster string) object {
	return extAuthz(object{"grpc_service": object{"envoy_grpc": object{"cluster_name": cluster}, "timeout": "2s"}, "allowed_headers": fewHeaders()})
}

// asKubeflow asks by HTTP, as Kubeflow 26.03's mesh configuration says of
// oauth2-proxy (extensionProviders, envoyExtAuthzHttp).
func asKubeflow(cluster string) object {
	exactly := func(names ...string) object {
		var patterns []any
		for _, n := range names {
			patterns = append(patterns, object{"exact": n})
		}
		return object{"patterns": patterns}
	}
	return extAuthz(object{
		"allowed_headers": exactly("authorization", "cookie"),
		"http_service": object{
			"server_uri":             object{"uri": "http://oauth2-proxy", "cluster": cluster, "timeout": "2s"},
			"authorization_response": object{"allowed_upstream_headers": exactly("authorization", "path", "x-auth-request-email", "x-auth-request-groups", "x-auth-request-user")},
		},
	})
}

// jwtAuthn is Envoy's own filter for tokens.
func jwtAuthn(jwks string, cached bool) func(string) object {
	provider := object{"issuer": issuer, "audiences": []any{"postern"}, "local_jwks": object{"inline_string": jwks}, "forward": true}
	if cached {
		provider["jwt_cache_config"] = object{"jwt_cache_size": 1000}
	}
	return func(string) object {
		return object{"name": "envoy.filters.http.jwt_authn", "typed_config": object{
			"@type":     "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
			"providers": object{"bench": provider},
			"rules":     []any{object{"match": object{"prefix": "/"}, "requires": object{"provider_name": "bench"}}},
		}}
	}
}

func socket(port int) object {
	return object{"socket_address": object{"address": "127.0.0.1", "port_value": port}}
}

func cluster(name string, port int, grpc bool) object {
	c := object{"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": object{"cluster_name": name, "endpoints": []any{
		object{"lb_endpoints": []any{object{"endpoint": object{"address": socket(port)}}}}}}}
	if grpc {
		c["typed_extension_protocol_options"] = object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
			"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			"explicit_http_config": object{"http2_protocol_options": object{}},
		}}
	}
	return c
}
