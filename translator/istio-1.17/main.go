// Command istio-1.17 translates Kubernetes and Istio objects into Envoy configuration, as istiod 1.17.5 does.
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

// version is the tag of the commit that go.mod pins.
const version = "1.17.5"

var line = contract.Line{Version: version, Translate: translate}
