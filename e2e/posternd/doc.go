// Package posternd tests the program posternd as a process of its own behind a
// real Envoy with Istio's configuration of the story.
package posternd
