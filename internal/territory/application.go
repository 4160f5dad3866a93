package territory

import (
	"strings"

	"postern.dev/postern/internal/manifest"

	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
)

// application tells whether a VirtualService that is no model's is an
// application's: exact hosts, none of them Kubeflow's, not in one of Kubeflow's
// namespaces, and leading nowhere but to pods that its own namespace selects. A
// Service of type ExternalName or without a selector could lead anywhere, the
// rest of Kubeflow or another model's door included.
func (c *compiler) application(o *manifest.Object, spec *networking.VirtualService) bool {
	ns := o.Meta.Namespace
	if c.kubeflow[ns] || len(spec.GetTcp()) > 0 || len(spec.GetTls()) > 0 || len(spec.GetHttp()) == 0 {
		return false
	}
	for _, h := range hostsOf(spec, ns) {
		if h == "" || strings.Contains(h, "*") || c.kubeflowHost(h, nil) {
			return false
		}
	}
	for _, r := range spec.GetHttp() {
		if r.GetDelegate() != nil {
			return false
		}
		var to []*networking.Destination
		for _, d := range r.GetRoute() {
			to = append(to, d.GetDestination())
		}
		if r.GetMirror() != nil {
			to = append(to, r.GetMirror())
		}
		for _, m := range r.GetMirrors() {
			to = append(to, m.GetDestination())
		}
		for _, d := range to {
			if !c.ownPods(d, ns) {
				return false
			}
		}
	}
	return true
}

// ownPods tells whether a destination is a Service of the namespace that
// selects pods.
func (c *compiler) ownPods(d *networking.Destination, namespace string) bool {
	name, ok := serviceOf(d, namespace)
	if !ok {
		return false
	}
	svc := c.service(namespace, name)
	return svc != nil && !external(svc) && len(svc.Spec.Selector) > 0
}

func (c *compiler) service(namespace, name string) *corev1.Service {
	o, ok := c.set.Get("", "Service", namespace, name)
	if !ok {
		return nil
	}
	svc, _ := o.Value.(*corev1.Service)
	return svc
}

func external(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ExternalName != ""
}
