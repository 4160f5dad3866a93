package world

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networking "istio.io/api/networking/v1alpha3"

	"postern.dev/postern/internal/manifest"
)

// WithoutEffect says of which EnvoyFilters nothing comes at the gateways, and
// why: no route that it is merged into, no filter of the name it sets up for a
// route, or no place that its match describes.
func (w *World) WithoutEffect() []string {
	var out []string
	for o, ef := range manifest.Of[*networking.EnvoyFilter](w.Set) {
		gateways := w.selectedBy(o, ef)
		if len(gateways) == 0 {
			continue
		}
		for i, p := range ef.ConfigPatches {
			at := fmt.Sprintf("%s: %s: spec.configPatches[%d]", o.Source, o, i)
			for _, why := range append(w.perRouteWithoutEffect(p), w.insertWithoutEffect(p, gateways)...) {
				out = append(out, at+" "+why)
			}
		}
	}
	return out
}

// selectedBy are the gateways an EnvoyFilter is for.
func (w *World) selectedBy(o *manifest.Object, ef *networking.EnvoyFilter) []*Gateway {
	var out []*Gateway
	for _, g := range w.Gateways {
		if (o.Meta.Namespace == w.RootNamespace() || o.Meta.Namespace == g.Workload.Namespace) && selects(ef.GetWorkloadSelector().GetLabels(), g.Workload.Labels) {
			out = append(out, g)
		}
	}
	return out
}

func (w *World) perRouteWithoutEffect(p *networking.EnvoyFilter_EnvoyConfigObjectPatch) []string {
	perFilter := p.GetPatch().GetValue().GetFields()["typed_per_filter_config"].GetStructValue().GetFields()
	if len(perFilter) == 0 {
		return nil
	}
	var out []string
	if name := p.GetMatch().GetRouteConfiguration().GetVhost().GetRoute().GetName(); name != "" {
		if names := w.routeNames(); !names[name] {
			out = append(out, fmt.Sprintf("is merged into a route named %q: the gateway has none of that name (%s)", name, list(names, "its routes have no names")))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(perFilter)) {
		if filters := w.filterNames(); !filters[key] {
			out = append(out, fmt.Sprintf("sets up a filter named %q: Envoy looks a route's setting up by the filter's own name, and those of the gateway are %s", key, list(filters, "none")))
		}
	}
	return out
}

// currentNames are today's names of what Istio up to 1.18 also found by a
// deprecated name (1.17: pkg/config/xds/deprecated.go; not since 1.19).
var currentNames = map[string]string{
	"envoy.http_connection_manager": "envoy.filters.network.http_connection_manager",
	"envoy.tcp_proxy":               "envoy.filters.network.tcp_proxy",
	"envoy.router":                  "envoy.filters.http.router",
	"envoy.cors":                    "envoy.filters.http.cors",
	"envoy.fault":                   "envoy.filters.http.fault",
	"envoy.lua":                     "envoy.filters.http.lua",
	"envoy.ext_authz":               "envoy.filters.http.ext_authz",
}

// insertWithoutEffect finds a filter that was to be inserted and is in no
// listener of the gateways.
func (w *World) insertWithoutEffect(p *networking.EnvoyFilter_EnvoyConfigObjectPatch, gateways []*Gateway) []string {
	name := p.GetPatch().GetValue().GetFields()["name"].GetStringValue()
	switch p.GetMatch().GetContext() {
	case networking.EnvoyFilter_ANY, networking.EnvoyFilter_GATEWAY:
	default:
		return nil
	}
	switch p.GetPatch().GetOperation() {
	case networking.EnvoyFilter_Patch_INSERT_BEFORE, networking.EnvoyFilter_Patch_INSERT_AFTER, networking.EnvoyFilter_Patch_INSERT_FIRST, networking.EnvoyFilter_Patch_ADD:
	default:
		return nil
	}
	if p.GetApplyTo() != networking.EnvoyFilter_HTTP_FILTER || name == "" || slices.ContainsFunc(gateways, func(g *Gateway) bool { return g.hasFilter(name) }) {
		return nil
	}
	filter := p.GetMatch().GetListener().GetFilterChain().GetFilter()
	for _, old := range []string{filter.GetName(), filter.GetSubFilter().GetName()} {
		if now := currentNames[old]; now != "" && now != old {
			return []string{fmt.Sprintf("is to insert filter %q and is not in force: its match names %q, which Istio %s does not know; since 1.19 only %q matches", name, old, w.Istio, now)}
		}
	}
	return []string{fmt.Sprintf("is to insert filter %q and is not in force: no listener of the gateway is one that its match describes", name)}
}

// hasFilter tells whether some listener has an HTTP filter of the name.
func (g *Gateway) hasFilter(name string) bool {
	for _, l := range g.Resources.Listeners {
		for _, chain := range l.FilterChains {
			for _, f := range chain.Filters {
				h := &hcmv3.HttpConnectionManager{}
				if f.GetTypedConfig().MessageIs(h) && f.GetTypedConfig().UnmarshalTo(h) == nil &&
					slices.ContainsFunc(h.HttpFilters, func(hf *hcmv3.HttpFilter) bool { return hf.Name == name }) {
					return true
				}
			}
		}
	}
	return false
}

func (w *World) routeNames() map[string]bool {
	names := map[string]bool{}
	for _, g := range w.Gateways {
		for _, r := range g.Proxy.Routes() {
			if r.Name != "" {
				names[r.Name] = true
			}
		}
	}
	return names
}

func (w *World) filterNames() map[string]bool {
	names := map[string]bool{}
	for _, g := range w.Gateways {
		for _, port := range g.Proxy.Ports() {
			for _, f := range g.Proxy.Filters(port) {
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
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}
