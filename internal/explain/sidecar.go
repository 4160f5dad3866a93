package explain

import (
	"fmt"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
)

// sidecarJudges are the objects by which a pod's sidecar could refuse a call.
func (s *System) sidecarJudges(p *topology.Pod) []*By {
	root := s.world.RootNamespace()
	applies := func(o *manifest.Object, selector map[string]string) bool {
		return (o.Meta.Namespace == p.Namespace || o.Meta.Namespace == root) && selects(selector, p.Labels)
	}
	var out []*By
	for o, v := range manifest.Of[*security.AuthorizationPolicy](s.world.Set) {
		if applies(o, v.GetSelector().GetMatchLabels()) && v.GetAction() != security.AuthorizationPolicy_AUDIT {
			out = append(out, byObject(o, ""))
		}
	}
	for o, v := range manifest.Of[*security.RequestAuthentication](s.world.Set) {
		if applies(o, v.GetSelector().GetMatchLabels()) {
			out = append(out, byObject(o, ""))
		}
	}
	for o, v := range manifest.Of[*security.PeerAuthentication](s.world.Set) {
		if applies(o, v.GetSelector().GetMatchLabels()) && v.GetMtls().GetMode() == security.PeerAuthentication_MutualTLS_STRICT {
			out = append(out, byObject(o, "mtls"))
		}
	}
	for o, v := range manifest.Of[*networking.EnvoyFilter](s.world.Set) {
		if !applies(o, v.GetWorkloadSelector().GetLabels()) {
			continue
		}
		for i, patch := range v.ConfigPatches {
			switch patch.GetMatch().GetContext() {
			case networking.EnvoyFilter_ANY, networking.EnvoyFilter_SIDECAR_INBOUND:
				out = append(out, byObject(o, fmt.Sprintf("configPatches[%d]", i)))
			}
		}
	}
	return out
}

// meshRoute says that the caller's own sidecar could send the call elsewhere
// than its name says, which is not modelled.
func (w *walk) meshRoute(st *start) string {
	injected := w.system.world.Injected(st.pod)
	if injected == "" {
		return ""
	}
	name, err := w.system.world.Topology.Lookup(st.pod.Namespace, st.host)
	hosts := []string{strings.ToLower(st.host)}
	if err == nil {
		hosts = append(append(hosts, name.Host), name.Aliases...)
	}
	for o, vs := range manifest.Of[*networking.VirtualService](w.system.world.Set) {
		if !forMesh(vs) {
			continue
		}
		for _, pattern := range vs.Hosts {
			for _, host := range hosts {
				if pattern == host || strings.HasPrefix(pattern, "*") && strings.HasSuffix(host, pattern[1:]) || !strings.Contains(pattern, ".") && strings.HasPrefix(host, pattern+"."+o.Meta.Namespace+".") {
					return fmt.Sprintf("pod %s has a sidecar (%s), whose routes are not modelled: %s is for host %s in the mesh", st.pod, injected, byObject(o, ""), pattern)
				}
			}
		}
	}
	for o := range manifest.Of[*networking.Sidecar](w.system.world.Set) {
		if o.Meta.Namespace == st.pod.Namespace || o.Meta.Namespace == w.system.world.RootNamespace() {
			return fmt.Sprintf("pod %s has a sidecar (%s), which is not modelled: %s says what it can reach", st.pod, injected, byObject(o, ""))
		}
	}
	return ""
}

func forMesh(vs *networking.VirtualService) bool {
	for _, g := range vs.Gateways {
		if g == "mesh" {
			return true
		}
	}
	return len(vs.Gateways) == 0
}

// internalOnly tells whether no Service that the outside reaches leads to a
// door.
func (w *walk) internalOnly(d *door) bool {
	found := false
	for o, svc := range manifest.Of[*corev1.Service](w.system.world.Set) {
		if o.Meta.Namespace != d.gateway.Workload.Namespace || len(svc.Spec.Selector) == 0 || !selects(svc.Spec.Selector, d.gateway.Workload.Labels) {
			continue
		}
		for _, p := range svc.Spec.Ports {
			if uint16(p.TargetPort.IntValue()) != d.port && (p.TargetPort.IntValue() != 0 || uint16(p.Port) != d.port) {
				continue
			}
			if svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
				return false
			}
			found = true
		}
	}
	return found
}
