package envoy

import (
	"fmt"
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
)

// TLS is a connection's TLS as a listener sees it, with the peer's certificate
// already verified against the mesh's roots.
type TLS struct {
	ServerName string
	ALPN       []string // what the client offers, in its order
	Peer       string   // the URI in the client's certificate; "": it showed none
	// For x-forwarded-client-cert only: the certificate's SHA-256 in hex, and the
	// URI of the proxy's own certificate.
	PeerHash, Local string
}

// inbound is a listener with several filter chains that stands for all ports of
// a workload: a sidecar's virtualInbound, to which connections are redirected.
type inbound struct {
	chains              []*filterChain
	fallback            *filterChain
	inspectTLS, inspect inspector
}

// filterChain is one of them.
type filterChain struct {
	name       string
	match      chainMatch
	tls        *downstreamTLS // nil: plaintext
	principal  bool           // a filter keeps the peer's URI for RBAC (Istio up to 1.18)
	rules      []networkRBAC
	http       *listener
	tcp        string // the cluster, where no connection manager is
	unmodelled []string
}

type downstreamTLS struct {
	required bool            // a certificate is
	names    []stringMatcher // of which the peer's URI must match one; none: any
}

// networkRBAC is envoy.filters.network.rbac.
type networkRBAC struct {
	name  string
	rules *policySet
}

// isInbound tells Istio's virtualInbound from a gateway's listener.
func isInbound(l *listenerv3.Listener) bool {
	return l.TrafficDirection == corev3.TrafficDirection_INBOUND && len(l.ListenerFilters) > 0
}

func compileInbound(l *listenerv3.Listener, tables map[string]*routeTable, clusters map[string]bool) (*listener, error) {
	c := &listener{name: l.Name, inbound: &inbound{}}
	unmodelled := fieldsBut(l, "name", "address", "filter_chains", "default_filter_chain", "listener_filters", "use_original_dst", "access_log", "traffic_direction",
		"stat_prefix", "per_connection_buffer_limit_bytes", "continue_on_listener_filters_timeout", "listener_filters_timeout", "enable_mptcp",
		"max_connections_to_accept_per_socket_event", "ignore_global_conn_limit", "connection_balance_config", "bind_to_port")
	var extra []string
	c.inbound.inspectTLS, c.inbound.inspect, extra = compileInspectors(l.ListenerFilters)
	c.unknown = strings.Join(append(unmodelled, extra...), ", ")
	for _, f := range l.FilterChains {
		chain, err := compileChain(f, tables, clusters)
		if err != nil {
			return nil, fmt.Errorf("filter chain %s: %w", f.Name, err)
		}
		if len(chain.match.unmodelled) > 0 {
			c.unknown = strings.Join(append(chain.match.unmodelled, c.unknown), ", ")
		}
		c.inbound.chains = append(c.inbound.chains, chain)
	}
	if l.DefaultFilterChain != nil {
		var err error
		if c.inbound.fallback, err = compileChain(l.DefaultFilterChain, tables, clusters); err != nil {
			return nil, fmt.Errorf("default filter chain: %w", err)
		}
	}
	return c, nil
}

func compileChain(f *listenerv3.FilterChain, tables map[string]*routeTable, clusters map[string]bool) (*filterChain, error) {
	c := &filterChain{name: f.Name}
	c.unmodelled = fieldsBut(f, "filters", "name", "transport_socket_connect_timeout", "filter_chain_match", "transport_socket")
	var err error
	if c.match, err = compileChainMatch(f.FilterChainMatch); err != nil {
		return nil, err
	}
	if err := c.transport(f.TransportSocket); err != nil {
		return nil, err
	}
	for _, nf := range f.Filters {
		msg, err := unpackNetwork(nf)
		switch {
		case err != nil:
			return nil, err
		case inert(nf.GetTypedConfig(), msg):
			continue
		case typeName(nf.GetTypedConfig(), msg) == networkAuthnType: // Istio up to 1.18: filter state io.istio.peer_principal
			c.principal = true
			continue
		case c.http != nil || c.tcp != "":
			return nil, fmt.Errorf("filter %s: stands behind one that ends the chain", nf.Name)
		}
		switch m := msg.(type) {
		case *netrbacv3.RBAC:
			err = c.networkRBAC(nf.Name, m)
		case *tcpv3.TcpProxy:
			c.tcp = m.GetCluster()
			if c.tcp == "" {
				c.unmodelled = append(c.unmodelled, "TcpProxy without a cluster")
			}
		case *hcmv3.HttpConnectionManager:
			c.http = &listener{name: f.Name}
			err = c.http.http(m, false, tables, clusters)
			c.http.conn.ingress = m.Tracing != nil
			if c.tls != nil { // Istio's certificates have no DNS names
				c.unmodelled = append(c.unmodelled, fieldsBut(m.SetCurrentClientCertDetails, "subject", "uri", "dns")...)
			}
		default:
			c.unmodelled = append(c.unmodelled, networkFilter(nf, msg))
		}
		if err != nil {
			return nil, fmt.Errorf("filter %s: %w", nf.Name, err)
		}
	}
	return c, nil
}

func (c *filterChain) networkRBAC(name string, m *netrbacv3.RBAC) error {
	c.unmodelled = append(c.unmodelled, fieldsBut(m, "rules", "shadow_rules", "stat_prefix", "shadow_rules_stat_prefix", "enforcement_type")...)
	if http := httpRules(m.Rules); http != "" {
		c.unmodelled = append(c.unmodelled, "network RBAC with "+http)
	}
	rules, err := compilePolicies(m.Rules)
	if rules != nil {
		c.rules = append(c.rules, networkRBAC{name, rules})
	}
	return err
}

// httpRules finds what only a request could answer among the rules for
// connections.
func httpRules(r *rbacconfigv3.RBAC) string {
	found := ""
	if r == nil {
		return found
	}
	_ = protorange.Range(r.ProtoReflect(), func(p protopath.Values) error {
		switch d := p.Path.Index(-1); {
		case d.Kind() != protopath.FieldAccessStep:
		case d.FieldDescriptor().Name() == "header", d.FieldDescriptor().Name() == "url_path", d.FieldDescriptor().Name() == "metadata":
			found = string(d.FieldDescriptor().Name())
		}
		return nil
	})
	return found
}

// transport reads what the chain's TLS wants of a client.
func (c *filterChain) transport(t *corev3.TransportSocket) error {
	if t == nil {
		return nil
	}
	if t.GetTypedConfig() == nil {
		return fmt.Errorf("transport socket %s: no typed_config", t.Name)
	}
	msg, err := unpack(t.GetTypedConfig())
	if err != nil {
		return fmt.Errorf("transport socket %s: %w", t.Name, err)
	}
	m, ok := msg.(*tlsv3.DownstreamTlsContext)
	if !ok {
		if name := typeName(t.GetTypedConfig(), msg); name != "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" {
			c.unmodelled = append(c.unmodelled, "transport socket "+t.Name+" ("+name+")")
		}
		return nil
	}
	c.tls = &downstreamTLS{required: m.GetRequireClientCertificate().GetValue()}
	validation := m.GetCommonTlsContext().GetCombinedValidationContext().GetDefaultValidationContext()
	if v := m.GetCommonTlsContext().GetValidationContext(); v != nil {
		validation = v
	}
	c.unmodelled = append(c.unmodelled, fieldsBut(validation, "match_subject_alt_names", "trusted_ca")...)
	//lint:ignore SA1019 what Istio writes
	for _, n := range validation.GetMatchSubjectAltNames() {
		sm, err := compileString(n)
		if err != nil {
			return err
		}
		c.tls.names = append(c.tls.names, sm)
	}
	return nil
}

// Inbound tells whether the proxy is a sidecar, whose inbound listener takes the
// connections to every port of its workload.
func (p *Proxy) Inbound() bool { return p.inbound != nil }

// TakesMutualTLS tells whether a sidecar ends the mesh's mutual TLS at a port.
// Istiod tells the same to those who connect there: where it does not, they speak
// plaintext (pilot/pkg/xds/endpoints, PeerAuthentication DISABLE).
func (p *Proxy) TakesMutualTLS(port uint16) bool {
	if p.inbound == nil || !p.inbound.inbound.inspectTLS.runs(port) {
		return false
	}
	chain := chooseChain(p.inbound.inbound.chains, connection{destination: netip.AddrPortFrom(netip.IPv4Unspecified(), port), transport: overTLS, applications: []string{"istio-http/1.1", "istio"}})
	return chain != nil && chain.tls != nil
}

// evaluateInbound chooses the chain of the connection, does what its network filters do,
// and hands the request to its connection manager.
func (l *listener) evaluateInbound(req Request, s *stream) Outcome {
	in, port := l.inbound, req.Destination.Port()
	c := connection{destination: req.Destination, transport: rawBuffer}
	switch {
	case req.TLS != nil && in.inspectTLS.runs(port):
		c.transport, c.serverName, c.applications = overTLS, strings.ToLower(req.TLS.ServerName), req.TLS.ALPN
	case req.TLS == nil && in.inspect.runs(port):
		c.applications = []string{"http/1.1"}
		if req.Protocol == "HTTP/2" {
			c.applications = []string{"h2c"}
		}
	}
	chain := chooseChain(in.chains, c)
	if chain == nil {
		chain = in.fallback
	}
	if chain == nil {
		return *closed(s.trace, fmt.Sprintf("no filter chain of %s takes %s at port %d", l.name, c, port), "filter_chain_not_found")
	}
	s.trace.add(Step{Stage: "listener", Text: fmt.Sprintf("%s at port %d: filter chain %s", c, port, chain.name)})
	return chain.evaluate(req, s)
}

func (c connection) String() string {
	if c.transport == overTLS {
		return "TLS (" + strings.Join(c.applications, ", ") + ")"
	}
	return "plaintext"
}

func (f *filterChain) evaluate(req Request, s *stream) Outcome {
	if len(f.unmodelled) > 0 {
		return *unknown("filter chain " + f.name + ": " + strings.Join(f.unmodelled, ", "))
	}
	s.tls, s.source, s.destination = req.TLS, req.Source, req.Destination
	if o := f.handshake(s); o != nil {
		return *o
	}
	if f.principal && s.tls != nil {
		s.principal = s.tls.Peer
	}
	for _, r := range f.rules {
		if o := r.accept(s); o != nil {
			return *o
		}
	}
	switch {
	case f.http != nil && f.http.unknown != "":
		return *unknown("filter chain " + f.name + ": " + f.http.unknown)
	case f.http != nil && f.tls == nil && req.TLS != nil:
		return *closed(s.trace, "the client speaks TLS where the filter chain reads plaintext", "http1.codec_error")
	case f.http != nil:
		return f.http.serve(req, s)
	case f.tcp == "BlackHoleCluster" || f.tcp == "":
		return *closed(s.trace, "the connection leads nowhere: cluster "+f.tcp, "cluster_not_found")
	}
	s.trace.add(Step{Stage: "tcp_proxy", Text: "the connection goes to " + f.tcp + " as it is"})
	return Outcome{Kind: Forward, Cluster: f.tcp, Request: Upstream{Method: req.Method, Authority: req.Authority, Path: req.Path, Headers: req.Headers}}
}

// handshake is the chain's TLS: a client without a certificate that is wanted, or
// with a name of another mesh, is not let in.
func (f *filterChain) handshake(s *stream) *Outcome {
	switch {
	case f.tls == nil:
		if f.http == nil {
			s.tls = nil // TLS passes through, unread
		}
		return nil
	case s.tls == nil:
		return closed(s.trace, "the filter chain wants TLS, the client speaks plaintext", "tls_error")
	case s.tls.Peer == "" && f.tls.required:
		return closed(s.trace, "the client shows no certificate", "tls_error")
	case s.tls.Peer == "" || len(f.tls.names) == 0:
		return nil
	}
	t := no
	for _, m := range f.tls.names {
		t = max(t, m.test(s, s.tls.Peer))
	}
	switch t {
	case maybe:
		return unknown(s.unknown)
	case no:
		return closed(s.trace, "the client's name "+s.tls.Peer+" is of another mesh", "tls_error")
	}
	return nil
}

// accept judges the connection on its first byte.
func (r networkRBAC) accept(s *stream) *Outcome {
	p, t, _ := r.rules.decide(s)
	name := p.name
	if t == maybe && r.rules.action != rbacconfigv3.RBAC_LOG {
		return unknown(fmt.Sprintf("network RBAC policy %s: %s", name, s.unknown))
	}
	object, rule := istioPolicy(name)
	if r.rules.lets(t) {
		s.trace.add(Step{Stage: r.name, Text: "allowed", Object: object, Rule: rule})
		return nil
	}
	if name == "" {
		name = "none"
		r.rules.misses(s, r.name)
	}
	s.trace.add(Step{Stage: r.name, Text: "refused: RBAC: access denied", Object: object, Rule: rule})
	return closed(s.trace, "the connection is closed", "rbac_access_denied_matched_policy["+name+"]")
}

// closed is a connection that ends without an answer.
func closed(trace *Trace, text, reason string) *Outcome {
	trace.add(Step{Stage: "listener", Text: text})
	return &Outcome{Kind: Closed, Reason: reason}
}
