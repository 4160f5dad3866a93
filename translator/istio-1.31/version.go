// Command istio-1.31 translates Kubernetes and Istio objects into Envoy configuration, as a development version of istiod 1.31 does.
// See translator/README.md.
package main

const (
	// version is how Istio names its own builds between releases; the commit is the one go.mod pins.
	version      = "1.31-alpha.eed52ebb66ad"
	proxyVersion = "1.31.0"
)
