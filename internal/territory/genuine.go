package territory

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/manifest"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// genuine is a VirtualService as KServe or net-istio would write it.
type genuine struct {
	spec  *networking.VirtualService
	model access.Resource
	twice bool // two objects would write it: it is neither's
}

// readModels derives what every InferenceService's VirtualServices must be.
// Owner references are not looked at: anybody who may write a VirtualService
// may write one with any owner.
func (c *compiler) readModels() error {
	derived, err := c.cfg.Derive(c.set)
	c.models = map[string]*genuine{}
	for _, o := range derived {
		spec, ok := o.Value.(*networking.VirtualService)
		if !ok {
			continue
		}
		ns := o.Meta.Namespace
		r, live := c.owner(o)
		if !live || r.Namespace != ns || c.kubeflow[ns] {
			continue
		}
		id := ns + "/" + o.Meta.Name
		if have := c.models[id]; have != nil {
			have.twice = have.twice || have.model != r
			continue
		}
		c.models[id] = &genuine{spec: spec, model: r}
	}
	if err != nil {
		err = fmt.Errorf("deriving the models' VirtualServices: %w", err)
	}
	derivedOf := map[access.Resource]bool{}
	for _, g := range c.models {
		derivedOf[g.model] = true
	}
	live := func(r access.Resource) {
		if !derivedOf[r] && !c.kubeflow[r.Namespace] {
			c.lost[r.Namespace] = append(c.lost[r.Namespace], r)
		}
	}
	for o := range manifest.Of[*manifest.InferenceService](c.set) {
		live(access.Model(o.Meta.Namespace, o.Meta.Name))
		err = errors.Join(err, c.readOrigins(o, access.Model(o.Meta.Namespace, o.Meta.Name)))
	}
	for o := range manifest.Of[*manifest.InferenceGraph](c.set) {
		live(access.Graph(o.Meta.Namespace, o.Meta.Name))
		err = errors.Join(err, c.readOrigins(o, access.Graph(o.Meta.Namespace, o.Meta.Name)))
	}
	return err
}

// owner is the live InferenceService or InferenceGraph that an object is derived
// from.
func (c *compiler) owner(o *manifest.Object) (access.Resource, bool) {
	kind, owner, _ := strings.Cut(o.Derived, " ")
	ns, name, _ := strings.Cut(owner, "/")
	var r access.Resource
	switch kind {
	case "InferenceService":
		r = access.Model(ns, name)
	case "InferenceGraph":
		r = access.Graph(ns, name)
	default:
		return access.Resource{}, false
	}
	live, ok := c.set.Get("serving.kserve.io", kind, ns, name)
	return r, ok && live.Meta.DeletionTimestamp == nil
}

// model tells whose model a VirtualService is, if it is one's.
func (c *compiler) model(o *manifest.Object, spec *networking.VirtualService) (access.Resource, bool) {
	want := c.models[o.Meta.Namespace+"/"+o.Meta.Name]
	if want == nil || want.twice || !sameRouting(want.spec, spec, o.Meta.Namespace) || c.ledAway(spec, o.Meta.Namespace) {
		return access.Resource{}, false
	}
	return want.model, true
}

// lostModel is the live model, by its VirtualService's name, of which nothing could be
// derived: its owner gave it a rule that cannot be kept here, and login alone must
// not stand in for it. The controllers' names begin with the model's.
func (c *compiler) lostModel(namespace, name string) string {
	if g := c.models[namespace+"/"+name]; g != nil && g.twice {
		return g.model.String()
	}
	for _, r := range c.lost[namespace] {
		if name == r.Name || strings.HasPrefix(name, r.Name+"-") {
			return r.String()
		}
	}
	return ""
}

// onward tells whether a model's routes lead to the gateway again. The controllers
// write two kinds of VirtualServices: to the model's own Services, or to the local
// gateway's.
func onward(spec *networking.VirtualService, namespace string) bool {
	for _, r := range spec.GetHttp() {
		for _, d := range r.GetRoute() {
			if _, own := serviceOf(d.GetDestination(), namespace); own {
				return false
			}
		}
	}
	return true
}

// ledAway tells whether a Service that the routes lead to is an ExternalName:
// the controllers make none there, and a tenant's could lead the gateway, with
// its trusted identity, into any other part of the mesh.
func (c *compiler) ledAway(spec *networking.VirtualService, namespace string) bool {
	for _, r := range spec.GetHttp() {
		for _, d := range r.GetRoute() {
			name, own := serviceOf(d.GetDestination(), namespace)
			if svc := c.service(namespace, name); own && svc != nil && external(svc) {
				return true
			}
		}
	}
	return false
}

// sameRouting compares what decides where a request goes and as what: hosts,
// gateways (fewer are fine), matches, destinations, mirrors, delegates,
// rewrites, and changes of headers. Timeouts, retries, weights, CORS and faults
// are the owner's own affair.
func sameRouting(want, got *networking.VirtualService, namespace string) bool {
	wantHosts, gotHosts := hostsOf(want, namespace), hostsOf(got, namespace)
	slices.Sort(wantHosts)
	slices.Sort(gotHosts)
	if !slices.Equal(wantHosts, gotHosts) || len(got.GetTcp()) > 0 || len(got.GetTls()) > 0 || len(want.GetHttp()) != len(got.GetHttp()) {
		return false
	}
	known := gatewaysOf(want.GetGateways(), namespace)
	for _, g := range gatewaysOf(got.GetGateways(), namespace) {
		if !slices.Contains(known, g) {
			return false
		}
	}
	for i := range want.GetHttp() {
		if !sameHTTP(want.GetHttp()[i], got.GetHttp()[i]) {
			return false
		}
	}
	return true
}

func sameHTTP(want, got *networking.HTTPRoute) bool {
	if got.GetDelegate() != nil || got.GetRedirect() != nil || got.GetDirectResponse() != nil ||
		!proto.Equal(want.GetRewrite(), got.GetRewrite()) || !proto.Equal(want.GetMirror(), got.GetMirror()) ||
		!sameHeaders(want.GetHeaders(), got.GetHeaders()) {
		return false
	}
	match := slices.EqualFunc(want.GetMatch(), got.GetMatch(), func(a, b *networking.HTTPMatchRequest) bool {
		a, b = proto.CloneOf(a), proto.CloneOf(b)
		a.Name, b.Name, a.StatPrefix, b.StatPrefix = "", "", "", ""
		return proto.Equal(a, b)
	})
	mirrors := slices.EqualFunc(want.GetMirrors(), got.GetMirrors(), func(a, b *networking.HTTPMirrorPolicy) bool {
		return proto.Equal(a.GetDestination(), b.GetDestination())
	})
	return match && sameRoutes(want.GetRoute(), got.GetRoute()) && mirrors
}

// sameRoutes compares destinations. Which revision of a component is served, and by
// what share of several, changes with every update of a model; what is derived leads
// to its first. Any revision of the same component will do: they are all the model.
func sameRoutes(want, got []*networking.HTTPRouteDestination) bool {
	if len(want) == 1 && len(got) > 1 && revision(want[0].GetDestination()) != nil {
		return !slices.ContainsFunc(got, func(d *networking.HTTPRouteDestination) bool {
			return !sameRoutes(want, []*networking.HTTPRouteDestination{d})
		})
	}
	return slices.EqualFunc(want, got, func(a, b *networking.HTTPRouteDestination) bool {
		to, have := a.GetDestination(), b.GetDestination()
		if x, y := revision(to), revision(have); x != nil && y != nil {
			to, have = x, y
		}
		return proto.Equal(to, have) && sameHeaders(a.GetHeaders(), b.GetHeaders())
	})
}

// numbered is the Service of a revision: Knative counts from 00001
// (knative.dev/pkg/kmeta.ChildName(configuration, "-%05d") in serving
// pkg/reconciler/configuration/resources/revision.go).
var numbered = regexp.MustCompile(`^(.+)-[0-9]{5}\.([^.]+)\.svc\.cluster\.local$`)

// revision is a destination without the number of its revision, nil when it leads to
// none.
func revision(d *networking.Destination) *networking.Destination {
	m := numbered.FindStringSubmatch(d.GetHost())
	if m == nil {
		return nil
	}
	d = proto.CloneOf(d)
	d.Host = m[1] + "." + m[2] + ".svc.cluster.local"
	return d
}

// sameHeaders compares the changes made to a request's headers. The Host must
// be rewritten exactly as derived. The headers that tell KServe and Knative
// which model and revision is meant differ from version to version and may
// differ here; any other change that is not derived is none of theirs, such as
// one that sets an identity header or a passport.
func sameHeaders(want, got *networking.Headers) bool {
	return slices.Equal(operations(want), operations(got))
}

// operations are the changes to a request's headers, but for the versioned ones.
// Every one counts: Host and :authority may both be set, and are the same header.
func operations(h *networking.Headers) []string {
	var out []string
	add := func(op, name, value string) {
		name = strings.ToLower(name)
		if name == ":authority" {
			name = "host" // Istio takes both for the authority
		}
		if !versioned(name) {
			out = append(out, op+" "+name+": "+value)
		}
	}
	for name, value := range h.GetRequest().GetSet() {
		add("set", name, value)
	}
	for name, value := range h.GetRequest().GetAdd() {
		add("add", name, value)
	}
	for _, name := range h.GetRequest().GetRemove() {
		add("remove", name, "")
	}
	slices.Sort(out)
	return out
}

func versioned(name string) bool {
	switch name {
	case "kserve-isvc-name", "kserve-isvc-namespace", "k-network-hash", "knative-serving-namespace", "knative-serving-revision":
		return true
	}
	return false
}
