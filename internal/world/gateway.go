package world

import (
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
	port := gw.Servers[0].GetPort().GetNumber()
	for _, g := range w.Gateways {
		if !selects(gw.Selector, g.Workload.Labels) {
			continue
		}
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
	}
	return 0, false
}

// GatewayAt is the gateway workload behind a Gateway object.
func (w *World) GatewayAt(gatewayName string) *Gateway {
	for _, g := range w.Gateways {
		for o, gw := range manifest.Of[*networking.Gateway](w.Set) {
			if o.Meta.Namespace+"/"+o.Meta.Name == gatewayName && selects(gw.Selector, g.Workload.Labels) {
				return g
			}
		}
	}
	return nil
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
	for o, cm := range manifest.Of[*corev1.ConfigMap](w.Set) {
		var mesh struct {
			RootNamespace string `yaml:"rootNamespace"`
		}
		if o.Meta.Name == "istio" && yaml.Unmarshal([]byte(cm.Data["mesh"]), &mesh) == nil && mesh.RootNamespace != "" {
			return mesh.RootNamespace
		}
	}
	return "istio-system"
}
