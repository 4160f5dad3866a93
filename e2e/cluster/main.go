// Command cluster brings up a real Kubernetes with Istio, Knative and KServe on one machine, without containers,
// in namespaces of its own, and takes it down again without a trace. See README.md.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"postern.dev/postern/e2e/cluster/kubelet"
)

func main() { os.Exit(run(os.Args[1:])) }

const usage = `usage: cluster up [--layout NAME [--corpus DIR]] [--state DIR] [--root CHECKOUT] [--api ADDRESS] [--gateway ADDRESS] [--net-istio PROGRAM]
                                      start it, and stop it at Ctrl-C
       cluster stop [--state DIR]     stop the one that runs

Layouts: story (the document's, the default), and the gateways of Kubeflow's releases, whose objects are in the corpus:
v1.4.0-shared, v1.8.1-shared, v1.8.1, v1.9.1, v1.10.2, 26.03.

PROGRAM is Knative's own net-istio controller, where you have one built: it is started with KUBECONFIG and SYSTEM_NAMESPACE
in its environment, in place of the stand-in.

up prints what it does; the kubeconfig is DIR/kubeconfig, programs' and containers' logs are in DIR/logs.
`

// run is the exit code: 0, 1 when it failed, 2 when it was asked for nothing it knows.
func run(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	state := flags.String("state", filepath.Join(os.TempDir(), "postern-cluster"), "where its files are while it runs")
	root := flags.String("root", ".", "the checkout of Postern")
	name := flags.String("layout", storyLayout, "how the gateways are set up")
	corpus := flags.String("corpus", "", "where the releases' objects are, in a folder each (default: e2e/kubeflow/testdata of the checkout)")
	api := flags.String("api", doors["api"], "where the API server is reached")
	gateway := flags.String("gateway", doors["gateway"], "where the gateway is reached")
	netIstioProgram := flags.String("net-istio", "", "net-istio's controller, in place of the stand-in")
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	doors["api"], doors["gateway"] = *api, *gateway
	if *netIstioProgram != "" {
		program, err := exec.LookPath(*netIstioProgram)
		if err == nil {
			*netIstioProgram, err = filepath.Abs(program)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "cluster: --net-istio: %v\n", err)
			return 2
		}
	}
	if *corpus == "" {
		*corpus = filepath.Join(*root, "e2e/kubeflow/testdata")
	}
	layout, err := findLayout(*name, *corpus)
	if err != nil {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		return 2
	}
	switch args[0] {
	case "up":
		err = up(*state, *root, "--layout", *name, "--corpus", *corpus, "--net-istio", *netIstioProgram)
	case "stop":
		err = stop(*state)
	case "inside": // what follows is called by the program itself
		err = inside(*state, *root, *corpus, *netIstioProgram, layout)
	case "pause":
		err = kubelet.Pause()
	case "container":
		err = kubelet.Shim(flags.Arg(0))
	case "coredns":
		err = dns(flags.Arg(0))
	case "net-istio":
		err = netIstio()
	case "echo":
		err = echo(flags.Args())
	default:
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	if errors.Is(err, errFailed) {
		return 1
	}
	if err != nil && !errors.Is(err, errStopped) {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		return 1
	}
	return 0
}
