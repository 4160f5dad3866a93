package lab

import (
	"fmt"
	"net/url"
	"sort"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"postern.dev/postern/internal/manifest"
)

// PodProxy is the URL of an HTTP proxy that calls as a pod.
func (s *System) PodProxy(namespace, name string) (*url.URL, error) {
	pod, err := s.lookupPod(namespace, name)
	if err != nil {
		return nil, err
	}
	return url.Parse(pod.Proxy)
}

// WithoutEffect says, for each EnvoyFilter that configures a filter on routes,
// why nothing comes of it: no route of the gateways that it is merged into, and
// no filter of the name it configures.
func (s *System) WithoutEffect() []string {
	w := s.current.Load().world
	var out []string
	for o, ef := range manifest.Of[*networking.EnvoyFilter](w.set) {
		for i, p := range ef.ConfigPatches {
			perFilter := p.GetPatch().GetValue().GetFields()["typed_per_filter_config"].GetStructValue().GetFields()
			if len(perFilter) == 0 {
				continue
			}
			at := fmt.Sprintf("%s: %s: spec.configPatches[%d]", o.Source, o, i)
			if name := p.GetMatch().GetRouteConfiguration().GetVhost().GetRoute().GetName(); name != "" {
				if names := w.routeNames(); !names[name] {
					out = append(out, fmt.Sprintf("%s is merged into a route named %q: the gateway has none of that name (%s)", at, name, list(names, "its routes have no names")))
				}
			}
			for key := range perFilter {
				if filters := w.filterNames(); !filters[key] {
					out = append(out, fmt.Sprintf("%s sets up a filter named %q: Envoy looks a route's setting up by the filter's own name, and those of the gateway are %s", at, key, list(filters, "none")))
				}
			}
		}
	}
	return out
}

func (w *world) routeNames() map[string]bool {
	names := map[string]bool{}
	for _, g := range w.gateways {
		for _, r := range g.proxy.Routes() {
			if r.Name != "" {
				names[r.Name] = true
			}
		}
	}
	return names
}

func (w *world) filterNames() map[string]bool {
	names := map[string]bool{}
	for _, g := range w.gateways {
		for _, port := range g.proxy.Ports() {
			for _, f := range g.proxy.Filters(port) {
				names[f] = true
			}
		}
	}
	return names
}

func list(set map[string]bool, none string) string {
	if len(set) == 0 {
		return none
	}
	names := make([]string, 0, len(set))
	for n := range set {
		names = append(names, n)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}
