package topology

import (
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strings"
)

const (
	clusterDomain = "cluster.local"
	ndots         = 5 // of a pod's resolv.conf, kubelet pkg/kubelet/network/dns
	maxAliases    = 8
)

// Name is what a host name means: a Service, or an address given as text.
type Name struct {
	Host    string       // the full name that was found, without a trailing dot
	Aliases []string     // the names on the way to it, first the one asked for, when ExternalNames were followed
	Service *Service     // nil for an address
	Addrs   []netip.Addr // its cluster IP, or a headless Service's pods
}

// errAbsent marks a name that does not exist, so that the next candidate is tried.
var errAbsent = errors.New("no such host")

// Lookup resolves a name as a pod of a namespace does: search path
// NS.svc.cluster.local, svc.cluster.local, cluster.local, ndots 5. Case does not
// matter; a trailing dot means the name as it is. Names outside of the cluster
// are an error.
func (w *World) Lookup(namespace, host string) (Name, error) {
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return Name{Host: addr.String(), Addrs: []netip.Addr{addr.Unmap()}}, nil
	}
	lower := strings.ToLower(host)
	for _, candidate := range candidates(namespace, lower) {
		name, err := w.resolve(candidate, nil)
		if !errors.Is(err, errAbsent) {
			return name, err
		}
	}
	return Name{}, fmt.Errorf("no such host %q for a pod of namespace %s: %s", host, namespace, w.nearby(namespace, lower))
}

// candidates are the full names a resolver tries, in order.
func candidates(namespace, host string) []string {
	if name, ok := strings.CutSuffix(host, "."); ok {
		return []string{name}
	}
	var search []string
	for _, domain := range []string{namespace + ".svc." + clusterDomain, "svc." + clusterDomain, clusterDomain} {
		search = append(search, host+"."+domain)
	}
	if strings.Count(host, ".") >= ndots {
		return append([]string{host}, search...)
	}
	return append(search, host)
}

// resolve finds a full name. The aliases followed so far bound the way.
func (w *World) resolve(full string, aliases []string) (Name, error) {
	service, namespace, ok := split(full)
	if !ok {
		return Name{}, errAbsent
	}
	s, ok := w.Service(namespace, service)
	if !ok {
		return Name{}, errAbsent
	}
	if s.ExternalName == "" {
		return Name{Host: full, Aliases: aliases, Service: s, Addrs: w.addrs(s)}, nil
	}
	aliases = append(aliases, full)
	for _, a := range aliases {
		if a == s.ExternalName {
			return Name{}, fmt.Errorf("service %s: its externalName leads back to %s", s, a)
		}
	}
	if len(aliases) > maxAliases {
		return Name{}, fmt.Errorf("%s: more than %d ExternalNames in a row", aliases[0], maxAliases)
	}
	name, err := w.resolve(s.ExternalName, aliases)
	if errors.Is(err, errAbsent) {
		return Name{}, fmt.Errorf("service %s: externalName %s: %s", s, s.ExternalName, w.nearby(s.Namespace, s.ExternalName+"."))
	}
	return name, err
}

// follow resolves an ExternalName Service.
func (w *World) follow(s *Service) (Name, error) { return w.resolve(s.Host(), nil) }

// endpointsOf are the endpoints behind a resolved name.
func (w *World) endpointsOf(n Name, port uint32) ([]Endpoint, error) {
	return w.Endpoints(n.Service.Namespace, n.Service.Name, port)
}

// split takes NAME.NS.svc.cluster.local apart.
func split(full string) (service, namespace string, ok bool) {
	rest, ok := strings.CutSuffix(full, ".svc."+clusterDomain)
	if !ok {
		return "", "", false
	}
	service, namespace, ok = strings.Cut(rest, ".")
	return service, namespace, ok && service != "" && namespace != "" && !strings.Contains(namespace, ".")
}

// addrs are a Service's addresses: its own, or those of its pods.
func (w *World) addrs(s *Service) []netip.Addr {
	if !s.Headless {
		return []netip.Addr{s.ClusterIP}
	}
	var out []netip.Addr
	for _, p := range w.pods {
		if p.Namespace == s.Namespace && p.Running && (p.Ready || s.notReady) && selects(s.Selector, p.Labels) {
			out = append(out, p.Addr)
		}
	}
	return out
}

// nearby says what is there instead of a name.
func (w *World) nearby(namespace, host string) string {
	absolute := strings.HasSuffix(host, ".")
	if service, ns, ok := split(strings.TrimSuffix(host, ".")); ok {
		return w.noService(ns, service).Error()
	}
	service, ns, dotted := strings.Cut(strings.TrimSuffix(host, ".svc"), ".")
	switch {
	case absolute:
	case !dotted && service != "":
		return w.noService(namespace, service).Error()
	case w.namespaces[ns]:
		return w.noService(ns, service).Error()
	}
	return "it is no Service's name, and names outside of the cluster are not resolved"
}

// noService is the error for a Service that is not there.
func (w *World) noService(namespace, name string) error {
	var names []string
	for _, s := range w.services {
		if s.Namespace == namespace {
			names = append(names, s.Name)
		}
	}
	sort.Strings(names)
	const most = 8
	switch {
	case len(names) == 0 && !w.namespaces[namespace]:
		return fmt.Errorf("no Service %s in namespace %s: there is no such namespace", name, namespace)
	case len(names) == 0:
		return fmt.Errorf("no Service %s in namespace %s: it has none", name, namespace)
	case len(names) > most:
		return fmt.Errorf("no Service %s in namespace %s: it has %s and %d more", name, namespace, strings.Join(names[:most], ", "), len(names)-most)
	}
	return fmt.Errorf("no Service %s in namespace %s: it has %s", name, namespace, strings.Join(names, ", "))
}

// Reach is where a connection of a pod of a namespace to host and port ends:
// the name is resolved, a cluster IP is the Service's, and a pod's own address
// that pod at that very port.
func (w *World) Reach(namespace, host string, port uint32) ([]Endpoint, error) {
	if port == 0 || port > 65535 {
		return nil, fmt.Errorf("got port %d, want 1 to 65535", port)
	}
	n, err := w.Lookup(namespace, host)
	if err != nil {
		return nil, err
	}
	if n.Service != nil && !n.Service.Headless {
		return w.endpointsOf(n, port)
	}
	var out []Endpoint
	for _, addr := range n.Addrs {
		if s, ok := w.ServiceAt(addr); ok {
			return w.Endpoints(s.Namespace, s.Name, port)
		}
		if p, ok := w.At(addr); ok {
			out = append(out, Endpoint{p, netip.AddrPortFrom(addr, uint16(port))})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("nothing at %s: no pod and no Service has that address", n.Host)
	}
	return out, nil
}
