// Package sidecar holds the engine's inbound listeners against a real Envoy: what
// Istio makes for a pod's sidecar runs in both, with real certificates.
package sidecar
