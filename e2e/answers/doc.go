// Package answers holds, behind a real Envoy, what Postern answers by itself and
// what it adds to a model's answer.
package answers
