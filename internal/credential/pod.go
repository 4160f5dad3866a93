package credential

import (
	"net/netip"

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

// Pods knows who holds which address. It is immutable.
type Pods struct {
	byAddr    map[netip.Addr][]*holder
	uids      map[objectName]string // of every pod there is, finished ones too
	noCallers string
}

// objectName is an object of a namespace.
type objectName struct{ namespace, name string }

type holder struct {
	pod     Pod
	gateway bool
	proxy   bool
}

// NewPods makes a snapshot. A finished pod holds no address: Kubernetes gives
// it to another one while the finished pod's status still names it.
func NewPods(pods []Pod, rules PodRules) *Pods {
	proxies := append(DefaultProxies(), rules.Proxies...)
	p := &Pods{byAddr: map[netip.Addr][]*holder{}, uids: make(map[objectName]string, len(pods)), noCallers: rules.NoCallers}
	for _, pod := range pods {
		p.uids[objectName{pod.Namespace, pod.Name}] = pod.UID
		if pod.Phase == "Succeeded" || pod.Phase == "Failed" {
			continue
		}
		h := &holder{pod: pod}
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
		seen := map[netip.Addr]bool{}
		for _, a := range pod.Addrs {
			if a = plain(a); a.IsValid() && !seen[a] {
				seen[a] = true
				p.byAddr[a] = append(p.byAddr[a], h)
			}
		}
	}
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

// sole is the one pod that holds an address.
func (p *Pods) sole(a netip.Addr) *holder {
	if p == nil {
		return nil
	}
	if h := p.byAddr[plain(a)]; len(h) == 1 {
		return h[0]
	}
	return nil
}

// Gateway tells whether an address is that of one of the gateways' own pods,
// and nobody else's: a gateway in its node's network shares its address with
// everything else there, so it is not recognised.
func (p *Pods) Gateway(a netip.Addr) bool {
	h := p.sole(a)
	return h != nil && h.gateway && !h.pod.HostNetwork && (h.pod.Phase == "" || h.pod.Phase == "Running")
}

// Caller is the pod that calls from an address, on a door that only the inside
// of the cluster reaches (the caller must have made sure). why says what stood
// against it when there is none.
func (p *Pods) Caller(a netip.Addr) (c access.Caller, ok bool, why string) {
	h, why := p.recognise(a)
	if h == nil {
		return access.Caller{}, false, why
	}
	account := h.pod.ServiceAccount
	if account == "" {
		account = "default"
	}
	return access.Caller{
		User:   "postern:pod:" + h.pod.Namespace + ":" + account,
		Groups: []string{"postern:pods", "postern:pods:" + h.pod.Namespace},
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
	return h != nil && h.pod.Namespace == r.Namespace && h.pod.Labels[ModelLabel] == r.Name
}

// recognise finds the pod that calls from an address by itself.
func (p *Pods) recognise(a netip.Addr) (h *holder, why string) {
	if p == nil || len(p.byAddr[plain(a)]) == 0 {
		return nil, "no pod holds the address"
	}
	h = p.sole(a)
	switch {
	case p.noCallers != "":
		return nil, p.noCallers
	case h == nil:
		return nil, "several pods hold the address"
	case h.gateway || h.proxy:
		return nil, "the pod passes on other callers' requests"
	case h.pod.HostNetwork:
		return nil, "the pod shares its node's address"
	case h.pod.Terminating:
		return nil, "the pod is being deleted"
	case h.pod.Phase != "" && h.pod.Phase != "Running":
		return nil, "the pod is not running"
	}
	return h, ""
}
