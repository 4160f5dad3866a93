// Package territory says whose judgement a request falls under: a model's, an
// application's, or people's (the login that is there). It follows the route
// that Envoy will take, not what a path looks like: a host is a model's only if
// the VirtualService behind it equals what KServe and net-istio derive from a
// live InferenceService, and only if no other object could take the request.
//
// # What is not modelled
//
// None of this ever opens more than login does today: where it applies, a host
// is people's, or refused where a model or an application would be on it.
//
//   - Gateway servers with a list of hosts other than "*": the Gateway's
//     VirtualServices may or may not be at the door.
//   - Several Gateways with TLS servers at one door: Istio keeps them apart by
//     SNI, here they would be one.
//   - Gateways nobody configured whose selector fits the pods of a door: their
//     VirtualServices may be at the door too.
//   - exportTo other than "*", the mesh's defaultVirtualServiceExportTo included.
//   - Objects labelled istio.io/rev (another revision's) or annotated with
//     internal.istio.io/...: they may or may not be at the door.
//   - ServiceEntries. One that takes a Service's name does not lead its destination
//     elsewhere: Istio prefers the Service (1.17 to 1.31: servicesByHostname in
//     pilot/pkg/model/sidecar.go and push_context.go, against "domain squatting").
//   - Delegates: what a delegating VirtualService leads to is not looked up.
//   - The order in which Istio merges the routes of VirtualServices that share a
//     host: when more than one of them matches, the request is refused.
//   - Gateway API, cluster domains other than cluster.local.
package territory

import (
	"fmt"
	"slices"
	"strings"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/manifest"
)

// Kind is whose judgement a request falls under. The zero value refuses.
type Kind int

// The territories.
const (
	Refused Kind = iota
	People
	Model
	Application
)

// String is the word that logs and refusals use.
func (k Kind) String() string {
	switch k {
	case People:
		return "people"
	case Model:
		return "model"
	case Application:
		return "application"
	}
	return "refused"
}

// Reasons for refusing a request whatever it shows.
const (
	UnknownDoor    = "unknown_door"
	AmbiguousRoute = "ambiguous_route"
	AmbiguousHost  = "ambiguous_host"
	NotDerived     = "model_not_derived"
)

// Territory is the answer for one request.
type Territory struct {
	Kind     Kind
	Resource access.Resource // of a model or an application
	// Host is the virtual host the request falls into ("*.example.com" and "*"
	// too); empty when no VirtualService at the door has one for it.
	Host string
	// VirtualServices ("namespace/name") are those whose routes the request may
	// take. For a model or an application it takes one of exactly these.
	VirtualServices []string
	// Onward is whether the routes of a model lead to the gateway again: its own
	// second hop.
	Onward bool
	// Settled is whether no header could lead the request elsewhere.
	Settled bool
	// Shared is whether the host serves something else too: people, or another
	// model, whose pages a model's page must not act as.
	Shared bool
	// Origins are those of the pages that may call a model, by its annotation.
	Origins []string
	Reason  string // why Refused; never empty then
	// Detail says how that is, and By names the objects ("namespace/name" of
	// VirtualServices) that made it so: for the log and for explaining, not for callers.
	Detail string
	By     []string
}

// Why is Detail and what of By there is room for.
func (t Territory) Why() string {
	const room = 5
	by, more := t.By, ""
	if len(by) > room {
		by, more = by[:room], fmt.Sprintf(" and %d more", len(by)-room)
	}
	if len(by) == 0 {
		return t.Detail
	}
	return t.Detail + ": " + strings.Join(by, ", ") + more
}

// Config says what Postern stands in front of.
type Config struct {
	Doors []Door
	// Namespaces are Kubeflow's own: nothing in them is a model or an application.
	Namespaces []string
	// Hosts are Kubeflow's own: exact names.
	Hosts []string
	// Derive gives the VirtualServices that KServe and net-istio would write for
	// the InferenceServices and InferenceGraphs of a set, each with Derived
	// "InferenceService namespace/name" or "InferenceGraph ...": kserve.Derive. Required. What it returns beside an error
	// counts (Map.Underived).
	Derive func(*manifest.Set) ([]*manifest.Object, error)
}

// Door is a port on which gateway pods listen, for one Istio Gateway. Doors with
// the same port are one door with several Gateways.
type Door struct {
	Gateway string // "namespace/name"
	Port    uint16
}

// Map holds every door's hosts, judged. It is immutable.
type Map struct {
	doors map[uint16]*door
	owned map[string]bool // VirtualServices that are a model's or an application's at some door

	underived error
}

// Underived is what Derive could not derive, and annotations that could not be
// read, nil when nothing: the models it names are refused (NotDerived), or not
// opened to those origins, all others are judged. Whoever made the Map says it aloud;
// one tenant's object must not keep everybody else's from being judged.
func (m *Map) Underived() error { return m.underived }

// Refusals are the hosts that are refused for want of one clear owner, by the
// object that made it so (By) and the reason: how many hosts, all doors together.
func (m *Map) Refusals() map[[2]string]int {
	out := map[[2]string]int{}
	if m == nil {
		return out
	}
	count := func(v vhost) {
		if v.byPath == nil && v.fixed != nil && v.fixed.Kind == Refused {
			for _, by := range v.fixed.By {
				out[[2]string{by, v.fixed.Reason}]++
			}
		}
	}
	for _, d := range m.doors {
		for _, v := range d.exact {
			count(v)
		}
		for _, w := range slices.Concat(d.suffixes, d.prefixes) {
			count(w.vhost)
		}
		count(d.any)
	}
	return out
}

// Owned tells whether a VirtualService ("namespace/name") is a model's or an
// application's: a request that is judged people's must not take its routes.
func (m *Map) Owned(virtualService string) bool { return m != nil && m.owned[virtualService] }

// door is the route table of the ports with the same Gateways, as far as hosts go.
type door struct {
	exact    map[string]vhost
	suffixes []wildcard // "*.example.com", longest first
	prefixes []wildcard // "example.*", longest first; Istio allows none
	any      vhost      // "*"
}

// vhost is the judgement of one host's VirtualServices. There may be very many: it
// is small, and the hosts of a model share what fixed is.
type vhost struct {
	fixed  *Territory // without the host; nil: there is no such host
	byPath *paths     // its VirtualServices, when they are told apart by path and method only
}

// wildcard is a host with a star.
type wildcard struct {
	host string
	vhost
}

// At judges a request: the port it came in at, its :authority, its path without
// the query, its method. Envoy has already normalised the path.
func (m *Map) At(port uint16, host, path, method string) Territory {
	d := (*door)(nil)
	if m != nil {
		d = m.doors[port]
	}
	if d == nil {
		return Territory{Reason: UnknownDoor, Detail: "no door is configured for the port"}
	}
	name, v := d.find(HostOf(host))
	switch {
	case v.fixed == nil:
		return Territory{Kind: People, Settled: true}
	case v.byPath == nil:
		t := *v.fixed
		t.Host = name
		return t
	}
	return v.pick(name, path, method)
}

// HostOf is the name that Envoy looks for: lower case, without the port; a
// trailing dot stays (getPortStart and findVirtualHost in Envoy's
// source/common/http/header_utility.cc and source/common/router/config_impl.cc).
func HostOf(authority string) string {
	if colon := strings.LastIndexByte(authority, ':'); colon >= 0 && strings.LastIndexByte(authority, ']') < colon {
		authority = authority[:colon]
	}
	return strings.ToLower(authority)
}

// find is Envoy's order: the exact name, the longest suffix wildcard, the
// longest prefix wildcard, "*". A wildcard stands for at least one character.
func (d *door) find(host string) (name string, v vhost) {
	if v, ok := d.exact[host]; ok {
		return host, v
	}
	for _, w := range d.suffixes {
		if end := w.host[1:]; len(host) > len(end) && strings.HasSuffix(host, end) {
			return w.host, w.vhost
		}
	}
	for _, w := range d.prefixes {
		if begin := w.host[:len(w.host)-1]; len(host) > len(begin) && strings.HasPrefix(host, begin) {
			return w.host, w.vhost
		}
	}
	return "*", d.any
}

// pick judges a host whose VirtualServices are told apart by path and method.
func (v vhost) pick(host, path, method string) Territory {
	hit := v.byPath.find(path, method)
	if hit == nil {
		return Territory{Host: host, VirtualServices: v.fixed.VirtualServices, Reason: AmbiguousRoute, Detail: "not exactly one VirtualService of the host matches the path and method", By: v.fixed.VirtualServices}
	}
	t := hit.territory(host)
	t.Shared = true
	return t
}

// Route finds the VirtualService in the text that Istio writes into a route's
// metadata, filter_metadata.istio.config:
// "/apis/networking.istio.io/v1alpha3/namespaces/NAMESPACE/virtual-service/NAME".
func Route(config string) (virtualService string, ok bool) {
	rest, ok := strings.CutPrefix(config, "/apis/networking.istio.io/")
	if !ok {
		return "", false
	}
	p := strings.Split(rest, "/")
	if len(p) != 5 || p[0] == "" || p[1] != "namespaces" || p[2] == "" || p[3] != "virtual-service" || p[4] == "" {
		return "", false
	}
	return p[2] + "/" + p[4], true
}
