package credential

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"postern.dev/postern/internal/access"
)

// Pod is what is known of a pod.
type Pod struct {
	Namespace      string
	Name           string
	UID            string // empty when it is not known, as in a manifest
	ServiceAccount string // empty means "default"
	Addrs          []netip.Addr
	Labels         map[string]string
	HostNetwork    bool
	Phase          string // of its status; empty, as in a manifest, means Running
	Terminating    bool
}

// Workload picks pods by namespace and labels. Labels alone prove nothing: any
// tenant may put a gateway's labels on a pod.
type Workload struct {
	Namespace string
	Labels    map[string]string
}

// PodRules say which pods are not callers.
type PodRules struct {
	// Gateways are the gateways' own pods: they call for others, and a passport
	// counts only from them.
	Gateways []Workload
	// Proxies are label sets of pods that call for others, anywhere, besides
	// DefaultProxies. A label with the value "*" need only be present.
	Proxies []map[string]string
	// NoCallers, if set, is why no pod is recognised by its address.
	NoCallers string
}

// DefaultProxies are the pods that pass on other people's calls: a call from
// their address is nobody's.
func DefaultProxies() []map[string]string {
	return []map[string]string{
		{"istio": "ingressgateway"}, {"app": "istio-ingressgateway"},
		{"istio": "egressgateway"}, {"app": "istio-egressgateway"},
		{"istio": "cluster-local-gateway"}, {"app": "cluster-local-gateway"},
		{"operator.istio.io/component": "IngressGateways"},
		{"istio": "eastwestgateway"}, {"gateway.networking.k8s.io/gateway-name": "*"}, // waypoints and Gateway API gateways
		{"gateway.istio.io/managed": "*"}, {"istio.io/gateway-name": "*"},
		{"app": "ztunnel"},
		{"app": "activator"}, {"app.kubernetes.io/component": "activator"}, // Knative's
		{"app.kubernetes.io/name": "ingress-nginx"}, {"app": "ingress-nginx"}, {"app": "nginx-ingress"},
		{"app.kubernetes.io/name": "nginx-ingress"},
		{"app.kubernetes.io/name": "traefik"}, {"app": "traefik"}, {"app.kubernetes.io/name": "haproxy-ingress"},
		{"app.kubernetes.io/name": "kubernetes-ingress"}, {"app.kubernetes.io/name": "kong"}, {"app.kubernetes.io/name": "contour"},
		{"app.kubernetes.io/name": "envoy"}, {"app": "envoy"}, {"app": "contour"},
		{"app.kubernetes.io/name": "oauth2-proxy"}, {"app": "oauth2-proxy"},
		{"app": "cloudflared"}, {"app.kubernetes.io/name": "cloudflared"},
	}
}

// Pods knows who holds which address. It is immutable. There may be very many pods,
// and each pointer is work for every garbage collection: so there are few.
type Pods struct {
	holders   []holder
	byAddr    map[[16]byte]int32    // which of holders, or contested
	uids      map[objectName]string // of every pod there is, finished ones too
	noCallers string
}

// contested stands for a holder where more than one pod has the address.
const contested = -1

// objectName is an object of a namespace.
type objectName struct{ namespace, name string }

// packed is the same with all texts in one.
func packed(uids map[objectName]string) map[objectName]string {
	var all strings.Builder
	names := slices.Collect(maps.Keys(uids))
	for _, n := range names {
		all.WriteString(n.namespace + n.name + uids[n])
	}
	rest := all.String()
	cut := func(n int) (s string) { s, rest = rest[:n], rest[n:]; return s }
	out := make(map[objectName]string, len(uids))
	for _, n := range names {
		uid := len(uids[n])
		out[objectName{cut(len(n.namespace)), cut(len(n.name))}] = cut(uid)
	}
	return out
}

// holder is a pod that holds an address.
type holder struct {
	namespace   string
	account     string
	model       string // of ModelLabel
	gateway     bool
	proxy       bool
	hostNetwork bool
	terminating bool
	running     bool
}

// NewPods makes a snapshot. A finished pod holds no address: Kubernetes gives
// it to another one while the finished pod's status still names it.
func NewPods(pods []Pod, rules PodRules) *Pods {
	proxies := append(DefaultProxies(), rules.Proxies...)
	p := &Pods{byAddr: map[[16]byte]int32{}, noCallers: rules.NoCallers}
	uids := make(map[objectName]string, len(pods))
	shared := map[string]string{}
	share := func(s string) string {
		if _, ok := shared[s]; !ok {
			s = strings.Clone(s)
			shared[s] = s
		}
		return shared[s]
	}
	for _, pod := range pods {
		uids[objectName{pod.Namespace, pod.Name}] = pod.UID
		if pod.Phase == "Succeeded" || pod.Phase == "Failed" {
			continue
		}
		h := holder{
			namespace: share(pod.Namespace), account: share(cmp.Or(pod.ServiceAccount, "default")), model: share(pod.Labels[ModelLabel]),
			hostNetwork: pod.HostNetwork, terminating: pod.Terminating, running: pod.Phase == "" || pod.Phase == "Running",
		}
		for _, w := range rules.Gateways {
			if w.Namespace == pod.Namespace && len(w.Labels) > 0 && bears(pod.Labels, w.Labels) {
				h.gateway = true
			}
		}
		for _, l := range proxies {
			if len(l) > 0 && bears(pod.Labels, l) {
				h.proxy = true
			}
		}
		at := int32(len(p.holders))
		p.holders = append(p.holders, h)
		for _, a := range pod.Addrs {
			a = plain(a)
			if !a.IsValid() {
				continue
			}
			if other, taken := p.byAddr[a.As16()]; taken && other != at {
				p.byAddr[a.As16()] = contested
			} else {
				p.byAddr[a.As16()] = at
			}
		}
	}
	p.holders, p.uids = slices.Clip(p.holders), packed(uids)
	return p
}

func bears(labels, want map[string]string) bool {
	for k, v := range want {
		got, ok := labels[k]
		if !ok || v != "*" && got != v {
			return false
		}
	}
	return true
}

// plain is the form in which addresses are compared: ::ffff:10.0.0.1 is 10.0.0.1.
// An address with a zone is no pod's.
func plain(a netip.Addr) netip.Addr {
	if a.Zone() != "" {
		return netip.Addr{}
	}
	return a.Unmap()
}

// at is the one pod that holds an address. held tells whether one does at all.
func (p *Pods) at(a netip.Addr) (h *holder, held bool) {
	if a = plain(a); p == nil || !a.IsValid() {
		return nil, false
	}
	i, held := p.byAddr[a.As16()]
	if !held || i == contested {
		return nil, held
	}
	return &p.holders[i], true
}

// Gateway tells whether an address is that of one of the gateways' own pods,
// and nobody else's: a gateway in its node's network shares its address with
// everything else there, so it is not recognised.
func (p *Pods) Gateway(a netip.Addr) bool {
	h, _ := p.at(a)
	return h != nil && h.gateway && !h.hostNetwork && h.running
}

// Caller is the pod that calls from an address, on a door that only the inside
// of the cluster reaches (the caller must have made sure). why says what stood
// against it when there is none.
func (p *Pods) Caller(a netip.Addr) (c access.Caller, ok bool, why string) {
	h, why := p.recognise(a)
	if h == nil {
		return access.Caller{}, false, why
	}
	return access.Caller{
		User:   "postern:pod:" + h.namespace + ":" + h.account,
		Groups: []string{"postern:pods", "postern:pods:" + h.namespace},
		Kind:   access.Pod,
	}, true, ""
}

// ModelLabel is the label by which KServe marks the pods of an InferenceService.
const ModelLabel = "serving.kserve.io/inferenceservice"

// Sibling tells whether an address is that of a pod of the model itself: its
// transformer calls its predictor. Who may make such a pod in the namespace may
// change the model too.
func (p *Pods) Sibling(a netip.Addr, r access.Resource) bool {
	if r != access.Model(r.Namespace, r.Name) {
		return false
	}
	h, _ := p.recognise(a)
	return h != nil && h.namespace == r.Namespace && h.model == r.Name
}

// recognise finds the pod that calls from an address by itself.
func (p *Pods) recognise(a netip.Addr) (h *holder, why string) {
	h, held := p.at(a)
	switch {
	case !held:
		return nil, "no pod holds the address"
	case p.noCallers != "":
		return nil, p.noCallers
	case h == nil:
		return nil, "several pods hold the address"
	case h.gateway || h.proxy:
		return nil, "the pod passes on other callers' requests"
	case h.hostNetwork:
		return nil, "the pod shares its node's address"
	case h.terminating:
		return nil, "the pod is being deleted"
	case !h.running:
		return nil, "the pod is not running"
	}
	return h, ""
}
