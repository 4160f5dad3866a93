//go:build e2e

package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"postern.dev/postern/internal/envoy"
)

// listenerOf is a listener's JSON: more is in front of the connection manager's fields
// and ends with a comma (of those Istio sets it may have another useRemoteAddress and normalizePath), routes are those of the one virtual host, filters stand before
// the router.
func listenerOf(name, address, more, routes string, filters ...string) string {
	const types = `"@type":"type.googleapis.com/envoy.extensions.filters.`
	for _, field := range []string{"useRemoteAddress", "normalizePath"} {
		if !strings.Contains(more, field) {
			more += `"` + field + `":true,`
		}
	}
	filters = append(filters, `{"name":"router","typedConfig":{`+types+`http.router.v3.Router"}}`)
	return fmt.Sprintf(`{"name":%q,"address":{"socketAddress":{"address":%q,"portValue":8080}},"filterChains":[{"filters":[{"name":"hcm","typedConfig":{`+types+`network.http_connection_manager.v3.HttpConnectionManager",
	 "statPrefix":"x","serverName":"istio-envoy",%s"routeConfig":{"name":"r","ignorePortInHostMatching":true,"validateClusters":false,"virtualHosts":[{"name":"all","domains":["*"],"routes":[%s]}]},
	 "httpFilters":[%s]}}]}]}`, name, address, more, routes, strings.Join(filters, ","))
}

// small is a gateway of one listener, for the clusters up, authservice. and posternd.,
// of which the last two are authorizers, by HTTP and by gRPC.
func small(t *testing.T, listener string) envoy.Resources {
	t.Helper()
	return parse(t, []json.RawMessage{json.RawMessage(listener)}, nil, []json.RawMessage{json.RawMessage(`{"name":"up"}`), json.RawMessage(`{"name":"authservice."}`), json.RawMessage(`{"name":"posternd.","http2ProtocolOptions":{}}`)})
}

const everyPath = `{"match":{"prefix":"/"},"route":{"cluster":"up","timeout":"0s"}}`

// both are the requests over HTTP/1.1 and HTTP/2, unless they say over what.
func both(requests []request) []request {
	var out []request
	for _, q := range requests {
		if q.proto != "" {
			out = append(out, q)
			continue
		}
		for _, q.proto = range []string{"HTTP/1.1", "HTTP/2"} {
			out = append(out, q)
		}
	}
	return out
}

// asked compares the answers to requests of a small gateway, each as q makes it.
func asked(t *testing.T, host byte, listener string, requests ...request) {
	t.Helper()
	p, err := start(t, configuration{name: "small", resources: small(t, listener)}, host)
	if err != nil {
		t.Fatal(err)
	}
	conns := p.clients()
	defer conns.close()
	for i, q := range requests {
		q.port, q.scheme = 8080, "http"
		if q.method == "" {
			q.method = "GET"
		}
		q.headers = append(envoy.Headers{{Name: "cookie", Value: "t=" + strconv.Itoa(i)}}, q.headers...)
		if diff := p.compare(conns.of(q), q, strconv.Itoa(i)); diff != "" {
			t.Errorf("%q\n%s", q, diff)
		}
	}
	t.Logf("%s", counts(p.coverage.outcomes))
}

// TestHeaderCounts: max_headers_count, set and by default, on both protocols, with what
// counts once, twice or not at all.
func TestHeaderCounts(t *testing.T) {
	for i, tt := range []struct {
		options string
		most    int
	}{{"", 100}, {`"commonHttpProtocolOptions":{"maxHeadersCount":12},`, 12}, {`"commonHttpProtocolOptions":{"maxHeadersCount":150},`, 150},
		{`"commonHttpProtocolOptions":{"maxHeadersCount":12,"headersWithUnderscoresAction":"DROP_HEADER"},`, 12}, {`"commonHttpProtocolOptions":{"maxHeadersCount":12,"headersWithUnderscoresAction":"REJECT_REQUEST"},`, 12}} {
		var list []request
		for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
			for n := tt.most - 8; n <= tt.most+2; n++ {
				var many envoy.Headers
				for k := range n {
					many = append(many, envoy.Header{Name: fmt.Sprintf("x-%d", k), Value: "1"})
				}
				for _, more := range []envoy.Headers{nil, {{Name: "accept", Value: "a"}, {Name: "accept", Value: "b"}, {Name: "accept", Value: "c"}}, {{Name: "x-1", Value: "2"}, {Name: "x-1", Value: "3"}}, {{Name: "cookie", Value: "a=1"}, {Name: "cookie", Value: "b=1"}}, {{Name: "a_b", Value: "1"}, {Name: "c_d", Value: "1"}}} {
					list = append(list, request{proto: proto, host: "a", target: "/", headers: append(append(envoy.Headers{}, more...), many...)}, request{proto: proto, host: "a", target: "/", headers: append(append(envoy.Headers{}, many...), more...)})
				}
				list = append(list, request{proto: proto, method: "POST", host: "a", target: "/", headers: many, body: "x"})
				if proto == "HTTP/1.1" {
					list = append(list, request{proto: proto, method: "POST", host: "a", target: "/", headers: many, body: "x", chunked: true},
						request{proto: proto, host: "a", target: "/", headers: append(envoy.Headers{{Name: "host", Value: "b"}}, many...)},
						request{proto: proto, method: "CONNECT", host: "a", target: "a:80", headers: many}, request{proto: proto, host: "a", target: "bad", headers: many}, request{proto: proto, method: "CONNECT", host: "a", target: "/x", headers: many}, request{proto: proto, method: "CONNECT", host: "a", target: "a", headers: many},
						request{proto: proto, host: "a", target: "*", headers: many}, request{proto: proto, host: "a", target: "http:///x", headers: many}, request{proto: proto, host: "a", target: "http://", headers: many}, request{proto: proto, host: "a", target: "http://?x", headers: many}, request{proto: proto, host: "a", target: "http://a#b", headers: many}, request{proto: proto, method: "NONE", host: "a", target: "/", headers: many}, request{proto: "HTTP/1.0", host: "a", target: "/", headers: many},
						request{proto: proto, host: "a", target: "http://b/x", headers: many}, request{proto: proto, host: "a/b", target: "/", headers: many})
				} else {
					list = append(list, request{proto: proto, method: "CONNECT", host: "a", headers: many})
				}
			}
		}
		t.Run(strconv.Itoa(i), func(t *testing.T) { asked(t, byte(220+i), listenerOf("l", "0.0.0.0", tt.options, everyPath), list...) })
	}
}

// TestHeaderCountsBehindAnAuthorizer: what it allows is refused when the request has too
// many headers by then.
func TestHeaderCountsBehindAnAuthorizer(t *testing.T) {
	const types = `"@type":"type.googleapis.com/envoy.extensions.filters.`
	for i, service := range []string{`"grpcService":{"envoyGrpc":{"clusterName":"posternd."},"timeout":"5s"}`,
		`"httpService":{"serverUri":{"uri":"http://a","cluster":"authservice.","timeout":"5s"},"authorizationRequest":{"allowedHeaders":{"patterns":[{"prefix":"x-"},{"exact":"cookie"}]}},"authorizationResponse":{"allowedUpstreamHeaders":{"patterns":[{"prefix":"kubeflow"},{"prefix":"x-not"}]}}}`} {
		authz := `{"name":"authz","typedConfig":{` + types + `http.ext_authz.v3.ExtAuthz",` + service + `}}`
		plain := listenerOf("l", "0.0.0.0", `"commonHttpProtocolOptions":{"maxHeadersCount":16},`, everyPath, authz)
		traced := strings.Replace(strings.Replace(plain, `"statPrefix":"x",`, `"statPrefix":"x","tracing":{},`, 1), `"match":{"prefix":"/"}`, `"decorator":{"operation":"o"},"match":{"prefix":"/"}`, 1)
		outwards := strings.Replace(traced, `"filterChains":`, `"trafficDirection":"OUTBOUND","filterChains":`, 1)
		for j, listener := range []string{plain, outwards} {
			var list []request
			for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
				for n := range 14 {
					var many envoy.Headers
					for k := range n {
						many = append(many, envoy.Header{Name: fmt.Sprintf("x-%d", k), Value: "1"})
					}
					list = append(list, request{proto: proto, host: "a", target: "/", headers: many}, request{proto: proto, method: "POST", body: "x", host: "a", target: "/", headers: append(slices.Clip(many), envoy.Header{Name: "x-foo", Value: "a"}, envoy.Header{Name: "x-foo", Value: "b"})},
						request{proto: proto, host: "a", target: "/", headers: append(slices.Clip(many), envoy.Header{Name: "cookie", Value: "b=1"})})
				}
			}
			t.Run(fmt.Sprint(i, j), func(t *testing.T) { asked(t, byte(80+3*i+j), listener, list...) })
		}
	}
}
