// Command istio-1.31 translates Kubernetes and Istio objects into Envoy configuration, as a development version of istiod 1.31 does.
// See translator/README.md.
package main

import (
	"os"

	"postern.dev/postern/translator/contract"
)

func main() {
	stdout := os.Stdout
	os.Stdout = os.Stderr // whatever Istio prints must not get between the lines of the answer
	os.Exit(line.Main(os.Args[1:], os.Stdin, stdout, os.Stderr))
}

// version is how Istio names its own builds between releases; the commit is the one go.mod pins.
const version = "1.31-alpha.eed52ebb66ad"

var line = contract.Line{Version: version, Translate: translate}
