// Package world works manifests out: what KServe and Knative would add, where
// each pod is, and what Istio makes of it all for each gateway workload. `up`
// runs the result, `explain` walks through it.
package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	networking "istio.io/api/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/translate"
)

// World is the manifests worked out. It does not change, but for the sidecars that
// it works out when they are asked for, and is safe for concurrent use.
type World struct {
	Set      *manifest.Set // with the derived objects
	Topology *topology.World
	Istio    string // the version that translated
	Gateways []*Gateway
	// Notes are things about the manifests that their author should know.
	Notes []string
	// Warnings are why every answer may be another in the cluster, such as a
	// translation by the nearest Istio line. They are among the Notes too.
	Warnings []string
	// Placeholders are the issuers whose keys are not known, with what is to be
	// said of an answer that depends on them.
	Placeholders map[string]string

	translator *translate.Options // nil: not translated here
	jwks       map[string]string  // by place
	sidecars   *sidecars
}

// sidecars are those worked out so far.
type sidecars struct {
	mu    sync.Mutex
	known map[*topology.Workload]*Gateway
}

// Gateway is one gateway workload's Envoy configuration, or that of a workload's
// sidecar.
type Gateway struct {
	Workload  *topology.Workload
	Resources envoy.Resources
	Proxy     *envoy.Proxy
}

// Options say where pods live and where translations come from. The zero value
// works.
type Options struct {
	// Pods is the range of the pods' addresses; the zero value is the usual one.
	Pods netip.Prefix
	// Translate says where Istio's translators and their answers are.
	Translate translate.Options
	// JWKS are key sets (RFC 7517) by issuer: what istiod would fetch for the
	// RequestAuthentications without inline keys. Nothing is fetched.
	JWKS map[string]string
}

// Build works the manifests out. An error names file, line and field where it
// comes from an object.
func Build(ctx context.Context, set *manifest.Set, o Options) (*World, error) {
	w, err := Read(set, o)
	if err != nil {
		return nil, err
	}
	workloads, err := w.Topology.GatewayWorkloads()
	if err != nil {
		return nil, err
	}
	if len(workloads) == 0 {
		return nil, errors.New("no gateway: no Deployment's pods bear the labels that a Gateway of the manifests selects")
	}
	if err := w.translate(ctx, workloads, o); err != nil {
		return nil, err
	}
	w.missingServices()
	w.stray()
	return w, nil
}

// Read is Build without Istio: the objects and who is where, no gateway's
// configuration.
func Read(set *manifest.Set, o Options) (*World, error) {
	derived, err := kserve.Derive(set)
	if err != nil {
		return nil, err
	}
	w := &World{Set: set.With(derived...), sidecars: &sidecars{known: map[*topology.Workload]*Gateway{}}}
	for _, warning := range set.Warnings() {
		w.Notes = append(w.Notes, warning.Error())
	}
	w.Topology, err = topology.New(w.Set, topology.Options{Pods: o.Pods})
	return w, err
}

// translate asks Istio for the configuration of each gateway workload.
func (w *World) translate(ctx context.Context, workloads []*topology.Workload, o Options) error {
	if o.Translate.Version == "" {
		o.Translate.Version = w.istiod()
	}
	if o.Translate.Version == "" {
		o.Translate.Version = "newest"
		w.warn("no istiod Deployment in the manifests: translated by the newest Istio (--istio-version chooses another)")
	}
	if err := w.TranslateSidecars(o); err != nil {
		return err
	}
	in := translationInput(w.Set, workloads)
	in.JWKS = w.jwks
	out, err := translate.Translate(ctx, in, o.Translate)
	if err != nil {
		return err
	}
	w.Istio = out.Istio
	for _, warning := range out.Warnings {
		switch warning.Kind {
		case "":
			w.warn(warning.Message)
		case "RequestAuthentication": // of placeholder keys, see Placeholders
		default:
			w.Notes = append(w.Notes, warning.String())
		}
	}
	w.Notes = append(w.Notes, w.placeholders()...)
	if err := w.rejected(out.Rejected); err != nil {
		return err
	}
	for _, wl := range workloads {
		g := &Gateway{Workload: wl}
		for _, p := range out.Proxies {
			if p.Name != proxyName(wl) {
				continue
			}
			if g.Resources, err = envoy.ParseResources(p.Listeners, p.Routes, p.Clusters); err != nil {
				return fmt.Errorf("translation for %s: %w", wl, err)
			}
		}
		if g.Proxy, err = envoy.Compile(g.Resources); err != nil {
			return &RefusedError{Istio: out.Istio, Workload: wl, Resources: g.Resources, Err: err}
		}
		for _, f := range g.Proxy.Findings() {
			w.Notes = append(w.Notes, strings.TrimPrefix(f.Object+": "+f.Text, ": "))
		}
		w.Gateways = append(w.Gateways, g)
	}
	return nil
}

// RefusedError is a configuration that Envoy would not take.
type RefusedError struct {
	Istio     string // the release that made it
	Workload  *topology.Workload
	Resources envoy.Resources
	Err       error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("Envoy would refuse what Istio %s makes for %s: %v", e.Istio, e.Workload, e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// warn keeps what makes every answer doubtful.
func (w *World) warn(text string) {
	w.Warnings = append(w.Warnings, text)
	w.Notes = append(w.Notes, text)
}

// istiod is the image of the manifests' istiod, "" without one.
func (w *World) istiod() string {
	for obj, d := range manifest.Of[*appsv1.Deployment](w.Set) {
		if obj.Meta.Name == "istiod" || obj.Meta.Labels["app"] == "istiod" {
			for _, c := range d.Spec.Template.Spec.Containers {
				return c.Image
			}
		}
	}
	return ""
}

// translationInput is what Istio reads: its own kinds, the mesh configuration,
// Namespaces and Services. It leaves out all else, so that a change of a Role
// or a model's storage needs no new translation.
func translationInput(set *manifest.Set, workloads []*topology.Workload) translate.Input {
	var in translate.Input
	for o := range set.Sorted() {
		if isRead(o) {
			in.Objects = append(in.Objects, withNamespace(o))
		}
	}
	for i, wl := range workloads {
		in.Proxies = append(in.Proxies, translate.Proxy{
			Name: proxyName(wl), Type: "router", Namespace: wl.Namespace, ServiceAccount: wl.ServiceAccount, Labels: wl.Labels,
			// An address of its own for each; the configuration does not depend on which.
			Addresses: []string{fmt.Sprintf("10.0.0.%d", i+1)},
		})
	}
	return in
}

// isRead tells whether Istio reads an object.
func isRead(o *manifest.Object) bool {
	switch o.Group() {
	case "networking.istio.io", "security.istio.io":
		return true
	case "":
		return o.Kind == "Service" || o.Kind == "Namespace" || o.Kind == "ConfigMap" && o.Meta.Name == "istio"
	}
	return false
}

func proxyName(w *topology.Workload) string { return w.Name + "." + w.Namespace }

// withNamespace is an object's JSON with the namespace it was defaulted to and
// without what kubectl leaves behind.
func withNamespace(o *manifest.Object) json.RawMessage {
	var v map[string]any
	if err := json.Unmarshal(o.JSON, &v); err != nil {
		return o.JSON
	}
	meta, _ := v["metadata"].(map[string]any)
	if meta == nil {
		return o.JSON
	}
	if o.Meta.Namespace != "" {
		meta["namespace"] = o.Meta.Namespace
	}
	delete(meta, "annotations")
	delete(meta, "managedFields")
	delete(v, "status")
	data, err := json.Marshal(v)
	if err != nil {
		return o.JSON
	}
	return data
}

// rejected turns what Istio refused into errors at the objects' places.
func (w *World) rejected(list []translate.Rejection) error {
	var errs []error
	for _, r := range list {
		group, _, _ := strings.Cut(r.APIVersion, "/")
		if !strings.Contains(r.APIVersion, "/") {
			group = ""
		}
		if o, ok := w.Set.Get(group, r.Kind, r.Namespace, r.Name); ok {
			errs = append(errs, o.Errorf("", "Istio %s refuses it: %s", w.Istio, r.Message))
		} else {
			errs = append(errs, fmt.Errorf("%s %s/%s: Istio %s refuses it: %s", r.Kind, r.Namespace, r.Name, w.Istio, r.Message))
		}
	}
	return errors.Join(errs...)
}

// missingServices notes every destination that no Service stands behind: Envoy
// answers 503 there.
func (w *World) missingServices() {
	for o, vs := range manifest.Of[*networking.VirtualService](w.Set) {
		for i, h := range vs.Http {
			for j, d := range h.Route {
				if _, err := w.Topology.Lookup(o.Meta.Namespace, d.GetDestination().GetHost()); err != nil {
					w.Notes = append(w.Notes, o.Errorf(fmt.Sprintf("spec.http[%d].route[%d].destination.host", i, j), "%v: requests get 503", err).Error())
				}
			}
		}
	}
}
