package world

import (
	"cmp"
	"fmt"
	"strings"

	yaml "go.yaml.in/yaml/v3"
	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
)

// ListenerOf is the port on which a Gateway's pods listen for its first server:
// the target port of the Service that leads to it, as Istio takes it.
func (w *World) ListenerOf(namespace, name string) (uint16, bool) {
	_, gw, ok := manifest.Find[*networking.Gateway](w.Set, namespace, name)
	if !ok || len(gw.Servers) == 0 {
		return 0, false
	}
	g := w.behind(gw)
	if g == nil {
		return 0, false
	}
	port := gw.Servers[0].GetPort().GetNumber()
	for _, p := range g.Proxy.Ports() {
		if uint32(p) == port {
			return p, true
		}
	}
	for _, svc := range w.Topology.Services() {
		if svc.Namespace != g.Workload.Namespace || len(svc.Selector) == 0 || !selects(svc.Selector, g.Workload.Labels) {
			continue
		}
		for _, sp := range svc.Ports {
			if uint32(sp.Port) == port {
				return uint16(sp.TargetPort.IntValue()), true
			}
		}
	}
	return 0, false
}

// GatewayAt is the gateway workload behind a Gateway object, nil when it has none
// or cannot be told.
func (w *World) GatewayAt(gatewayName string) *Gateway {
	ns, name, _ := strings.Cut(gatewayName, "/")
	_, gw, ok := manifest.Find[*networking.Gateway](w.Set, ns, name)
	if !ok {
		return nil
	}
	return w.behind(gw)
}

// behind is the workload that a Gateway's users reach. Anybody may give pods the
// gateway's labels, and Istio then serves the Gateway there too, with that
// namespace's EnvoyFilters; but the address that people use leads to the one in
// the mesh's root namespace. Of workloads in several other namespaces none is taken.
func (w *World) behind(gw *networking.Gateway) *Gateway {
	var first *Gateway
	several := false
	for _, g := range w.Gateways {
		if !selects(gw.Selector, g.Workload.Labels) {
			continue
		}
		if g.Workload.Namespace == w.RootNamespace() {
			return g
		}
		if first == nil {
			first = g
		}
		several = several || first.Workload.Namespace != g.Workload.Namespace
	}
	if several {
		return nil
	}
	return first
}

// stray notes the workloads that Istio takes for the gateway of people's doors and
// that are not behind them.
func (w *World) stray() {
	for o, gw := range manifest.Of[*networking.Gateway](w.Set) {
		door := w.behind(gw)
		for _, g := range w.Gateways {
			switch {
			case g == door || !selects(gw.Selector, g.Workload.Labels):
			case door == nil:
				w.Notes = append(w.Notes, fmt.Sprintf("%s: %s bears the labels of its selector, as workloads of other namespaces do: which of them is its gateway cannot be told, it gets no door", o, g.Workload))
			case g.Workload.Namespace != door.Workload.Namespace:
				w.Notes = append(w.Notes, fmt.Sprintf("%s: %s bears the labels of its selector, Istio serves it there too; its door is %s", o, g.Workload, door.Workload))
			}
		}
	}
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// IsGateway tells whether a workload is one of the gateways.
func (w *World) IsGateway(wl *topology.Workload) bool {
	for _, g := range w.Gateways {
		if g.Workload == wl {
			return true
		}
	}
	return false
}

// RootNamespace is the namespace whose policies count in the whole mesh.
func (w *World) RootNamespace() string {
	root := "istio-system"
	for o, cm := range manifest.Of[*corev1.ConfigMap](w.Set) {
		var mesh struct {
			RootNamespace string `yaml:"rootNamespace"`
		}
		if o.Meta.Name != "istio" || yaml.Unmarshal([]byte(cm.Data["mesh"]), &mesh) != nil {
			continue
		}
		if mesh.RootNamespace != "" {
			root = mesh.RootNamespace
		}
		if o.Meta.Namespace == "istio-system" {
			return cmp.Or(mesh.RootNamespace, "istio-system") // a tenant's of that name is none of the mesh's
		}
	}
	return root
}
