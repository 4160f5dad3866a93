package explain

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/passport"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/world"
)

// maxHops bounds a walk; an external inference passes two gateways.
const maxHops = 8

// walk is one call on its way.
type walk struct {
	system *System
	ctx    context.Context
	call   Call
	start  *start
	answer *Answer
	dice   map[int]uint64 // what chooses among weighted destinations, by hop

	named   string // whom the login named by kubeflow-userid
	allowed *By    // the RoleBinding that let the call in, of the last authorizer asked
	route   *By    // the VirtualService of the last route
}

// place is where a request has got to.
type place struct {
	pod     *topology.Pod
	addr    netip.AddrPort // its own
	source  netip.Addr     // the peer's
	gateway *world.Gateway // nil: a pod
	backend string         // "NS/SERVICE:PORT"
	request envoy.Upstream
	// peers are how the last station may connect: one, or several of which it is
	// not known which it is.
	peers     []peer
	activator *topology.Pod // in between, while the pod is scaled to zero
}

func (w *walk) run() {
	at, ok := w.enter()
	for n := 0; ok && at.gateway != nil; n++ {
		if n == maxHops {
			w.unknown(fmt.Sprintf("the call goes round: %d gateways in a row", n))
			return
		}
		at, ok = w.proxy(at)
	}
	if ok {
		w.arrive(at)
	}
}

// enter is the way to the first station: through a door, or by a name.
func (w *walk) enter() (place, bool) {
	st := w.start
	w.client()
	at := place{source: st.source, request: st.request}
	if d := st.door; d != nil {
		at.gateway, at.pod = d.gateway, d.gateway.Workload.Pods[0]
		at.addr = netip.AddrPortFrom(at.pod.Addr, d.port)
		text := "port " + strconv.Itoa(int(d.port))
		if d.object != "" {
			text = "Gateway " + d.object + ", " + text
		}
		if st.pod == nil && w.internalOnly(d) {
			w.assume(fmt.Sprintf("somebody outside can connect to port %d: no Service of type NodePort or LoadBalancer leads there", d.port))
		}
		w.hop(Hop{Kind: "name", Name: "door", Text: text + " of " + d.gateway.Workload.String()})
		return at, true
	}
	return w.resolve(at)
}

func (w *walk) client() {
	h := Hop{Kind: "client", Name: "outside", Address: w.start.source.String()}
	switch pod := w.start.pod; {
	case pod != nil:
		h.Name = "pod " + pod.String()
		h.Text = "service account " + pod.ServiceAccount
		if why := w.system.world.Injected(pod); why != "" {
			h.Text += "; has a sidecar (" + why + "), whose outbound side is not modelled"
		}
	case w.start.source == outsider:
		h.Text = "an address that is no pod's"
	}
	w.hop(h)
}

// resolve follows the URL's host as the calling pod's resolver does.
func (w *walk) resolve(at place) (place, bool) {
	st, topo := w.start, w.system.world.Topology
	name, err := topo.Lookup(st.pod.Namespace, st.host)
	if err != nil {
		w.unreachable(st.host, err)
		return at, false
	}
	h := Hop{Kind: "name", Name: st.host}
	for _, alias := range name.Aliases {
		h.Steps = append(h.Steps, Step{Stage: "ExternalName", Text: alias, By: w.system.serviceNamed(alias)})
	}
	eps, err := topo.Reach(st.pod.Namespace, st.host, st.port)
	if err != nil {
		w.hop(h)
		w.unreachable(st.host, err)
		return at, false
	}
	if svc := name.Service; svc != nil {
		at.backend = fmt.Sprintf("%s:%d", svc, st.port)
		h.Steps = append(h.Steps, Step{Stage: "Service", Text: fmt.Sprintf("port %d", st.port), By: byObject(svc.Object, "")})
	}
	h.Text = fmt.Sprintf("%s of pod %s", eps[0].Addr, eps[0].Pod)
	w.hop(h)
	if why := w.meshRoute(st); why != "" {
		w.unknown(why)
		return at, false
	}
	at.pod, at.addr = eps[0].Pod, eps[0].Addr
	at.gateway, at.peers = w.gatewayOf(at.pod), w.peersOfPod(st.pod, name)
	if at.gateway == nil && w.withoutConfiguration(at.pod) {
		return at, false
	}
	return at, w.scaledToZero(&at)
}

// unreachable ends a walk at a name that leads nowhere.
func (w *walk) unreachable(host string, err error) {
	w.answer.Outcome = Refused
	w.answer.Host, w.answer.Path = w.start.request.Authority, w.start.request.Path
	w.why("the client cannot connect to " + host + ": " + err.Error())
	w.nearest("a Service of that name and port with a ready pod")
}

// proxy passes one gateway. It returns the next station, or false when the walk
// ended here.
func (w *walk) proxy(at place) (place, bool) {
	v := newVisit(w, at)
	o := v.evaluate()
	w.hop(v.hop)
	a := w.answer
	a.Host, a.Path = at.request.Authority, at.request.Path
	if r := w.system.route(o.Route, v.routeText); r != nil {
		w.route = r
	}
	if v.undetermined != "" {
		w.unknown(v.undetermined)
		return at, false
	}
	switch o.Kind {
	case envoy.Local:
		v.local(o)
		return at, false
	case envoy.Forward:
		return v.forward(o)
	}
	v.notInForce()
	w.unknown(o.Reason)
	return at, false
}

// forward goes on to the cluster's pod.
func (v *visit) forward(o envoy.Outcome) (place, bool) {
	w := v.walk
	w.answer.Host, w.answer.Path = o.Request.Authority, o.Request.Path
	w.answer.Headers = shown(o.Request.Headers)
	next := place{source: v.at.pod.Addr, request: o.Request, backend: backendOf(o.Cluster)}
	if v.system().alone {
		w.answer.Backend = next.backend
		w.why("the config_dump is one proxy's: what stands behind " + next.backend + " is not followed")
		w.done(v)
		return next, false
	}
	eps, err := v.system().world.Topology.Cluster(o.Cluster)
	switch {
	case errors.Is(err, topology.ErrBlackHole), errors.Is(err, topology.ErrPassthrough), err != nil && strings.Contains(err.Error(), "not supported"):
		w.unknown(err.Error())
		return next, false
	case err != nil:
		v.noEndpoint(err)
		v.notAsked()
		return next, false
	}
	v.notAsked()
	next.pod, next.addr = eps[0].Pod, eps[0].Addr
	next.peers = []peer{v.system().peerOfGateway(v.at.gateway, o.Cluster)}
	if next.gateway = w.gatewayOf(next.pod); next.gateway == nil && w.withoutConfiguration(next.pod) {
		return next, false
	}
	return next, w.scaledToZero(&next)
}

// arrive ends a walk at a pod: through the activator, if it is scaled to zero, and
// its sidecar, if it has one.
func (w *walk) arrive(at place) {
	if at.activator != nil && !w.throughActivator(&at) {
		return
	}
	a := w.answer
	a.Backend, a.Host, a.Path, a.Headers = at.backend, at.request.Authority, at.request.Path, shown(at.request.Headers)
	if !slices.ContainsFunc(a.Hops, func(h Hop) bool { return h.Kind == "proxy" }) {
		w.why("the pod is reached directly: the call meets no gateway")
	}
	if !w.throughSidecar(&at) {
		if a.Outcome != Unknown {
			a.Backend = "" // it was not reached
		}
		return
	}
	a.Headers = shown(at.request.Headers)
	h := Hop{Kind: "pod", Name: at.pod.String(), Address: at.addr.String()}
	if w.system.world.Injected(at.pod) == "" {
		h.Text = "no sidecar"
	}
	w.hop(h)
	w.done(nil)
}

// done is a walk that reached a backend.
func (w *walk) done(v *visit) {
	if v != nil {
		v.notAsked()
	}
	w.answer.Outcome = Forwarded
	w.answer.By = w.route
	if w.allowed != nil {
		w.answer.By = w.allowed
		w.why("allowed by " + w.allowed.String())
	}
	w.forged()
}

// identity are the headers by which Kubeflow's backends take a caller for a
// person.
var identity = []string{"kubeflow-userid", "kubeflow-groups"}

// forged says when a client's own identity reached the backend.
func (w *walk) forged() {
	final := envoy.Headers{}
	for _, h := range w.answer.Headers {
		final.Add(h[0], h[1])
	}
	for _, name := range identity {
		sent, ok := w.start.request.Headers.Get(name)
		got, there := final.Get(name)
		if !ok || !there || sent != got || name == identity[0] && got == w.named {
			continue
		}
		text := fmt.Sprintf("the client's own %s: %s reached the backend", name, got)
		if g := w.lastGateway(); g != nil && !slices.ContainsFunc(w.answer.Hops, func(h Hop) bool { return h.Kind == "activator" }) {
			text += fmt.Sprintf(", and the connection is the gateway's (service account %s/%s), which backends trust to name people", g.Namespace, g.ServiceAccount)
		}
		w.why(text)
	}
}

func (w *walk) lastGateway() *topology.Workload {
	for i := len(w.answer.Hops) - 1; i >= 0; i-- {
		if h := w.answer.Hops[i]; h.Kind == "proxy" {
			for _, g := range w.system.world.Gateways {
				if g.Workload.Pods[0].String() == h.Name {
					return g.Workload
				}
			}
		}
	}
	return nil
}

func (w *walk) gatewayOf(pod *topology.Pod) *world.Gateway {
	for _, g := range w.system.world.Gateways {
		if g.Workload == pod.Workload {
			return g
		}
	}
	return nil
}

// withoutConfiguration ends the walk at a gateway of which there is no dump.
func (w *walk) withoutConfiguration(pod *topology.Pod) bool {
	if !w.system.dump {
		return false
	}
	gateways, err := w.system.world.Topology.GatewayWorkloads()
	if err != nil {
		return false
	}
	for _, g := range gateways {
		if g == pod.Workload {
			w.unknown(fmt.Sprintf("the next gateway is %s: its config_dump is not given", g))
			return true
		}
	}
	return false
}

func (w *walk) hop(h Hop)          { w.answer.Hops = append(w.answer.Hops, h) }
func (w *walk) why(text string)    { w.answer.Why = appendNew(w.answer.Why, text) }
func (w *walk) assume(text string) { w.answer.Assumed = appendNew(w.answer.Assumed, text) }
func (w *walk) nearest(text string) {
	w.answer.Nearest = appendNew(w.answer.Nearest, text)
}

func (w *walk) unknown(text string) {
	w.answer.Outcome = Unknown
	w.why(text)
}

func appendNew(list []string, text string) []string {
	for _, t := range list {
		if t == text {
			return list
		}
	}
	return append(list, text)
}

// shown are headers as an answer shows them: a passport is a credential.
func shown(in envoy.Headers) [][2]string {
	out := [][2]string{}
	for _, h := range in {
		if h.Name == passport.Header {
			h.Value = "(passport)"
		}
		out = append(out, [2]string{h.Name, h.Value})
	}
	return out
}

// backendOf is a cluster's name as NAMESPACE/SERVICE:PORT.
func backendOf(cluster string) string {
	c, err := topology.ParseCluster(cluster)
	if err != nil {
		return cluster
	}
	name, rest, ok := strings.Cut(c.Host, ".")
	namespace, suffix, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || !strings.HasPrefix(suffix, "svc.") {
		return fmt.Sprintf("%s:%d", c.Host, c.Port)
	}
	return fmt.Sprintf("%s/%s:%d", namespace, name, c.Port)
}
