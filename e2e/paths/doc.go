// Package paths records what a real Envoy makes of request targets, in the table
// that internal/envoy's own tests compare the engine with, and compares texts beyond
// ASCII, which the requests of package conformance do not carry.
package paths
