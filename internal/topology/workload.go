package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"postern.dev/postern/internal/manifest"

	networking "istio.io/api/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// maxReplicas bounds one workload; an address range is exhausted sooner.
const maxReplicas = 10_000

func (w *World) addWorkload(o *manifest.Object) error {
	switch v := o.Value.(type) {
	case *corev1.Pod:
		template := corev1.PodTemplateSpec{ObjectMeta: v.ObjectMeta, Spec: v.Spec}
		return w.addPod(w.workload(o, "Pod", template), v.Name, template, &v.Status)
	case *appsv1.Deployment:
		return w.addReplicas(w.workload(o, "Deployment", v.Spec.Template), v.Spec.Template, v.Spec.Replicas, 1)
	case *appsv1.StatefulSet:
		return w.addReplicas(w.workload(o, "StatefulSet", v.Spec.Template), v.Spec.Template, v.Spec.Replicas, 0)
	}
	return nil
}

func (w *World) workload(o *manifest.Object, kind string, t corev1.PodTemplateSpec) *Workload {
	wl := &Workload{
		Kind: kind, Namespace: o.Meta.Namespace, Name: o.Meta.Name,
		ServiceAccount: ServiceAccount(t.Spec), Labels: t.Labels, Object: o,
	}
	w.workloads = append(w.workloads, wl)
	return wl
}

// ServiceAccount is the name of the one that a pod runs as.
func ServiceAccount(s corev1.PodSpec) string {
	switch {
	case s.ServiceAccountName != "":
		return s.ServiceAccountName
	case s.DeprecatedServiceAccount != "":
		return s.DeprecatedServiceAccount
	}
	return "default"
}

// addReplicas makes the pods NAME-first, NAME-first+1, ...
func (w *World) addReplicas(wl *Workload, t corev1.PodTemplateSpec, replicas *int32, first int) error {
	n := 1
	if replicas != nil {
		n = int(*replicas)
	}
	if n < 0 || n > maxReplicas {
		return wl.Object.Errorf("spec.replicas", "got %d, want 0 to %d", n, maxReplicas)
	}
	for i := range n {
		if err := w.addPod(wl, fmt.Sprintf("%s-%d", wl.Name, first+i), t, nil); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) addPod(wl *Workload, name string, t corev1.PodTemplateSpec, status *corev1.PodStatus) error {
	p := &Pod{
		Namespace: wl.Namespace, Name: name, ServiceAccount: wl.ServiceAccount,
		Labels: t.Labels, Annotations: t.Annotations, Containers: t.Spec.Containers,
		HostNetwork: t.Spec.HostNetwork, Ready: true, Running: true, Workload: wl,
	}
	if status != nil {
		p.Running, p.Ready = state(status, t.DeletionTimestamp != nil)
		if status.PodIP != "" {
			addr, err := netip.ParseAddr(status.PodIP)
			if err != nil {
				return wl.Object.Errorf("status.podIP", "got %q, want an IP address", status.PodIP)
			}
			if p.Addr = addr.Unmap(); !PodAddress(addr) {
				return wl.Object.Errorf("status.podIP", "got %s, which no pod can have", addr)
			}
		}
	}
	if first, ok := w.byName[p.String()]; ok {
		return wl.Object.Errorf("metadata.name", "its pod %s is also a pod of %s at %s", name, first.Workload, first.Workload.Object.Source)
	}
	w.byName[p.String()] = p
	w.pods = append(w.pods, p)
	wl.Pods = append(wl.Pods, p)
	return nil
}

// PodAddress tells whether a pod can have an address: one of this machine or of
// nobody would make whoever comes from there a pod.
func PodAddress(a netip.Addr) bool {
	return a.Zone() == "" && a.Unmap().IsGlobalUnicast()
}

// state reads what a live pod says of itself. An empty status is a manifest's.
func state(s *corev1.PodStatus, deleting bool) (running, ready bool) {
	running = s.Phase != corev1.PodSucceeded && s.Phase != corev1.PodFailed
	ready = running && !deleting && (s.Phase == "" || s.Phase == corev1.PodRunning)
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue {
			ready = false
		}
	}
	return running && !deleting, ready
}

// gateway is an Istio Gateway: which pods it is for.
type gateway struct {
	object   *manifest.Object
	selector map[string]string
}

func (w *World) addGateway(o *manifest.Object) error {
	if g, ok := o.Value.(*networking.Gateway); ok {
		w.gateways = append(w.gateways, gateway{o, g.GetSelector()})
	}
	return nil
}

// Gateways are the pods that an Istio Gateway with this selector is for. Istio
// looks in every namespace (PILOT_SCOPE_GATEWAY_TO_NAMESPACE is off unless set).
// An empty selector selects nothing here; see GatewayWorkloads.
func (w *World) Gateways(selector map[string]string) []*Pod {
	var out []*Pod
	for _, p := range w.pods {
		if selects(selector, p.Labels) {
			out = append(out, p)
		}
	}
	return out
}

// GatewayWorkloads are the workloads that some Gateway of the set is for: the
// proxies of type "router" to translate for. A workload that bears the labels is
// taken for a gateway; Istio would ask the proxy, and a pod that runs none gets
// no configuration there. A Gateway without a selector is an error: in Istio it
// is for every gateway there is, which objects alone do not tell.
func (w *World) GatewayWorkloads() ([]*Workload, error) {
	for _, g := range w.gateways {
		if len(g.selector) == 0 {
			return nil, g.object.Errorf("spec.selector", "empty: a Gateway for every gateway workload is not supported yet")
		}
	}
	var out []*Workload
	for _, wl := range w.workloads {
		if slices.ContainsFunc(w.gateways, func(g gateway) bool { return selects(g.selector, wl.Labels) }) {
			out = append(out, wl)
		}
	}
	return out, nil
}

// selects reports whether labels bear all of a selector; an empty one selects nothing.
func selects(selector, labels map[string]string) bool {
	for k, v := range maps.All(selector) {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return len(selector) > 0
}
