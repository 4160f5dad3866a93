package envoy

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// Proxy is one proxy's configuration, compiled. It is immutable and safe for
// concurrent use.
type Proxy struct {
	listeners map[uint16]*listener
	inbound   *listener // a sidecar's, for the ports no other listener has
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
	conn     *connManager
	filters  []named
	responds bool // one of them changes every answer
	routes   *routeTable
	inbound  *inbound // instead of all but the name: several filter chains
	unknown  string   // not an HTTP listener this engine models, and why
}

// Compile builds a Proxy from a proxy's resources. An error means that Envoy
// would refuse the configuration; what is valid and not modelled compiles, and
// answers unknown.
func Compile(r Resources) (*Proxy, error) {
	p := &Proxy{listeners: map[uint16]*listener{}}
	clusters := map[string]bool{}
	for _, c := range r.Clusters {
		clusters[c.Name] = true
	}
	tables := map[string]*routeTable{}
	var errs []error
	for _, rc := range r.Routes {
		t, err := compileRoutes(rc)
		if err != nil {
			errs = append(errs, fmt.Errorf("route configuration %s: %w", rc.Name, err))
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
		p.listeners[uint16(l.GetAddress().GetSocketAddress().GetPortValue())] = c
		if c.inbound != nil {
			p.inbound = c
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	p.findUnusedPerRoute()
	return p, nil
}

func compileListener(l *listenerv3.Listener, tables map[string]*routeTable, clusters map[string]bool) (*listener, error) {
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
	for _, f := range chain.Filters {
		// Istio 1.17's network filter before the connection manager; without TLS it has nothing to record.
		if f.Name == istioAuthn || f.Name == "istio.metadata_exchange" {
			continue
		}
		msg, err := unpack(f.GetTypedConfig())
		if err != nil {
			return nil, fmt.Errorf("filter %s: %w", f.Name, err)
		}
		h, ok := msg.(*hcmv3.HttpConnectionManager)
		if !ok {
			c.unknown = "network filter " + f.Name
			return c, nil
		}
		if err := c.http(h, l.TrafficDirection == corev3.TrafficDirection_OUTBOUND, tables, clusters); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (l *listener) http(h *hcmv3.HttpConnectionManager, egress bool, tables map[string]*routeTable, clusters map[string]bool) error {
	l.conn = compileConnManager(h, egress)
	switch r := h.RouteSpecifier.(type) {
	case *hcmv3.HttpConnectionManager_Rds:
		if l.routes = tables[r.Rds.RouteConfigName]; l.routes == nil {
			return fmt.Errorf("route configuration %q is missing", r.Rds.RouteConfigName)
		}
	case *hcmv3.HttpConnectionManager_RouteConfig:
		var err error
		if l.routes, err = compileRoutes(r.RouteConfig); err != nil {
			return err
		}
	default:
		l.unknown = fmt.Sprintf("HttpConnectionManager.%T", r)
	}
	for _, hf := range h.HttpFilters {
		f, err := compileFilter(hf, clusters)
		if err != nil {
			return err
		}
		if f != nil {
			l.filters = append(l.filters, named{hf.Name, f})
			_, responds := f.(*headerMutation)
			l.responds = l.responds || responds
		}
	}
	return nil
}

// Ports are the ports the proxy listens on, sorted.
func (p *Proxy) Ports() []uint16 {
	var out []uint16
	for port := range p.listeners {
		out = append(out, port)
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

// Filters are the names of the HTTP filters of a port's listener that take part
// in an answer, in their order.
func (p *Proxy) Filters(port uint16) []string {
	l := p.listeners[port]
	if l == nil {
		return nil
	}
	out := make([]string, len(l.filters))
	for i, f := range l.filters {
		out[i] = f.name
	}
	return out
}

// Routes are all routes of all listeners, virtual hosts in a stable order.
func (p *Proxy) Routes() []RouteInfo {
	var out []RouteInfo
	for _, port := range p.Ports() {
		if p.listeners[port].routes == nil {
			continue
		}
		for _, vh := range p.listeners[port].routes.hosts() {
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
	for _, port := range p.Ports() {
		l := p.listeners[port]
		if l.routes == nil {
			continue
		}
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
					if !names[key] && !inert[key] && !seen[object+text] {
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
