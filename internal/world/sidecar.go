package world

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/translate"
)

// Injected says why a pod has a sidecar, "" when it has none: Istio's webhook
// looks at the pod's own label (or, before 1.12 and still, annotation)
// sidecar.istio.io/inject and at the labels for a revision
// (manifests/charts/istio-control/istio-discovery/templates/mutatingwebhook.yaml,
// pkg/kube/inject/inject.go injectRequired).
func (w *World) Injected(p *topology.Pod) string {
	if w.isGatewayWorkload(p.Workload) {
		return "" // the gateway itself
	}
	if slices.ContainsFunc(p.Containers, func(c corev1.Container) bool { return c.Name == "istio-proxy" }) {
		return "container istio-proxy"
	}
	const key = "sidecar.istio.io/inject"
	own := p.Labels[key]
	if own == "" {
		own = p.Annotations[key]
	}
	namespace := map[string]string{}
	for o := range manifest.Of[*corev1.Namespace](w.Set) {
		if o.Meta.Name == p.Namespace {
			namespace = o.Meta.Labels
		}
	}
	injection := namespace["istio-injection"]
	switch {
	case p.HostNetwork, own == "false", injection == "disabled":
		return ""
	case p.Labels[key] == "true":
		return "its label " + key
	case injection == "enabled" || injection == "" && namespace["istio.io/rev"] != "":
		return "namespace " + p.Namespace + " is labelled for injection"
	case injection == "" && p.Labels["istio.io/rev"] != "":
		return "its label istio.io/rev"
	}
	return ""
}

func (w *World) isGatewayWorkload(wl *topology.Workload) bool {
	list, err := w.Topology.GatewayWorkloads()
	return err == nil && slices.Contains(list, wl)
}

// bypassed are the ports that Istio's iptables never redirect
// (manifests/charts/istio-control/istio-discovery/files/injection-template.yaml).
var bypassed = []string{"15090", "15021", "15020"}

// Captured tells whether connections to a port of a pod with a sidecar come to
// the sidecar: annotations can take ports out.
func Captured(p *topology.Pod, port uint16) bool {
	has := func(list string) bool {
		return slices.ContainsFunc(strings.Split(list, ","), func(one string) bool { return strings.TrimSpace(one) == strconv.Itoa(int(port)) })
	}
	if has(strings.Join(bypassed, ",")) || has(p.Annotations["traffic.sidecar.istio.io/excludeInboundPorts"]) {
		return false
	}
	include, stated := p.Annotations["traffic.sidecar.istio.io/includeInboundPorts"]
	return !stated || include == "*" || has(include)
}

// Principal is the SPIFFE identity of a service account in the mesh.
func (w *World) Principal(namespace, account string) string {
	return "spiffe://" + w.mesh().domain() + "/ns/" + namespace + "/sa/" + account
}

// AutoMTLS tells whether proxies speak mutual TLS to whoever takes it, unless a
// DestinationRule says otherwise.
func (w *World) AutoMTLS() bool {
	auto := w.mesh().EnableAutoMtls
	return auto == nil || *auto
}

// mesh is the part of the mesh's configuration that is read here.
type mesh struct {
	TrustDomain    string `yaml:"trustDomain"`
	EnableAutoMtls *bool  `yaml:"enableAutoMtls"`
}

func (m mesh) domain() string {
	if m.TrustDomain == "" {
		return "cluster.local"
	}
	return m.TrustDomain
}

func (w *World) mesh() mesh {
	var m mesh
	for o, cm := range manifest.Of[*corev1.ConfigMap](w.Set) {
		if o.Meta.Name == "istio" && o.Meta.Namespace == w.RootNamespace() {
			_ = yaml.Unmarshal([]byte(cm.Data["mesh"]), &m) // what is wrong with it, the translator said
		}
	}
	return m
}

// TranslateSidecars says by what sidecars are translated when they are asked for,
// and finds the issuers whose keys are not known. Build does it by itself.
func (w *World) TranslateSidecars(o Options) error {
	var err error
	if w.jwks, err = w.keys(o.JWKS); err != nil {
		return err
	}
	w.translator = &o.Translate
	return nil
}

// Sidecar is what Istio makes for the inbound side of a pod's sidecar. It is
// translated when it is first asked for, and kept. An error means that it cannot
// be had: no translator, or a world that was not translated.
func (w *World) Sidecar(ctx context.Context, p *topology.Pod) (*Gateway, error) {
	if w.translator == nil {
		return nil, fmt.Errorf("this configuration was not translated from manifests here")
	}
	w.sidecars.mu.Lock()
	defer w.sidecars.mu.Unlock()
	if g := w.sidecars.known[p.Workload]; g != nil {
		return g, nil
	}
	in := w.sidecarInput(p.Workload.Pods[0])
	out, err := translate.Translate(ctx, in, *w.translator)
	if err != nil {
		return nil, err
	}
	// A Service whose named port no container has is no error: Istio leaves the port out.
	if err := w.rejected(slices.DeleteFunc(out.Rejected, func(r translate.Rejection) bool { return r.Kind == "Service" })); err != nil {
		return nil, err
	}
	g := &Gateway{Workload: p.Workload}
	config := out.Proxies[0]
	if g.Resources, err = envoy.ParseResources(config.Listeners, config.Routes, config.Clusters); err != nil {
		return nil, fmt.Errorf("translation for the sidecar of %s: %w", p.Workload, err)
	}
	if g.Proxy, err = envoy.Compile(g.Resources); err != nil {
		return nil, fmt.Errorf("Envoy would refuse what Istio %s makes for the sidecar of %s: %w", out.Istio, p.Workload, err)
	}
	w.sidecars.known[p.Workload] = g
	return g, nil
}

// sidecarInput is what Istio reads for the inbound side of one sidecar: its Pod
// too, whose ports the Services may name. VirtualServices and Gateways have no part
// in it (translator/contract/contracttest holds that), and there may be thousands.
func (w *World) sidecarInput(p *topology.Pod) translate.Input {
	in := translate.Input{JWKS: w.jwks, Objects: []json.RawMessage{podObject(p)}}
	for o := range w.Set.Sorted() {
		if isRead(o) && o.Kind != "VirtualService" && o.Kind != "Gateway" {
			in.Objects = append(in.Objects, withNamespace(o))
		}
	}
	in.Proxies = []translate.Proxy{{
		Name: p.Name + "." + p.Namespace, Type: "sidecar", Namespace: p.Namespace, ServiceAccount: p.ServiceAccount, Labels: p.Labels,
		Addresses: []string{"10.0.0.1"}, Inbound: true,
	}}
	return in
}

// podObject is as much of a Pod as Istio reads.
func podObject(p *topology.Pod) json.RawMessage {
	type port struct {
		Name     string `json:"name,omitempty"`
		Port     int32  `json:"containerPort"`
		Protocol string `json:"protocol,omitempty"`
	}
	type container struct {
		Name  string `json:"name"`
		Ports []port `json:"ports,omitempty"`
	}
	containers := []container{}
	for _, c := range p.Containers {
		out := container{Name: c.Name}
		for _, cp := range c.Ports {
			out.Ports = append(out.Ports, port{cp.Name, cp.ContainerPort, string(cp.Protocol)})
		}
		containers = append(containers, out)
	}
	data, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"namespace": p.Namespace, "name": p.Name, "labels": p.Labels},
		"spec":     map[string]any{"serviceAccountName": p.ServiceAccount, "containers": containers},
	})
	if err != nil {
		panic(err) // strings and numbers
	}
	return data
}
