package main

import (
	"os"

	// CoreDNS with the plugins that the cluster needs. As released it links fifty, cloud providers' among them,
	// and takes minutes more to build.
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

// dns is the real CoreDNS, as a program of its own.
func dns(corefile string) error {
	os.Args = []string{"coredns", "-conf", corefile}
	coremain.Run()
	return nil
}
