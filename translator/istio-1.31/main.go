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

var line = contract.Line{Version: version, Translate: translate}
