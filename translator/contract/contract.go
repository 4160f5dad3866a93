// Package contract is what every translator has in common: the JSON it reads and writes, the reading of Kubernetes objects that
// needs no Istio, and the order that makes its output the same byte for byte.
//
// A translator is a program pinned to one Istio line. It reads a Request on stdin and writes a Response on stdout:
//
//	{"objects": [<Kubernetes object>, ...], "proxies": [{"name": "istio-ingressgateway.istio-system", "type": "router", ...}]}
//	{"istio": "1.17.5", "rejected": [...], "warnings": [...], "proxies": [{"name": ..., "listeners": [...], "routes": [...], "clusters": [...]}]}
//
// The package is stdlib only and keeps to Go 1.20, so that the oldest line can use it.
package contract

import (
	"encoding/json"
	"fmt"
)

// Request is what a translator reads.
type Request struct {
	Objects []json.RawMessage `json:"objects"`
	Proxies []Proxy           `json:"proxies"`

	// JWKS are key sets in JSON that istiod would fetch: by a rule's jwksUri or, for a rule without one, by its issuer.
	JWKS map[string]string `json:"jwks,omitempty"`
}

// Proxy is a workload's Envoy, as it would introduce itself to istiod.
type Proxy struct {
	Name           string            `json:"name"` // POD.NAMESPACE
	Type           string            `json:"type"` // router or sidecar
	Namespace      string            `json:"namespace"`
	ServiceAccount string            `json:"serviceAccount,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Addresses      []string          `json:"addresses"`

	// Inbound asks of a sidecar only for what becomes of requests to its workload.
	Inbound bool `json:"inbound,omitempty"`
}

// Response is what a translator writes. Lists are sorted, so that equal requests give equal bytes.
type Response struct {
	Istio    string        `json:"istio"`
	Rejected []Rejection   `json:"rejected"`
	Warnings []Warning     `json:"warnings,omitempty"`
	Proxies  []ProxyConfig `json:"proxies"`
}

// Rejection is an object the translation goes without, or does not take whole, and why.
type Rejection struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
	Message    string `json:"message"`
}

// Warning is an object that is translated, but not as the real istiod would, and why.
type Warning struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Message   string `json:"message"`
}

// ProxyConfig is the configuration of one proxy: Envoy's v3 protos as canonical protojson, each list sorted by name.
type ProxyConfig struct {
	Name      string            `json:"name"`
	Listeners []json.RawMessage `json:"listeners"`
	Routes    []json.RawMessage `json:"routes"`
	Clusters  []json.RawMessage `json:"clusters"`
}

// validate refuses what Istio would quietly make something else of.
func (r *Request) validate() error {
	for uri, keys := range r.JWKS {
		if _, err := readKeys(keys); err != nil {
			return fmt.Errorf("jwks of %s: %w", uri, err)
		}
	}
	seen := map[string]bool{}
	for i, p := range r.Proxies {
		switch {
		case p.Name == "":
			return fmt.Errorf("proxy %d: no name", i)
		case seen[p.Name]:
			return fmt.Errorf("proxy %s: named twice", p.Name)
		case p.Type != "router" && p.Type != "sidecar":
			return fmt.Errorf("proxy %s: got type %q, want router or sidecar", p.Name, p.Type)
		case p.Inbound && p.Type != "sidecar":
			return fmt.Errorf("proxy %s: inbound is for sidecars, got type %s", p.Name, p.Type)
		case p.Namespace == "":
			return fmt.Errorf("proxy %s: no namespace", p.Name)
		case len(p.Addresses) == 0:
			return fmt.Errorf("proxy %s: no address", p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}
