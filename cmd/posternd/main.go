// Command posternd answers Envoy's ext_authz checks: who may call which model and
// application behind a Kubeflow gateway.
package main

import (
	"os"

	"postern.dev/postern/internal/daemon"
)

func main() {
	os.Exit(daemon.Main(os.Args[1:], os.Stdout, os.Stderr))
}
