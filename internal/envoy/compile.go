package envoy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
)

// Proxy is one proxy's configuration, compiled. It is immutable and safe for
// concurrent use.
type Proxy struct {
	listeners map[uint16][]*listener // by port, each at an address of its own
	inbound   *listener              // a sidecar's, for the ports no other listener has
	findings  []Finding
}

// Finding is something in the configuration that has no effect and was very
// likely meant to have one.
type Finding struct {
	Object string // the object, when known
	Text   string
}

type listener struct {
	name     string
	addr     netip.Addr // where it listens
	conn     *connManager
	filters  []named
	off      uint64   // the filters that only a route switches on
	inert    []string // names of filters that are left out
	responds bool     // one of them changes every answer
	routes   *routeTable
	inbound  *inbound // instead of all but the name: several filter chains
	unknown  string   // not an HTTP listener this engine models, and why
}

// Compile builds a Proxy from a proxy's resources. An error means that Envoy
// would refuse the configuration; what is valid and not modelled compiles, and
// answers unknown.
func Compile(r Resources) (*Proxy, error) {
	p := &Proxy{listeners: map[uint16][]*listener{}}
	clusters := map[string]bool{}
	for _, c := range r.Clusters {
		clusters[c.Name] = true
	}
	tables := map[string]*routeTable{}
	var errs []error
	for _, rc := range r.Routes {
		t, err := compileRoutes(rc, existing(clusters, rc, false))
		if err != nil {
			errs = append(errs, fmt.Errorf("route configuration %s: %w", rc.Name, err))
			tables[rc.Name] = &routeTable{} // there it is: its error is enough
			continue
		}
		tables[rc.Name] = t
	}
	for _, l := range r.Listeners {
		c, err := compileListener(l, tables, clusters)
		if err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", l.Name, err))
			continue
		}
		if err := p.put(l, c); err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", l.Name, err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	p.findUnusedPerRoute()
	return p, nil
}

// put gives a listener its place, by address and port. One that is no TCP socket's
// takes no connection here.
func (p *Proxy) put(l *listenerv3.Listener, c *listener) error {
	if c.inbound != nil {
		if p.inbound != nil {
			c.unknown = "two inbound listeners, " + p.inbound.name + " and " + c.name
		}
		p.inbound = c
	}
	socket := l.GetAddress().GetSocketAddress()
	if socket == nil || socket.Protocol != corev3.SocketAddress_TCP {
		return nil
	}
	if socket.GetNamedPort() != "" || socket.ResolverName != "" {
		c.unknown = "a port or an address by its name"
	}
	var err error
	if c.addr, err = netip.ParseAddr(socket.Address); err != nil && c.unknown == "" {
		return fmt.Errorf("address: %w", err)
	}
	port := uint16(socket.GetPortValue())
	for _, other := range p.listeners[port] {
		if other.addr == c.addr {
			return fmt.Errorf("listens at %s, as listener %s does", netip.AddrPortFrom(c.addr, port), other.name)
		}
	}
	p.listeners[port] = append(p.listeners[port], c)
	return nil
}

// at is the listener that takes a connection to an address. Of several on the port it
// is the one of just this address, else the one of every address, as the kernel chooses
// among sockets; a single one takes what comes. The text says why there is none.
func (p *Proxy) at(to netip.AddrPort) (*listener, string) {
	here := p.listeners[to.Port()]
	if len(here) == 1 {
		return here[0], ""
	}
	var elsewhere []string
	var every *listener
	addr := to.Addr().Unmap()
	for _, l := range here {
		switch {
		case l.addr.Unmap() == addr:
			return l, ""
		case l.addr.IsUnspecified() && (l.addr.Is4() || every == nil) && (l.addr.Is6() || addr.Is4()):
			every = l // of :: too, unless it takes IPv6 alone or 0.0.0.0 is there
		default:
			elsewhere = append(elsewhere, l.name+" at "+l.addr.String())
		}
	}
	switch {
	case every != nil:
		return every, ""
	case p.inbound != nil:
		return p.inbound, ""
	case len(elsewhere) > 0:
		return nil, fmt.Sprintf("no listener at %s, only %s", to, strings.Join(elsewhere, ", "))
	}
	return nil, fmt.Sprintf("no listener on port %d", to.Port())
}

// existing are the clusters that the routes may name, nil where Envoy does not look:
// it does for routes in a listener, and for those that come by themselves only when
// it is told to (validate_clusters).
func existing(clusters map[string]bool, rc *routev3.RouteConfiguration, inline bool) map[string]bool {
	if v := rc.GetValidateClusters(); v != nil && !v.Value || v == nil && !inline {
		return nil
	}
	return clusters
}

func compileListener(l *listenerv3.Listener, tables map[string]*routeTable, clusters map[string]bool) (*listener, error) {
	if err := validListener(l); err != nil {
		return nil, err
	}
	if isInbound(l) {
		return compileInbound(l, tables, clusters)
	}
	c := &listener{name: l.Name}
	extra := fieldsBut(l, "name", "address", "filter_chains", "access_log", "traffic_direction", "stat_prefix", "per_connection_buffer_limit_bytes",
		"continue_on_listener_filters_timeout", "listener_filters_timeout", "enable_mptcp", "max_connections_to_accept_per_socket_event", "ignore_global_conn_limit",
		"enable_reuse_port") // which of a process's threads accepts
	if len(extra) > 0 || len(l.FilterChains) != 1 {
		c.unknown = strings.Join(append(extra, fmt.Sprintf("%d filter chains", len(l.FilterChains))), ", ")
		return c, nil
	}
	chain := l.FilterChains[0]
	if extra := fieldsBut(chain, "filters", "name", "transport_socket_connect_timeout"); len(extra) > 0 {
		c.unknown = strings.Join(extra, ", ")
		return c, nil
	}
	c.unknown = "no HTTP connection manager"
	for i, f := range chain.Filters {
		msg, err := unpackNetwork(f)
		if err != nil {
			return nil, err
		}
		// Istio 1.17's filter that keeps the peer's name: without TLS it has nothing to record.
		if inert(f.GetTypedConfig(), msg) || typeName(f.GetTypedConfig(), msg) == networkAuthnType {
			continue
		}
		h, ok := msg.(*hcmv3.HttpConnectionManager)
		if !ok {
			c.unknown = networkFilter(f, msg)
			return c, nil
		}
		if i < len(chain.Filters)-1 {
			return nil, fmt.Errorf("filter %s: ends the chain and stands before its end", f.Name)
		}
		c.unknown = ""
		outbound := l.TrafficDirection == corev3.TrafficDirection_OUTBOUND
		if err := c.http(h, outbound, tables, clusters); err != nil {
			return nil, err
		}
		if h.Tracing != nil && !outbound { // the answer would name the route's decorator
			c.conn.unmodelled = append(c.conn.unmodelled, "HttpConnectionManager.tracing of a listener that is not OUTBOUND")
		}
	}
	return c, nil
}

// unpackNetwork is a network filter's configuration, nil for one that is fetched.
func unpackNetwork(f *listenerv3.Filter) (proto.Message, error) {
	if f.GetTypedConfig() == nil && f.GetConfigDiscovery() == nil {
		return nil, fmt.Errorf("filter %s: no typed_config", f.Name)
	}
	msg, err := unpack(f.GetTypedConfig())
	if err != nil {
		return nil, fmt.Errorf("filter %s: %w", f.Name, err)
	}
	return msg, nil
}

func networkFilter(f *listenerv3.Filter, msg proto.Message) string {
	if msg == nil {
		return "network filter " + f.Name + ": config_discovery"
	}
	return "network filter " + f.Name + " (" + typeName(f.GetTypedConfig(), msg) + ")"
}

func (l *listener) http(h *hcmv3.HttpConnectionManager, egress bool, tables map[string]*routeTable, clusters map[string]bool) error {
	l.conn = compileConnManager(h, egress)
	if len(l.conn.upgrades) < len(h.UpgradeConfigs) {
		return errors.New("upgrade_configs: one type twice")
	}
	switch r := h.RouteSpecifier.(type) {
	case *hcmv3.HttpConnectionManager_Rds:
		if l.routes = tables[r.Rds.RouteConfigName]; l.routes == nil {
			return fmt.Errorf("route configuration %q is missing", r.Rds.RouteConfigName)
		}
	case *hcmv3.HttpConnectionManager_RouteConfig:
		var err error
		if l.routes, err = compileRoutes(r.RouteConfig, existing(clusters, r.RouteConfig, true)); err != nil {
			return err
		}
	default:
		l.unknown = fmt.Sprintf("HttpConnectionManager.%T", r)
	}
	return l.chain(h.HttpFilters, clusters)
}

// chain compiles the HTTP filters in their order. The router ends them.
func (l *listener) chain(filters []*hcmv3.HttpFilter, clusters map[string]bool) error {
	for i, hf := range filters {
		f, err := compileFilter(hf, clusters)
		if err != nil {
			return err
		}
		if _, ends := f.(router); ends != (i == len(filters)-1) && (ends || modelled(f)) {
			return fmt.Errorf("filter %s: the router must be the last one, and nothing else", hf.Name)
		}
		if f == nil {
			l.inert = append(l.inert, hf.Name)
			continue
		}
		if hf.Disabled {
			l.off |= 1 << len(l.filters)
		}
		l.filters = append(l.filters, named{hf.Name, f})
		_, responds := f.(*headerMutation)
		l.responds = l.responds || responds
	}
	if len(l.filters) > maxFilters {
		l.unknown = fmt.Sprintf("%d HTTP filters, this engine follows %d", len(l.filters), maxFilters)
	}
	return nil
}

// maxFilters is how many bits listener.off has.
const maxFilters = 64

// Ports are the ports the proxy listens on, sorted.
func (p *Proxy) Ports() []uint16 {
	var out []uint16
	for port := range p.listeners {
		out = append(out, port)
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

// Filters are the names of the HTTP filters of a port's listeners that take part
// in an answer, in their order.
func (p *Proxy) Filters(port uint16) []string {
	var out []string
	for _, l := range p.listeners[port] {
		for _, f := range l.filters {
			out = append(out, f.name)
		}
	}
	return out
}

// LooksAtCallers tells whether a filter of a port's listeners asks an authorizer or
// verifies tokens.
func (p *Proxy) LooksAtCallers(port uint16) bool {
	return slices.ContainsFunc(p.listeners[port], func(l *listener) bool {
		return slices.ContainsFunc(l.filters, func(f named) bool {
			switch f.filter.(type) {
			case *extAuthz, *jwtAuthn:
				return true
			}
			return false
		})
	})
}

// each yields the listeners whose routes are compiled, by port.
func (p *Proxy) each(yield func(uint16, *listener) bool) {
	for _, port := range p.Ports() {
		for _, l := range p.listeners[port] {
			if l.routes != nil && !yield(port, l) {
				return
			}
		}
	}
}

// Routes are all routes of all listeners, virtual hosts in a stable order.
func (p *Proxy) Routes() []RouteInfo {
	var out []RouteInfo
	for _, l := range p.each {
		for _, vh := range l.routes.hosts() {
			for _, r := range vh.routes {
				out = append(out, r.info)
			}
		}
	}
	return out
}

// Findings are what has no effect and was very likely meant to.
func (p *Proxy) Findings() []Finding { return p.findings }

// findUnusedPerRoute finds per-route configuration under a name that no filter
// of the listener bears: Envoy looks it up by the filter's name alone.
func (p *Proxy) findUnusedPerRoute() {
	seen := map[string]bool{}
	for _, l := range p.each {
		names := map[string]bool{}
		var list []string
		for _, f := range l.filters {
			names[f.name] = true
			list = append(list, f.name)
		}
		for _, vh := range l.routes.hosts() {
			for _, r := range vh.routes {
				for key := range r.perFilter {
					object := r.info.Object()
					text := fmt.Sprintf("per-route configuration %q has no effect: a filter finds it by its own name, and the filters here are %s", key, strings.Join(list, ", "))
					if !names[key] && !slices.Contains(l.inert, key) && !seen[object+text] {
						seen[object+text] = true
						p.findings = append(p.findings, Finding{Object: object, Text: text})
					}
				}
			}
		}
	}
}

// hosts are the virtual hosts in a stable order.
func (t *routeTable) hosts() []*virtualHost {
	set := map[*virtualHost]bool{}
	if t.any != nil {
		set[t.any] = true
	}
	for _, vh := range t.exact {
		set[vh] = true
	}
	for _, w := range []wildcards{t.suffix, t.prefix} {
		for _, vh := range w.hosts {
			set[vh] = true
		}
	}
	out := make([]*virtualHost, 0, len(set))
	for vh := range set {
		out = append(out, vh)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}
