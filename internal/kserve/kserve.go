// Package kserve derives what KServe and net-istio write for an InferenceService
// or InferenceGraph in serverless mode, so that manifests need not spell it out: the names by which
// a model is called and the routes that lead there.
//
// The facts, and where they are from (read, and checked against what those
// functions themselves made: corpus/derived in the tests):
//
//   - VirtualService and ExternalName Service NAME: KServe v0.20.0,
//     reconcilers/ingress/ingress_reconciler.go (createIngress, reconcileExternalService).
//     The host is Knative's: NAME.NAMESPACE.DOMAIN. KServe's own domainTemplate,
//     ingressDomain and urlScheme decide nothing in this mode.
//   - VirtualServices NAME-COMPONENT-ingress and -mesh: net-istio bdbf4da,
//     pkg/reconciler/ingress/resources/virtual_service.go; their K-Network-Hash:
//     knative.dev/networking pkg/ingress.ComputeHash.
//   - An InferenceGraph is one Knative Service of its own name:
//     pkg/controller/v1alpha1/inferencegraph/knative_reconciler.go. KServe adds no
//     VirtualService to it.
//   - DOMAIN: Knative's ConfigMap config-domain. Without an entry that has no
//     selector it is svc.cluster.local, and the model is internal: so since
//     Knative 1.8; before (0.22, Kubeflow 1.4) it was example.com.
//   - Services NAME-COMPONENT (the route's placeholder) and NAME-COMPONENT-00001,
//     and the revision's pods: Knative serving, route/resources/service.go,
//     serverlessservice/resources/services.go, revision/resources.
//
// What differs from a cluster: the revision is always 00001 and its Service leads
// to the pods directly, as Knative's does while the activator is out of the path;
// component Services are named NAME-predictor as since KServe 0.11 (before it was
// NAME-predictor-default); the hash is that of a Knative Ingress without
// httpOption, and a cluster's may differ in that one value.
package kserve

import (
	"errors"
	"fmt"
	"strings"

	"postern.dev/postern/internal/manifest"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	clusterDomain   = "cluster.local"
	visibilityLabel = "networking.knative.dev/visibility"
	modeAnnotation  = "serving.kserve.io/deploymentMode"
	stopAnnotation  = "serving.kserve.io/stop"
	tagAnnotation   = "serving.kserve.io/enable-tag-routing"
	maxName         = 63 // of a Service; Knative hashes longer names
)

// Derive is what the controllers would write for each InferenceService and
// InferenceGraph of the set. What it does not know how to derive is an error that names the field. The
// objects of the other InferenceServices are returned beside it, so that one
// tenant's does not take away all others': whoever goes on with them must say what
// the error said. Without the controllers' own settings nothing is derived.
//
// Two InferenceServices that would both have an object of one name are an error,
// and both objects are returned.
func Derive(s *manifest.Set) ([]*manifest.Object, error) { return deriveAll(s, false) }

// Routes is Derive without pods and without JSON: what tells whether the
// VirtualServices in a cluster are the controllers'.
func Routes(s *manifest.Set) ([]*manifest.Object, error) { return deriveAll(s, true) }

func deriveAll(s *manifest.Set, routes bool) ([]*manifest.Object, error) {
	var out []*manifest.Object
	var errs []error
	var c *config
	for o, isvc := range manifest.Of[*manifest.InferenceService](s) {
		if c == nil {
			var err error
			if c, err = newConfig(s, o); err != nil {
				return nil, err
			}
		}
		if isvc.Annotations[stopAnnotation] == "true" {
			continue // KServe deletes what it wrote
		}
		if err := supported(o, isvc, c); err != nil {
			errs = append(errs, err)
			continue
		}
		objects, err := derive(&maker{source: o, routes: routes}, isvc, c)
		out, errs = append(out, objects...), append(errs, err)
	}
	graphs, err := deriveGraphs(s, c, routes)
	out, errs = append(out, graphs...), append(errs, err)
	return out, errors.Join(append(errs, twice(out)...)...)
}

// twice finds objects that two InferenceServices would both have: "a" and
// "a-predictor" in one namespace. In a cluster the controllers fight over them.
func twice(objects []*manifest.Object) []error {
	var errs []error
	first := map[string]*manifest.Object{}
	for _, o := range objects {
		if other, ok := first[o.Key()]; ok {
			errs = append(errs, &manifest.Error{Source: o.Source, Object: o.Derived, Field: "metadata.name",
				Msg: fmt.Sprintf("its %s would also be that of %s at %s", o, other.Derived, other.Source)})
		}
		first[o.Key()] = o
	}
	return errs
}

// component is one of an InferenceService's Knative Services, or an
// InferenceGraph's only one.
type component struct {
	kind string // predictor, transformer or explainer; empty for a graph
	name string // of the Knative Service
	spec *manifest.Component
}

// revision is the component's first.
func (c component) revision() string { return c.name + "-00001" }

// port is how Knative serves the revision: over HTTP/2 without TLS, for gRPC, where
// the container's port is named so. Knative serving 0.48: Revision.GetProtocol,
// makePublicServicePorts and targetPort; knative.dev/networking's ServicePort.
func (c component) port() corev1.ServicePort {
	if p := userPorts(c); len(p) > 0 && p[0].Name == "h2c" {
		return corev1.ServicePort{Name: "http2", Port: 81, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8013)}
	}
	return corev1.ServicePort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8012)}
}

func components(isvc *manifest.InferenceService) []component {
	out := []component{{"predictor", isvc.Name + "-predictor", &isvc.Spec.Predictor}}
	if isvc.Spec.Transformer != nil {
		out = append(out, component{"transformer", isvc.Name + "-transformer", isvc.Spec.Transformer})
	}
	if isvc.Spec.Explainer != nil {
		out = append(out, component{"explainer", isvc.Name + "-explainer", isvc.Spec.Explainer})
	}
	return out
}

// supported refuses what would be derived otherwise than here.
func supported(o *manifest.Object, isvc *manifest.InferenceService, c *config) error {
	if o.Unread != nil {
		return o.Unread
	}
	if err := serverless(o, isvc.Status, c); err != nil {
		return err
	}
	if isvc.Annotations[tagAnnotation] == "true" {
		return o.Errorf("metadata.annotations["+tagAnnotation+"]", "tag routing is not supported yet")
	}
	for _, comp := range components(isvc) {
		if err := plainComponent(o, comp, c); err != nil {
			return err
		}
		if comp.spec.CanaryTrafficPercent != nil && *comp.spec.CanaryTrafficPercent != 100 {
			return o.Errorf("spec."+comp.kind+".canaryTrafficPercent", "a canary is not supported yet")
		}
		if err := short(o, comp); err != nil {
			return err
		}
		for _, p := range userPorts(comp) {
			if p.Name != "" && p.Name != "h2c" && p.Name != "http1" && p.Name != "user-port" {
				return o.Errorf("spec."+comp.kind+".ports", "port %s: Knative refuses the name, it takes h2c (HTTP/2 without TLS, gRPC) and http1", p.Name)
			}
		}
	}
	return nil
}

// plainComponent refuses a component whose own labels or annotations, which come to
// its Knative Service (reconcilers/knative/ksvc_reconciler.go), change its hosts.
func plainComponent(o *manifest.Object, comp component, c *config) error {
	field := "spec." + comp.kind
	if comp.spec.Annotations[tagAnnotation] == "true" {
		return o.Errorf(field+".annotations["+tagAnnotation+"]", "tag routing is not supported yet")
	}
	if _, ok := comp.spec.Labels[visibilityLabel]; ok {
		return o.Errorf(field+".labels["+visibilityLabel+"]", "on a component of its own it is not supported yet")
	}
	for _, d := range c.domains {
		for k := range d.selector {
			if _, ok := comp.spec.Labels[k]; ok {
				return o.Errorf(field+".labels["+k+"]", "it chooses a domain for one component (ConfigMap config-domain), which is not supported yet")
			}
		}
	}
	return nil
}

// serverless refuses an object that is not deployed by Knative.
func serverless(o *manifest.Object, status map[string]any, c *config) error {
	mode, field := c.mode, "ConfigMap inferenceservice-config: deploy.defaultDeploymentMode"
	if m := o.Meta.Annotations[modeAnnotation]; m != "" {
		mode, field = m, "metadata.annotations["+modeAnnotation+"]"
	}
	if m, ok := status["deploymentMode"].(string); ok && m != "" {
		mode, field = m, "status.deploymentMode"
	}
	if mode != "" && mode != "Serverless" && mode != "Knative" {
		return o.Errorf(field, "%s is not supported yet, only Knative (Serverless)", mode)
	}
	return nil
}

func short(o *manifest.Object, comp component) error {
	if n := len(comp.revision()); n > maxName {
		return o.Errorf("metadata.name", "%s is %d characters long, at most %d are supported", comp.revision(), n, maxName)
	}
	return nil
}

// derive makes one InferenceService's objects.
func derive(m *maker, isvc *manifest.InferenceService, c *config) ([]*manifest.Object, error) {
	domain := c.domain(isvc.Labels)
	m.service(isvc.Name, nil, corev1.ServiceSpec{
		Type: corev1.ServiceTypeExternalName, ExternalName: c.localGatewayService, SessionAffinity: corev1.ServiceAffinityNone,
	})
	routes := modelRoutes(isvc, c, domain)
	if err := pathRoutes(routes, isvc, c); err != nil {
		return nil, m.source.Errorf("metadata.name", "%v", err)
	}
	m.virtualService(isvc.Name, nil, routes)
	for _, comp := range components(isvc) {
		m.component(comp, c, domain)
	}
	return m.objects, errors.Join(m.errs...)
}

// internalHost is the name of a Service within the cluster.
func internalHost(name, namespace string) string {
	return name + "." + namespace + ".svc." + clusterDomain
}

// publicHost is a model's host: KServe takes the host of the component that is
// called first and cuts the first "-predictor" (or "-transformer") out of it. A
// model whose own name holds that word gets a host that is not its name; one with
// "-default" in it, or in its namespace, keeps the component's host.
func publicHost(isvc *manifest.InferenceService, domain string) string {
	kind := "predictor"
	if isvc.Spec.Transformer != nil {
		kind = "transformer"
	}
	host := fmt.Sprintf("%s-%s.%s.%s", isvc.Name, kind, isvc.Namespace, domain)
	if strings.Contains(host, "-default") {
		return strings.Replace(host, "-"+kind+"-default", "", 1)
	}
	return strings.Replace(host, "-"+kind, "", 1)
}
