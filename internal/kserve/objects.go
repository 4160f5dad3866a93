package kserve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	"postern.dev/postern/internal/manifest"

	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"google.golang.org/protobuf/encoding/protojson"
)

// maker collects the objects derived from one object.
type maker struct {
	source  *manifest.Object
	routes  bool // no pods, and no JSON
	objects []*manifest.Object
	errs    []error
}

func (m *maker) add(apiVersion, kind string, meta metav1.ObjectMeta, value any, text []byte, err error) {
	if err != nil {
		m.errs = append(m.errs, m.source.Errorf("", "derive %s %s: %v", kind, meta.Name, err))
		return
	}
	m.objects = append(m.objects, &manifest.Object{
		APIVersion: apiVersion, Kind: kind, Meta: meta, Source: m.source.Source,
		Value: value, JSON: text, Derived: m.source.String(),
	})
}

func (m *maker) meta(name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: m.source.Meta.Namespace, Name: name, Labels: labels}
}

func (m *maker) service(name string, labels map[string]string, spec corev1.ServiceSpec) {
	v := &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: m.meta(name, labels), Spec: spec}
	if m.routes {
		m.add("v1", "Service", v.ObjectMeta, v, nil, nil)
		return
	}
	text, err := kubeJSON(v)
	m.add("v1", "Service", v.ObjectMeta, v, text, err)
}

func (m *maker) pod(name string, labels, annotations map[string]string, spec corev1.PodSpec) {
	v := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: m.meta(name, labels), Spec: spec}
	v.Annotations = annotations
	text, err := kubeJSON(v)
	m.add("v1", "Pod", v.ObjectMeta, v, text, err)
}

func (m *maker) virtualService(name string, labels map[string]string, spec *networking.VirtualService) {
	const apiVersion = "networking.istio.io/v1beta1"
	meta := m.meta(name, labels)
	if m.routes {
		m.add(apiVersion, "VirtualService", meta, spec, nil, nil)
		return
	}
	raw, err := protojson.Marshal(spec)
	if err != nil {
		m.add("", "VirtualService", meta, nil, nil, err)
		return
	}
	var compact bytes.Buffer // protojson's own spacing is random
	if err := json.Compact(&compact, raw); err != nil {
		m.add("", "VirtualService", meta, nil, nil, err)
		return
	}
	text, err := json.Marshal(map[string]any{
		"apiVersion": apiVersion, "kind": "VirtualService", "metadata": metadata(meta), "spec": json.RawMessage(compact.Bytes()),
	})
	m.add(apiVersion, "VirtualService", meta, spec, text, err)
}

func metadata(meta metav1.ObjectMeta) map[string]any {
	out := map[string]any{"namespace": meta.Namespace, "name": meta.Name}
	if len(meta.Labels) > 0 {
		out["labels"] = meta.Labels
	}
	return out
}

// kubeJSON is the JSON of a Kubernetes object without its empty status.
func kubeJSON(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var top map[string]any
	if err := json.Unmarshal(raw, &top); err != nil {
		return nil, err
	}
	delete(top, "status")
	return json.Marshal(top)
}

// netIstio makes net-istio's two VirtualServices for a route.
func (m *maker) netIstio(ing *ingress, labels map[string]string, c *config) {
	m.virtualService(ing.name+"-mesh", maps.Clone(labels), revisionRoutes(ing, expanded(ing.hosts(true)), func(string) []string { return []string{"mesh"} }))
	m.virtualService(ing.name+"-ingress", maps.Clone(labels), revisionRoutes(ing, expanded(ing.hosts(false)), func(visibility string) []string {
		if visibility == clusterLocal {
			return c.localGateways
		}
		return c.publicGateways
	}))
}

// component makes what Knative and net-istio write for one component.
func (m *maker) component(comp component, c *config, domain string) {
	name, rev, namespace := comp.name, comp.revision(), m.source.Meta.Namespace
	ing := newIngress(namespace, comp, domain)
	m.netIstio(ing, map[string]string{
		"networking.internal.knative.dev/ingress": name,
		"serving.knative.dev/route":               name,
		"serving.knative.dev/routeNamespace":      namespace,
	}, c)
	m.service(name, map[string]string{"serving.knative.dev/route": name, "serving.knative.dev/service": name}, corev1.ServiceSpec{
		Type: corev1.ServiceTypeExternalName, ExternalName: c.localService, SessionAffinity: corev1.ServiceAffinityNone,
		Ports: []corev1.ServicePort{{Name: "http2", Port: 80, TargetPort: intstr.FromInt32(80)}},
	})
	m.service(rev, map[string]string{"serving.knative.dev/revision": rev, "serving.knative.dev/service": name}, corev1.ServiceSpec{
		Selector: map[string]string{"serving.knative.dev/revision": rev},
		Ports:    []corev1.ServicePort{comp.port()},
	})
	m.pods(comp)
}

// pods are the revision's: as many as minReplicas asks for, and at least one, as
// if a request had woken it.
func (m *maker) pods(comp component) {
	if m.routes {
		return
	}
	name, rev := comp.name, comp.revision()
	n := int32(1)
	if min := comp.spec.MinReplicas; min != nil && *min > n {
		n = *min
	}
	annotations := maps.Clone(m.source.Meta.Annotations)
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	if _, f := comp.spec.Framework(); f != nil && f.StorageURI != nil {
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations["internal.serving.kserve.io/storage-initializer-sourceuri"] = *f.StorageURI
	}
	for i := range n {
		labels := map[string]string{
			"app":                               rev,
			"serving.knative.dev/configuration": name,
			"serving.knative.dev/revision":      rev,
			"serving.knative.dev/service":       name,
		}
		if comp.kind == "" {
			labels["serving.kserve.io/inferencegraph"] = name
		} else {
			labels["component"], labels["serving.kserve.io/inferenceservice"] = comp.kind, m.source.Meta.Name
		}
		for k, v := range m.source.Meta.Labels {
			if _, ok := labels[k]; !ok && k != visibilityLabel {
				labels[k] = v
			}
		}
		spec := corev1.PodSpec{ServiceAccountName: comp.spec.ServiceAccountName, Containers: containers(comp)}
		if spec.ServiceAccountName == "" {
			spec.ServiceAccountName = "default"
		}
		m.pod(fmt.Sprintf("%s-deployment-%d", rev, i+1), labels, annotations, spec)
	}
}

// containers are the model's and Knative's queue-proxy beside it. The model
// server's image is KServe's to choose (a ServingRuntime) unless it is named.
func containers(comp component) []corev1.Container {
	model := corev1.Container{Name: "kserve-container"}
	if comp.kind == "" {
		model = comp.spec.Containers[0]
	} else if _, f := comp.spec.Framework(); f != nil {
		model = *f.Container.DeepCopy()
		model.Name = "kserve-container"
	} else if len(comp.spec.Containers) > 0 {
		model = *comp.spec.Containers[0].DeepCopy()
		model.Name = "kserve-container"
	}
	if len(model.Ports) == 0 {
		model.Ports = []corev1.ContainerPort{{ContainerPort: 8080, Name: "user-port", Protocol: corev1.ProtocolTCP}}
	}
	serving := int32(8012)
	if model.Ports[0].Name == "h2c" {
		serving = 8013
	}
	queue := corev1.Container{Name: "queue-proxy", Ports: []corev1.ContainerPort{
		{ContainerPort: serving, Name: "queue-port", Protocol: corev1.ProtocolTCP},
		{ContainerPort: 8022, Name: "http-queueadm", Protocol: corev1.ProtocolTCP},
	}}
	out := []corev1.Container{model, queue}
	if len(comp.spec.Containers) > 1 {
		out = append(out, comp.spec.Containers[1:]...)
	}
	return out
}

// userPorts are the ports of the container that serves.
func userPorts(comp component) []corev1.ContainerPort { return containers(comp)[0].Ports }
