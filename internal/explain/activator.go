package explain

import "net/netip"

// revisionLabel is on the pods of a Knative revision.
const revisionLabel = "serving.knative.dev/revision"

// activatorPort is where Knative's activator takes HTTP/1.1: what a revision's
// Service leads to while the revision is scaled to zero
// (knative.dev/networking pkg/apis/networking/constants.go BackendHTTPPort).
const activatorPort = 8012

// scaledToZero puts the activator in front of a revision's pod, when the call asks
// for that. False: the walk ended.
func (w *walk) scaledToZero(at *place) bool {
	if !w.call.ScaledToZero || at.gateway != nil || at.pod.Labels[revisionLabel] == "" {
		return true
	}
	for _, wl := range w.system.world.Topology.Workloads() {
		if wl.Name == "activator" && wl.Labels["app"] == "activator" && len(wl.Pods) > 0 {
			at.activator = wl.Pods[0]
			return true
		}
	}
	w.unknown("the revision is scaled to zero, and the manifests hold no activator (Deployment activator of Knative)")
	return false
}

// throughActivator passes Knative's activator: its sidecar, if it has one, and then
// the program, which waits for a pod and sends the call on with its headers. What
// the pod sees of a peer is the activator's: by mutual TLS where it calls the
// revision's Service, in plaintext where it calls the pod's address, which the
// mesh's proxies do not know (Knative's mesh-compatibility-mode decides which; auto
// tries the address first).
func (w *walk) throughActivator(at *place) bool {
	front := *at
	front.pod, front.addr, front.activator = at.activator, netip.AddrPortFrom(at.activator.Addr, activatorPort), nil
	if !w.throughSidecar(&front) {
		return false
	}
	w.hop(Hop{Kind: "activator", Name: front.pod.String(), Address: front.addr.String(),
		Text: "waits for a pod of the revision and passes the call on with its headers; the pod sees the activator as its peer, not who called before"})
	at.request, at.source, at.activator = front.request, front.pod.Addr, nil
	at.peers = []peer{{why: "the activator calls the pod's address"}}
	if w.system.world.Injected(front.pod) != "" {
		at.peers = append([]peer{{identity: w.system.world.Principal(front.pod.Namespace, front.pod.ServiceAccount), alpn: alpnHTTP1}}, at.peers...)
	}
	return true
}
