package territory

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/manifest"

	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// claim is one VirtualService at one door, for one host.
type claim struct {
	id        string // "namespace/name"
	namespace string
	spec      *networking.VirtualService
	kind      Kind // Model, Application, or People for any other
	resource  access.Resource
	origins   []string
	doubt     string // the model that it is probably of and that could not be derived
	onward    bool   // a model's whose routes lead out of its namespace: to the gateway
	sure      bool   // at the door for certain
	gateways  []string
}

func (c *claim) territory(host string) Territory {
	return Territory{Kind: c.kind, Resource: c.resource, Host: host, VirtualServices: []string{c.id}, Settled: true, Origins: c.origins, Onward: c.onward}
}

// Compile judges every host of every door. set holds the derived objects too
// (manifest.Set.With); an error means that the configuration or an object
// cannot be read, and that no Map is made.
func Compile(set *manifest.Set, cfg Config) (*Map, error) {
	if cfg.Derive == nil {
		return nil, errors.New("territory: no Derive given: no model could be recognised")
	}
	c := &compiler{set: set, cfg: cfg, kubeflow: map[string]bool{}, gateways: map[string]*networking.Gateway{}, odd: map[string]bool{}, lost: map[string][]access.Resource{}, origins: map[access.Resource][]string{}, ones: map[string]*Territory{}}
	for _, ns := range cfg.Namespaces {
		c.kubeflow[ns] = true
	}
	for o, g := range manifest.Of[*networking.Gateway](set) {
		c.gateways[o.Meta.Namespace+"/"+o.Meta.Name] = g
		if !ordinary(o) || o.Unread != nil {
			c.odd[o.Meta.Namespace+"/"+o.Meta.Name] = true
		}
	}
	underived := errors.Join(c.readModels(), c.readMesh())
	m := &Map{doors: map[uint16]*door{}, owned: map[string]bool{}, underived: underived}
	byPort := map[uint16][]string{}
	for _, d := range cfg.Doors {
		if ns, name, ok := strings.Cut(d.Gateway, "/"); !ok || ns == "" || name == "" || strings.Contains(name, "/") {
			return nil, fmt.Errorf("door %d: gateway: got %q, want \"namespace/name\"", d.Port, d.Gateway)
		}
		byPort[d.Port] = append(byPort[d.Port], d.Gateway)
	}
	tables := map[string]*door{}
	for port, gateways := range byPort {
		slices.Sort(gateways)
		name := strings.Join(gateways, " ")
		if tables[name] == nil {
			tables[name] = c.door(gateways, m.owned)
		}
		m.doors[port] = tables[name]
	}
	m.pack()
	return m, nil
}

type compiler struct {
	set      *manifest.Set
	cfg      Config
	kubeflow map[string]bool
	gateways map[string]*networking.Gateway
	odd      map[string]bool              // Gateways that may be another revision's
	models   map[string]*genuine          // by "namespace/name" of the VirtualService
	lost     map[string][]access.Resource // by namespace: live models of which nothing was derived
	origins  map[access.Resource][]string
	// hidden: the mesh does not export VirtualServices to every namespace by
	// default, so one without exportTo may not reach the gateways.
	hidden bool

	ones map[string]*Territory // see one
}

// readMesh looks at the one setting of the mesh that decides whether gateways
// see a VirtualService; where it cannot be read, they may not. A tenant's ConfigMap of
// that name is none of the mesh's.
func (c *compiler) readMesh() (err error) {
	for o, cm := range manifest.Of[*corev1.ConfigMap](c.set) {
		if o.Meta.Name != "istio" || cm.Data["mesh"] == "" || !c.kubeflow[o.Meta.Namespace] {
			continue
		}
		var mesh struct {
			Default []string `json:"defaultVirtualServiceExportTo"`
		}
		if bad := yaml.Unmarshal([]byte(cm.Data["mesh"]), &mesh); bad != nil {
			c.hidden, err = true, errors.Join(err, o.Errorf("data.mesh", "%v", bad))
			continue
		}
		if len(mesh.Default) > 0 && !slices.Equal(mesh.Default, []string{"*"}) {
			c.hidden = true
		}
	}
	return err
}

// door builds the table of the ports with these Gateways and notes what is not people's.
func (c *compiler) door(gateways []string, owned map[string]bool) *door {
	sure, maybe := c.reach(gateways)
	claims := map[string][]*claim{}
	for o := range c.set.Sorted() {
		spec, ok := o.Value.(*networking.VirtualService)
		if !ok {
			continue
		}
		cl := c.claim(o, spec, sure, maybe)
		if cl == nil {
			continue
		}
		if cl.kind != People {
			owned[cl.id] = true
		}
		for _, h := range hostsOf(spec, o.Meta.Namespace) {
			claims[h] = append(claims[h], cl)
		}
	}
	d := &door{exact: map[string]vhost{}}
	for host, cls := range claims {
		v := c.judge(host, cls)
		switch {
		case host == "*":
			d.any = v
		case strings.HasPrefix(host, "*"):
			d.suffixes = append(d.suffixes, wildcard{host, v})
		case strings.HasSuffix(host, "*"):
			d.prefixes = append(d.prefixes, wildcard{host, v})
		default:
			d.exact[host] = v
		}
	}
	for _, list := range [][]wildcard{d.suffixes, d.prefixes} {
		sort.Slice(list, func(i, j int) bool { return len(list[i].host) > len(list[j].host) })
	}
	for _, cls := range claims {
		for _, cl := range cls {
			cl.spec = nil // not needed any longer, and large
		}
	}
	return d
}

// claim is what a VirtualService is at a door, nil when it is not bound to it.
func (c *compiler) claim(o *manifest.Object, spec *networking.VirtualService, sure, maybe map[string]bool) *claim {
	ns := o.Meta.Namespace
	cl := &claim{id: ns + "/" + o.Meta.Name, namespace: ns, spec: spec, kind: People}
	var certain []string
	for _, g := range gatewaysOf(spec.GetGateways(), ns) {
		if sure[g] {
			certain = append(certain, g)
		}
		if sure[g] || maybe[g] {
			cl.gateways = append(cl.gateways, g)
		}
	}
	if len(cl.gateways) == 0 || len(spec.GetHosts()) == 0 {
		return nil
	}
	to := spec.GetExportTo()
	exported := slices.Equal(to, []string{"*"}) || len(to) == 0 && !c.hidden
	if o.Unread != nil {
		cl.doubt = c.lostModel(ns, o.Meta.Name)
		return cl // somebody's, at its hosts and perhaps at this door: nothing else is known
	}
	cl.sure = exported && ordinary(o) && serves(spec, certain, ns)
	if r, ok := c.model(o, spec); ok {
		cl.kind, cl.resource, cl.origins = Model, r, c.origins[r]
		cl.onward = onward(spec, ns)
	} else if c.application(o, spec) {
		cl.kind, cl.resource = Application, access.Application(ns, o.Meta.Name)
	}
	if cl.kind != Model {
		cl.doubt = c.lostModel(ns, o.Meta.Name)
	}
	return cl
}

// serves tells whether a VirtualService has a route for one of these Gateways.
// Without one Istio makes no virtual host of it, and its host falls to whoever
// has the wildcard (BuildHTTPRoutesForVirtualService and translateRoute in
// pilot/pkg/networking/core/route/route.go).
func serves(spec *networking.VirtualService, gateways []string, namespace string) bool {
	if len(gateways) == 0 {
		return false
	}
	for _, h := range spec.GetHttp() {
		if len(h.GetMatch()) == 0 {
			return true
		}
		for _, m := range h.GetMatch() {
			in := gatewaysOf(m.GetGateways(), namespace)
			here := len(m.GetGateways()) == 0 || slices.ContainsFunc(in, func(g string) bool { return slices.Contains(gateways, g) })
			if here && m.GetPort() == 0 && len(m.GetSourceLabels()) == 0 && m.GetSourceNamespace() == "" {
				return true
			}
		}
	}
	return false
}

// ordinary tells whether an object has none of the marks by which Istio leaves
// it to another revision of itself or reads it in another way.
func ordinary(o *manifest.Object) bool {
	if _, ok := o.Meta.Labels["istio.io/rev"]; ok {
		return false
	}
	for name := range o.Meta.Annotations {
		if strings.HasPrefix(name, "internal.istio.io/") {
			return false
		}
	}
	return true
}

// judge decides what a host is.
func (c *compiler) judge(host string, claims []*claim) (v vhost) {
	defer func() {
		if v.fixed == nil {
			v.fixed = &Territory{Kind: People, Settled: true, VirtualServices: ids(claims)}
		}
	}()
	if i := slices.IndexFunc(claims, func(cl *claim) bool { return cl.doubt != "" }); i >= 0 && !strings.Contains(host, "*") && !c.kubeflowHost(host, claims) {
		v.fixed = refuse(claims, NotDerived, claims[i].doubt+": what KServe makes of it is not known here", claims[i].id)
		return v
	}
	ours := slices.ContainsFunc(claims, func(cl *claim) bool { return cl.sure && cl.kind != People })
	if !ours || strings.Contains(host, "*") || c.kubeflowHost(host, claims) {
		return v
	}
	first := claims[0]
	same := !slices.ContainsFunc(claims, func(cl *claim) bool { return cl.resource != first.resource })
	var paths *paths
	var settled bool
	if !same || byPath(claims) {
		paths, settled = c.told(host, claims)
	}
	switch {
	case settled && onlyModels(claims) && paths.narrow:
		v.byPath = paths // a pathTemplate's host
	case !oneNamespace(claims):
		v.fixed = refuse(claims, AmbiguousHost, "VirtualServices of several namespaces claim the host", intruders(claims)...)
	case severalModels(claims):
		v.fixed = refuse(claims, AmbiguousHost, "several models claim the host", intruders(claims)...)
	case slices.ContainsFunc(claims, func(cl *claim) bool { return !cl.sure }):
		unsure := slices.DeleteFunc(slices.Clone(claims), func(cl *claim) bool { return cl.sure })
		v.fixed = refuse(claims, AmbiguousRoute, "a VirtualService may or may not be at this door", ids(unsure)...)
	case same:
		v.fixed = c.one(claims)
	case !settled:
		v.fixed = refuse(claims, AmbiguousRoute, "the routes of the host are told apart by more than path and method", intruders(claims)...)
	default:
		v.byPath = paths
	}
	return v
}

func oneNamespace(claims []*claim) bool {
	return !slices.ContainsFunc(claims, func(cl *claim) bool { return cl.namespace != claims[0].namespace })
}

// byPath tells whether a path decides anything.
func byPath(claims []*claim) bool {
	return slices.ContainsFunc(claims, func(cl *claim) bool {
		return slices.ContainsFunc(cl.spec.GetHttp(), func(h *networking.HTTPRoute) bool {
			return slices.ContainsFunc(h.GetMatch(), func(m *networking.HTTPMatchRequest) bool { return m.GetUri() != nil })
		})
	})
}

// onlyModels tells whether nothing but models is at the door for a host, for
// certain.
func onlyModels(claims []*claim) bool {
	return !slices.ContainsFunc(claims, func(cl *claim) bool { return cl.kind != Model || !cl.sure })
}

// kubeflowHost tells whether a host is Kubeflow's own, by configuration or
// because an object of Kubeflow's namespaces claims it.
func (c *compiler) kubeflowHost(host string, claims []*claim) bool {
	return slices.ContainsFunc(c.cfg.Hosts, func(h string) bool { return strings.EqualFold(h, host) }) ||
		slices.ContainsFunc(claims, func(cl *claim) bool { return c.kubeflow[cl.namespace] })
}

func severalModels(claims []*claim) bool {
	var model access.Resource
	for _, cl := range claims {
		if cl.kind != Model {
			continue
		}
		if !model.IsZero() && model != cl.resource {
			return true
		}
		model = cl.resource
	}
	return false
}

// one is the territory of a model or an application that has a host for itself. All
// its hosts at all doors share it: there may be very many.
func (c *compiler) one(claims []*claim) *Territory {
	names := ids(claims)
	onward := !slices.ContainsFunc(claims, func(cl *claim) bool { return !cl.onward })
	key := fmt.Sprint(names, onward)
	if c.ones[key] == nil {
		t := claims[0].territory("")
		t.VirtualServices = names
		t.Onward = onward
		c.ones[key] = &t
	}
	return c.ones[key]
}

func refuse(claims []*claim, reason, detail string, by ...string) *Territory {
	return &Territory{VirtualServices: ids(claims), Reason: reason, Detail: detail, By: by}
}

// intruders are the VirtualServices but for those of the one model or application
// that is there; all where there is none or more than one.
func intruders(claims []*claim) []string {
	var owner access.Resource
	for _, cl := range claims {
		if cl.kind == Model && !owner.IsZero() && owner != cl.resource {
			return ids(claims)
		}
		if cl.kind == Model {
			owner = cl.resource
		}
	}
	others := slices.DeleteFunc(slices.Clone(claims), func(cl *claim) bool { return cl.resource == owner })
	if owner.IsZero() || len(others) == 0 {
		return ids(claims)
	}
	return ids(others)
}

func ids(claims []*claim) []string {
	var out []string
	for _, c := range claims {
		out = append(out, c.id)
	}
	return out
}
