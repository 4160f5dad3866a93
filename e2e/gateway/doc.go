// Package gateway holds tests of `postern up`'s gateways: the real Envoy of
// --envoy, and our own beside it. They carry the build tag e2e.
package gateway
