package envoy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
)

// Transport protocols and the application protocols that the inspectors find
// (source/extensions/filters/listener).
const (
	rawBuffer = "raw_buffer"
	overTLS   = "tls"
)

// chainMatch is envoy.config.listener.v3.FilterChainMatch.
type chainMatch struct {
	port         uint32 // 0: any
	prefixes     []netip.Prefix
	serverNames  []string
	transport    string
	applications []string
	unmodelled   []string
}

func compileChainMatch(m *listenerv3.FilterChainMatch) (chainMatch, error) {
	c := chainMatch{port: m.GetDestinationPort().GetValue(), serverNames: m.GetServerNames(), transport: m.GetTransportProtocol(), applications: m.GetApplicationProtocols()}
	c.unmodelled = fieldsBut(m, "destination_port", "prefix_ranges", "server_names", "transport_protocol", "application_protocols")
	for _, r := range m.GetPrefixRanges() {
		addr, err := netip.ParseAddr(r.GetAddressPrefix())
		if err != nil {
			return c, fmt.Errorf("prefix_ranges: %w", err)
		}
		p, err := addr.Prefix(int(r.GetPrefixLen().GetValue()))
		if err != nil {
			return c, fmt.Errorf("prefix_ranges: %w", err)
		}
		c.prefixes = append(c.prefixes, p)
	}
	return c, nil
}

// prefixLength is that of the longest of the match's ranges with an address, 0
// for a match without ranges, -1 for none with it.
func (m *chainMatch) prefixLength(a netip.Addr) int {
	if len(m.prefixes) == 0 {
		return 0
	}
	longest := -1
	for _, p := range m.prefixes {
		if p.Contains(a) {
			longest = max(longest, p.Bits())
		}
	}
	return longest
}

// connection is what a listener knows of a connection before it chooses a chain.
type connection struct {
	destination  netip.AddrPort
	serverName   string
	transport    string
	applications []string
}

// chooseChain is FilterChainManagerImpl::findFilterChain: each property narrows
// the chains to the most specific that fit, and nothing goes back on it. So a port
// that some chain names is never served by one that names none. Nil: no chain.
func chooseChain(chains []*filterChain, c connection) *filterChain {
	chains = prefer(chains,
		func(m *chainMatch) bool { return m.port == uint32(c.destination.Port()) },
		func(m *chainMatch) bool { return m.port == 0 })
	addr, longest := c.destination.Addr().Unmap(), -1
	for _, f := range chains {
		longest = max(longest, f.match.prefixLength(addr))
	}
	chains = prefer(chains, func(m *chainMatch) bool { return longest >= 0 && m.prefixLength(addr) == longest })
	names := []func(*chainMatch) bool{func(m *chainMatch) bool { return c.serverName != "" && slices.Contains(m.serverNames, c.serverName) }}
	for i := 1; i < len(c.serverName); i++ {
		if c.serverName[i] == '.' {
			names = append(names, func(m *chainMatch) bool { return slices.Contains(m.serverNames, "*"+c.serverName[i:]) })
		}
	}
	chains = prefer(chains, append(names, func(m *chainMatch) bool { return len(m.serverNames) == 0 })...)
	chains = prefer(chains,
		func(m *chainMatch) bool { return m.transport == c.transport },
		func(m *chainMatch) bool { return m.transport == "" })
	var protocols []func(*chainMatch) bool
	for _, p := range c.applications {
		protocols = append(protocols, func(m *chainMatch) bool { return slices.Contains(m.applications, p) })
	}
	chains = prefer(chains, append(protocols, func(m *chainMatch) bool { return len(m.applications) == 0 })...)
	if len(chains) == 0 {
		return nil
	}
	return chains[0]
}

// prefer are the chains that fit the first of the tests that any fits.
func prefer(chains []*filterChain, tests ...func(*chainMatch) bool) []*filterChain {
	for _, fits := range tests {
		var out []*filterChain
		for _, f := range chains {
			if fits(&f.match) {
				out = append(out, f)
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// inspector is a listener filter that looks at the first bytes, but not at the
// ports it is disabled for.
type inspector struct {
	present  bool
	disabled func(port uint16) bool
}

func (i inspector) runs(port uint16) bool { return i.present && !i.disabled(port) }

const inspectors = "envoy.extensions.filters.listener."

// compileInspectors reads the listener filters Istio sets up. What else there is
// comes back by name.
func compileInspectors(filters []*listenerv3.ListenerFilter) (tls, http inspector, unmodelled []string) {
	for _, f := range filters {
		msg, _ := unpack(f.GetTypedConfig()) // of a type that is not linked: a TypedStruct
		switch name := typeName(f.GetTypedConfig(), msg); name {
		case inspectors + "original_dst.v3.OriginalDst": // a redirected connection's own destination, which Request.Destination is
		case inspectors + "tls_inspector.v3.TlsInspector", inspectors + "http_inspector.v3.HttpInspector":
			disabled, extra := portPredicate(f.FilterDisabled)
			unmodelled = append(unmodelled, extra...)
			i := inspector{true, disabled}
			if strings.HasSuffix(name, "TlsInspector") {
				tls = i
			} else {
				http = i
			}
		default:
			unmodelled = append(unmodelled, "listener filter "+f.Name+" ("+name+")")
		}
	}
	return tls, http, unmodelled
}

// portPredicate is a ListenerFilterChainMatchPredicate over ports.
func portPredicate(m *listenerv3.ListenerFilterChainMatchPredicate) (test func(uint16) bool, unmodelled []string) {
	never := func(uint16) bool { return false }
	several := func(in []*listenerv3.ListenerFilterChainMatchPredicate) (tests []func(uint16) bool, extra []string) {
		for _, x := range in {
			t, e := portPredicate(x)
			tests, extra = append(tests, t), append(extra, e...)
		}
		return tests, extra
	}
	switch r := m.GetRule().(type) {
	case nil:
		return never, nil
	case *listenerv3.ListenerFilterChainMatchPredicate_AnyMatch:
		return func(uint16) bool { return r.AnyMatch }, nil
	case *listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange:
		start, end := r.DestinationPortRange.Start, r.DestinationPortRange.End
		return func(port uint16) bool { return start <= int32(port) && int32(port) < end }, nil
	case *listenerv3.ListenerFilterChainMatchPredicate_NotMatch:
		inner, extra := portPredicate(r.NotMatch)
		return func(port uint16) bool { return !inner(port) }, extra
	case *listenerv3.ListenerFilterChainMatchPredicate_OrMatch:
		tests, extra := several(r.OrMatch.GetRules())
		return func(port uint16) bool {
			return slices.ContainsFunc(tests, func(t func(uint16) bool) bool { return t(port) })
		}, extra
	case *listenerv3.ListenerFilterChainMatchPredicate_AndMatch:
		tests, extra := several(r.AndMatch.GetRules())
		return func(port uint16) bool {
			return !slices.ContainsFunc(tests, func(t func(uint16) bool) bool { return !t(port) })
		}, extra
	}
	return never, []string{fmt.Sprintf("ListenerFilterChainMatchPredicate.%T", m.GetRule())}
}
