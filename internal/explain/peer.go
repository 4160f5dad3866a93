package explain

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/world"
)

// peer is how a station connects to a pod that is no gateway. The zero value is
// plaintext, as nobody.
type peer struct {
	identity string   // SPIFFE
	alpn     []string // nil: no TLS
	always   bool     // TLS whoever is there; else where a sidecar takes mutual TLS
	why      string   // for a reader
}

// The application protocols that Istio's filter istio.alpn has HTTP offered by
// (pilot/pkg/xds/filters, mtlsHTTP11ALPN and mtlsHTTP2ALPN).
var (
	alpnHTTP1 = []string{"istio-http/1.1", "istio", "http/1.1"}
	alpnHTTP2 = []string{"istio-h2", "istio", "h2"}
)

// peerOfGateway is how a gateway connects to a cluster's pods: Istio wrote it into
// the cluster.
func (s *System) peerOfGateway(g *world.Gateway, cluster string) peer {
	i := slices.IndexFunc(g.Resources.Clusters, func(c *clusterv3.Cluster) bool { return c.Name == cluster })
	if i < 0 {
		return peer{why: "cluster " + cluster + " is not known"}
	}
	c := g.Resources.Clusters[i]
	p := peer{identity: s.world.Principal(g.Workload.Namespace, g.Workload.ServiceAccount), alpn: alpnHTTP1}
	if _, explicit := c.TypedExtensionProtocolOptions["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]; explicit && strings.Contains(c.String(), "http2_protocol_options") || c.Http2ProtocolOptions != nil { //nolint:staticcheck // Istio up to 1.17 writes it
		p.alpn = alpnHTTP2
	}
	for _, m := range c.TransportSocketMatches {
		if m.GetMatch().GetFields()["tlsMode"].GetStringValue() == "istio" {
			return p
		}
	}
	tls := &tlsv3.UpstreamTlsContext{}
	if c.TransportSocket == nil || c.TransportSocket.GetTypedConfig().UnmarshalTo(tls) != nil {
		return peer{why: "the gateway speaks plaintext to " + backendOf(cluster)}
	}
	p.always = true
	if len(tls.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs()) == 0 {
		p.identity, p.alpn = "", []string{"http/1.1"}
	}
	return p
}

// peersOfPod is how a pod connects to a Service: with a sidecar by mutual TLS,
// unless a DestinationRule may say otherwise.
func (w *walk) peersOfPod(pod *topology.Pod, name topology.Name) []peer {
	s := w.system
	if s.world.Injected(pod) == "" {
		return []peer{{why: "the client has no sidecar"}}
	}
	mutual := peer{identity: s.world.Principal(pod.Namespace, pod.ServiceAccount), alpn: alpnHTTP1}
	plain := peer{why: "the client's sidecar may speak plaintext there"}
	if name.Service == nil || !s.world.AutoMTLS() {
		return []peer{plain}
	}
	for o, dr := range manifest.Of[*networking.DestinationRule](s.world.Set) {
		full := dr.Host
		if !strings.Contains(full, ".") {
			full += "." + o.Meta.Namespace
		}
		if strings.HasPrefix(name.Host+".", strings.TrimSuffix(full, ".")+".") || strings.HasPrefix(full, "*") {
			plain.why = fmt.Sprintf("%s may have the client's sidecar speak plaintext there", byObject(o, ""))
			return []peer{mutual, plain}
		}
	}
	return []peer{mutual}
}

// throughSidecar passes the inbound side of a pod's sidecar. False: the walk ended
// there.
func (w *walk) throughSidecar(at *place) bool {
	injected := w.system.world.Injected(at.pod)
	switch {
	case injected == "" && len(at.peers) > 0 && at.peers[0].always:
		w.unknown(fmt.Sprintf("the gateway speaks TLS to pod %s, which has no sidecar: whether the pod ends it is not known", at.pod))
		return false
	case injected == "":
		return true
	case !world.Captured(at.pod, at.addr.Port()):
		w.why(fmt.Sprintf("connections to port %d of pod %s do not come to its sidecar", at.addr.Port(), at.pod))
		return true
	}
	proxy, err := w.system.world.Sidecar(w.ctx, at.pod)
	if err != nil {
		return w.sidecarNotKnown(at, injected, err)
	}
	var first *visit
	var decided envoy.Outcome
	for _, p := range at.peers {
		v := newSidecarVisit(w, at, proxy, p)
		o := v.evaluate()
		if first == nil {
			first, decided = v, o
			continue
		}
		if o.Kind != decided.Kind || o.Status != decided.Status {
			w.hop(first.hop)
			w.unknown(fmt.Sprintf("the sidecar of pod %s decides by who connects, and that is not known: %s is let in: %v; %s: %v", at.pod,
				first.from, decided.Kind == envoy.Forward, v.from, o.Kind == envoy.Forward))
			return false
		}
	}
	first.hop.Text += "; it has a sidecar: " + injected
	w.hop(first.hop)
	return first.passed(at, decided)
}

func newSidecarVisit(w *walk, at *place, proxy *world.Gateway, p peer) *visit {
	here := *at
	here.gateway = proxy
	v := newVisit(w, here)
	v.hop.Kind, v.place = "sidecar", "the sidecar of pod "+at.pod.String()
	if len(p.alpn) > 0 && (p.always || proxy.Proxy.TakesMutualTLS(at.addr.Port())) {
		v.tls = &envoy.TLS{ALPN: p.alpn, Peer: p.identity, PeerHash: "(hash)", Local: w.system.world.Principal(at.pod.Namespace, at.pod.ServiceAccount)}
	}
	switch {
	case v.tls != nil && p.identity != "":
		v.from = p.identity + " (mutual TLS)"
	case v.tls != nil:
		v.from = at.source.String() + " by TLS, without a certificate of the mesh"
	case p.why != "":
		v.from = at.source.String() + " in plaintext, nobody of the mesh (" + p.why + ")"
	default:
		v.from = at.source.String() + " in plaintext, nobody of the mesh"
	}
	return v
}

// sidecar tells whether the visit is one to a sidecar.
func (v *visit) sidecar() bool { return v.hop.Kind == "sidecar" }

// passed ends the walk with the sidecar's answer, or goes on with the request as
// the pod gets it.
func (v *visit) passed(at *place, o envoy.Outcome) bool {
	w := v.walk
	switch {
	case v.undetermined != "":
		w.unknown(v.undetermined)
	case o.Kind == envoy.Forward:
		at.request = o.Request
		return true
	case o.Kind == envoy.Local:
		v.local(o)
	case o.Kind == envoy.Closed:
		v.ended(o)
	default:
		w.unknown(v.place + ": " + o.Reason)
	}
	return false
}

// ended is a connection that the sidecar closes without an answer. The gateway in
// front answers 503 then; a pod that called by itself gets nothing.
func (v *visit) ended(o envoy.Outcome) {
	w, a := v.walk, v.walk.answer
	a.Outcome, a.Headers = Refused, [][2]string{}
	if w.lastGateway() != nil {
		a.Status = 503
		w.why("the gateway answers 503: the connection to the pod ended")
	}
	switch reason, _, _ := strings.Cut(o.Reason, "["); reason {
	case "rbac_access_denied_matched_policy":
		v.denied(o)
		return
	case "filter_chain_not_found", "tls_error":
		if by := v.strict(); by != nil && v.tls == nil {
			a.By = by
			w.why(fmt.Sprintf("%s takes mutual TLS only (%s), and the call comes from %s", v.place, by, v.from))
			w.nearest("a client with a sidecar of the mesh, or mode PERMISSIVE in " + by.String())
			return
		}
	}
	w.why(v.place + " ends the connection: " + o.Reason)
	w.nearest("a client that connects as " + v.place + " wants it")
}

// strict is the PeerAuthentication that demands mutual TLS of a pod: its
// workload's own before its namespace's before the mesh's, as Istio takes them.
func (v *visit) strict() *By {
	pod, root := v.at.pod, v.system().world.RootNamespace()
	var found *By
	rank := 0
	for o, pa := range manifest.Of[*security.PeerAuthentication](v.system().world.Set) {
		selector := pa.GetSelector().GetMatchLabels()
		r := 0
		switch {
		case o.Meta.Namespace == pod.Namespace && len(selector) > 0 && selects(selector, pod.Labels):
			r = 3
		case o.Meta.Namespace == pod.Namespace && len(selector) == 0:
			r = 2
		case o.Meta.Namespace == root && len(selector) == 0:
			r = 1
		}
		rule, mode := "mtls", pa.GetMtls().GetMode()
		if port, ok := pa.GetPortLevelMtls()[uint32(v.at.addr.Port())]; ok {
			rule, mode = fmt.Sprintf("portLevelMtls[%d]", v.at.addr.Port()), port.GetMode()
		}
		if r > rank && mode == security.PeerAuthentication_MutualTLS_STRICT {
			found, rank = byObject(o, rule), r
		}
	}
	return found
}

// sidecarNotKnown is a sidecar whose configuration cannot be had: it lets everybody
// in unless some object says otherwise.
func (w *walk) sidecarNotKnown(at *place, injected string, err error) bool {
	h := Hop{Kind: "sidecar", Name: at.pod.String(), Address: at.addr.String(), Text: "it has a sidecar (" + injected + "), whose configuration is not known: " + err.Error()}
	judges := w.system.sidecarJudges(at.pod)
	for _, b := range judges {
		h.Steps = append(h.Steps, Step{Stage: "sidecar", Text: "would judge the call here", By: b})
	}
	w.hop(h)
	if w.ctx.Err() == nil && len(judges) == 0 {
		return true
	}
	text := errors.Join(w.ctx.Err(), err).Error()
	if len(judges) > 0 {
		text = fmt.Sprintf("the call reaches pod %s; whether its sidecar lets it in is not known, and %s applies there: %s", at.pod, judges[0], text)
	}
	w.unknown(text)
	return false
}
