// Package conformance compares the engine with a real Envoy, request by request,
// on the configurations that Istio made: what Envoy answers by itself, which
// upstream it chooses, the request exactly as that upstream gets it, and the
// check exactly as the authorizer gets it.
package conformance
