package main

// object is JSON.
type object = map[string]any

// bootstrap has a listener for every variant; they differ in whom they ask.
func bootstrap(variants []*variant, upstream, admin int) object {
	clusters := []any{cluster("upstream", upstream, false)}
	var listeners []any
	for _, v := range variants {
		filters := []any{}
		if v.asks != nil {
			clusters = append(clusters, cluster(v.Name, v.asks.port(), true))
			filters = append(filters, object{"name": "envoy.filters.http.ext_authz", "typed_config": object{
				"@type":                 "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
				"transport_api_version": "V3",
				"status_on_error":       object{"code": "ServiceUnavailable"},
				"grpc_service":          object{"envoy_grpc": object{"cluster_name": v.Name}, "timeout": "2s"},
			}})
		}
		filters = append(filters, object{"name": "envoy.filters.http.router", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})
		listeners = append(listeners, object{"name": v.Name, "address": socket(v.port), "filter_chains": []any{object{"filters": []any{object{
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
