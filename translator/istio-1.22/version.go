// Command istio-1.22 translates Kubernetes and Istio objects into Envoy configuration, as istiod 1.22.1 does.
// See translator/README.md.
package main

// version is the tag of the commit that go.mod pins. Proxies say they are of the same.
const (
	version      = "1.22.1"
	proxyVersion = version
)
