// Command postern runs, explains and changes who may call what behind a
// Kubeflow gateway.
package main

import (
	"os"

	"postern.dev/postern/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
