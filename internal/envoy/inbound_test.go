package envoy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// chain is one of the chains of TestFilterChains.
func chain(name string, m chainMatch) *filterChain { return &filterChain{name: name, match: m} }

// The most specific match decides, and nothing goes back on it
// (FilterChainManagerImpl::findFilterChain; e2e/sidecar compares with a real Envoy).
func TestFilterChains(t *testing.T) {
	chains := []*filterChain{
		chain("blackhole", chainMatch{port: 15006}),
		chain("catch-all mesh", chainMatch{transport: overTLS, applications: []string{"istio-http/1.1"}}),
		chain("catch-all http", chainMatch{transport: rawBuffer, applications: []string{"http/1.1"}}),
		chain("catch-all plain", chainMatch{transport: rawBuffer}),
		chain("8012 mesh", chainMatch{port: 8012, transport: overTLS, applications: []string{"istio", "istio-http/1.1"}}),
		chain("8012 plain", chainMatch{port: 8012, transport: rawBuffer}),
		chain("strict", chainMatch{port: 9001, transport: overTLS}),
		chain("named", chainMatch{port: 443, serverNames: []string{"a.b.example"}}),
		chain("wildcard", chainMatch{port: 443, serverNames: []string{"*.example"}}),
		chain("range", chainMatch{port: 444, prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}),
		chain("narrow range", chainMatch{port: 444, prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}),
	}
	for _, tt := range []struct {
		port uint16
		addr string
		c    connection
		want string // "" for none
	}{
		{8012, "10.0.0.1", connection{transport: rawBuffer}, "8012 plain"},
		{8012, "10.0.0.1", connection{transport: overTLS, applications: []string{"istio-http/1.1", "istio"}}, "8012 mesh"},
		{8012, "10.0.0.1", connection{transport: overTLS, applications: []string{"h2"}}, ""}, // a port that is named is not for the catch-all
		{9001, "10.0.0.1", connection{transport: rawBuffer}, ""},
		{9001, "10.0.0.1", connection{transport: overTLS, applications: []string{"h2"}}, "strict"},
		{7777, "10.0.0.1", connection{transport: rawBuffer, applications: []string{"http/1.1"}}, "catch-all http"},
		{7777, "10.0.0.1", connection{transport: rawBuffer}, "catch-all plain"},
		{7777, "10.0.0.1", connection{transport: overTLS, applications: []string{"istio-http/1.1"}}, "catch-all mesh"},
		{7777, "10.0.0.1", connection{transport: overTLS}, ""},
		{15006, "10.0.0.1", connection{transport: rawBuffer}, "blackhole"},
		{443, "10.0.0.1", connection{serverName: "a.b.example"}, "named"},
		{443, "10.0.0.1", connection{serverName: "x.example"}, "wildcard"},
		{443, "10.0.0.1", connection{serverName: "example"}, ""},
		{444, "10.0.0.1", connection{}, "narrow range"},
		{444, "10.1.0.1", connection{}, "range"},
		{444, "192.0.2.1", connection{}, ""},
	} {
		tt.c.destination = netip.AddrPortFrom(netip.MustParseAddr(tt.addr), tt.port)
		got := ""
		if f := chooseChain(chains, tt.c); f != nil {
			got = f.name
		}
		if got != tt.want {
			t.Errorf("%s:%d %+v: got chain %q, want %q", tt.addr, tt.port, tt.c, got, tt.want)
		}
	}
}

// sidecarOf is a sidecar's inbound listener as Istio 1.17 writes it, with RBAC
// that looks at what istio_authn says.
func sidecarOf(t *testing.T, policies string, manager ...string) *Proxy {
	t.Helper()
	listener := fmt.Sprintf(`{"name":"virtualInbound","trafficDirection":"INBOUND","address":{"socketAddress":{"address":"0.0.0.0","portValue":15006}},
	 "listenerFilters":[{"name":"a","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"}},{"name":"b","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}],
	 "filterChains":[%s,%s]}`,
		fmt.Sprintf(chainText, `{"transportProtocol":"raw_buffer"}`, "", policies),
		fmt.Sprintf(chainText, `{"transportProtocol":"tls"}`, `,"transportSocket":{"name":"envoy.transport_sockets.tls","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
	  "requireClientCertificate":true,"commonTlsContext":{"combinedValidationContext":{"validationContextSdsSecretConfig":{"name":"ROOTCA"},"defaultValidationContext":{"matchSubjectAltNames":[{"prefix":"spiffe://cluster.local/"}]}}}}}`, policies))
	listener = strings.ReplaceAll(listener, `"useRemoteAddress":false`, strings.Join(append(manager, `"useRemoteAddress":false`), ","))
	r, err := ParseResources([]json.RawMessage{json.RawMessage(listener)}, nil, []json.RawMessage{json.RawMessage(`{"name":"app"}`)})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const chainText = `{"name":"c","filterChainMatch":%s%s,"filters":[{"name":"istio_authn","typedConfig":{"@type":"type.googleapis.com/udpa.type.v1.TypedStruct","typeUrl":"type.googleapis.com/io.istio.network.authn.Config"}},
 {"name":"hcm","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","statPrefix":"x","serverName":"istio-envoy","useRemoteAddress":false,
 "routeConfig":{"name":"r","virtualHosts":[{"name":"all","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"app"}}]}]},
 "httpFilters":[
  {"name":"istio_authn","typedConfig":{"@type":"type.googleapis.com/istio.envoy.config.filter.http.authn.v2alpha1.FilterConfig","policy":{"originIsOptional":true,"origins":[{"jwt":{"issuer":"a"}}],"principalBinding":"USE_ORIGIN"}}},
  {"name":"envoy.filters.http.rbac","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC","rules":{"policies":{%s}}}},
  {"name":"envoy.filters.http.router","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}`

const (
	anyRequest = `"permissions":[{"any":true}]`
	byToken    = `"b":{` + anyRequest + `,"principals":[{"metadata":{"filter":"istio_authn","path":[{"key":"request.auth.principal"}],"value":{"stringMatch":{"prefix":"a/"}}}}]}`
	byFriend   = `"c":{` + anyRequest + `,"principals":[{"filterState":{"key":"io.istio.peer_principal","stringMatch":{"exact":"spiffe://cluster.local/ns/a/sa/friend"}}}]}`
	byAnybody  = `"d":{` + anyRequest + `,"principals":[{"any":true}]}`
	friend     = "spiffe://cluster.local/ns/a/sa/friend"
	stranger   = "spiffe://cluster.local/ns/b/sa/stranger"
	otherWorld = "spiffe://elsewhere/ns/a/sa/friend"
)

// Under Istio 1.17 request principals are istio_authn's, which Envoy lacks: unknown,
// unless something else decides or nobody can have shown a token.
func TestPrincipals(t *testing.T) {
	for _, tt := range []struct {
		policies, peer string // peer "": plaintext
		want           string
	}{
		{byFriend, friend, "forward"},
		{byFriend, stranger, "local"},
		{byFriend, otherWorld, "closed"},
		{byFriend, "", "local"},
		{byToken, "", "local"},                        // plaintext and no token: there is no principal
		{byToken, stranger, "unknown"},                // the filter may name the peer
		{byToken + "," + byFriend, friend, "forward"}, // another policy decides
		{byToken + "," + byFriend, stranger, "unknown"},
		{byToken + "," + byAnybody, stranger, "forward"},
	} {
		req := Request{Source: netip.MustParseAddrPort("10.0.0.9:1"), Destination: netip.MustParseAddrPort("10.0.0.1:8012"), Protocol: "HTTP/1.1", Method: "GET", Authority: "a", Path: "/"}
		if tt.peer != "" {
			req.TLS = &TLS{ALPN: []string{"istio"}, Peer: tt.peer}
		}
		o := sidecarOf(t, tt.policies).Evaluate(req, Env{}, nil)
		if got := o.Kind.String(); got != tt.want || tt.want == "unknown" && !strings.Contains(o.Reason, "istio_authn") {
			t.Errorf("%s as %q: got %s (%s), want %s", tt.policies, tt.peer, got, o.Reason, tt.want)
		}
	}
}

// What would be written of a certificate and is not modelled is unknown where there is
// a certificate, and only there.
func TestCertificateParts(t *testing.T) {
	p := sidecarOf(t, byAnybody, `"forwardClientCertDetails":"APPEND_FORWARD"`, `"setCurrentClientCertDetails":{"cert":true}`)
	req := Request{Source: netip.MustParseAddrPort("10.0.0.9:1"), Destination: netip.MustParseAddrPort("10.0.0.1:8012"), Protocol: "HTTP/1.1", Method: "GET", Authority: "a", Path: "/"}
	if o := p.Evaluate(req, Env{}, nil); o.Kind != Forward {
		t.Errorf("plaintext: got %s %s", o.Kind, o.Reason)
	}
	req.TLS = &TLS{ALPN: []string{"istio"}, Peer: friend}
	if o := p.Evaluate(req, Env{}, nil); o.Kind != Unknown || !strings.Contains(o.Reason, "SetCurrentClientCertDetails.cert") {
		t.Errorf("TLS: got %s %s", o.Kind, o.Reason)
	}
}
