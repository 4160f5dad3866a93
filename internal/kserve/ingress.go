package kserve

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

const (
	clusterLocal = "ClusterLocal"
	externalIP   = "ExternalIP"
)

// ingress is the spec of Knative's Ingress for a component's route, with the
// fields in the order of networking/v1alpha1: its JSON is what is hashed.
type ingress struct {
	Rules []ingressRule `json:"rules,omitempty"`

	namespace, name string
}

type ingressRule struct {
	Hosts      []string `json:"hosts,omitempty"`
	Visibility string   `json:"visibility,omitempty"`
	HTTP       struct {
		Paths []ingressPath `json:"paths"`
	} `json:"http"`
}

type ingressPath struct {
	Path          string                     `json:"path,omitempty"`
	Headers       map[string]json.RawMessage `json:"headers,omitempty"`
	RewriteHost   string                     `json:"rewriteHost,omitempty"`
	Splits        []ingressSplit             `json:"splits"`
	AppendHeaders map[string]string          `json:"appendHeaders,omitempty"`
}

type ingressSplit struct {
	ServiceNamespace string            `json:"serviceNamespace"`
	ServiceName      string            `json:"serviceName"`
	ServicePort      int               `json:"servicePort"`
	Percent          int               `json:"percent"`
	AppendHeaders    map[string]string `json:"appendHeaders"`
}

// newIngress is Knative serving's MakeIngress for a route whose traffic goes to
// the latest revision: a rule for the names within the cluster and, unless the
// domain is the cluster's own, one for the public name.
func newIngress(namespace string, comp component, domain string) *ingress {
	name := comp.name
	ing := &ingress{namespace: namespace, name: name}
	rule := func(visibility string, hosts []string) {
		r := ingressRule{Hosts: hosts, Visibility: visibility}
		r.HTTP.Paths = []ingressPath{{Splits: []ingressSplit{{
			ServiceNamespace: namespace, ServiceName: comp.revision(), ServicePort: int(comp.port().Port), Percent: 100,
			AppendHeaders: map[string]string{
				"Knative-Serving-Namespace": namespace, "Knative-Serving-Revision": comp.revision(),
			},
		}}}}
		ing.Rules = append(ing.Rules, r)
	}
	rule(clusterLocal, expanded([]string{internalHost(name, namespace)}))
	if domain != "svc."+clusterDomain {
		rule(externalIP, []string{name + "." + namespace + "." + domain})
	}
	return ing
}

// hosts are those of all rules, or of the rules for the cluster.
func (ing *ingress) hosts(onlyLocal bool) []string {
	var out []string
	for _, r := range ing.Rules {
		if !onlyLocal || r.Visibility == clusterLocal {
			out = append(out, r.Hosts...)
		}
	}
	return out
}

// hash is knative.dev/networking pkg/ingress.ComputeHash: the header by which
// Knative's prober knows which version of a route a gateway has.
func (ing *ingress) hash() string {
	spec, err := json.Marshal(ing)
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(append(spec, ing.namespace+ing.name...))
	return hex.EncodeToString(sum[:])
}
