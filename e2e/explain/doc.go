// Package explain holds postern explain against the real parts: a real Envoy's
// config_dump, and Istio's own translators of two lines.
package explain
