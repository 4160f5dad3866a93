// Command bench measures what an authorizer costs behind a real Envoy: the same
// Envoy (one worker), upstream and load with no authorizer, with one that allows
// everything (grpc-go with the generated code, the measure of the rest), with
// posternd, with oauth2-proxy set up as in Kubeflow, and with Envoy's own jwt_authn,
// in turns.
//
//	go run ./e2e/bench            # some minutes; make bench installs what it needs
//	go run ./e2e/bench -o json
//	go run ./e2e/bench -rate 1000 # what is added to a request's time
//	go run ./e2e/bench -models 10000 -keys 100000 -bindings 1000 -only 'pod address|API key|seen before'
//	                              # a large cluster beside a small one
//
// What counts is CPU time of the authorizer's process per check (Linux's scheduler
// counts it in nanoseconds) as a ratio to the no-op's of the same round:
// microseconds change with the machine and its neighbours, ratios little.
// "First time" goes round more credentials than posternd remembers. Everything
// listens on loopback; a run ends after rounds x variants x window.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type settings struct {
	envoy       string
	posternd    string
	oauth2Proxy string
	only        string
	models      int
	keys        int
	bindings    int
	rounds      int
	window      time.Duration
	connections int
	rate        int
	output      string
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == noopCommand {
		serveNoop()
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(2)
	}
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.envoy, "envoy", ".tools/envoy/bin/envoy", "Envoy's `program`")
	f.StringVar(&s.posternd, "posternd", "", "posternd's `program` (default: built from this checkout)")
	f.StringVar(&s.oauth2Proxy, "oauth2-proxy", ".tools/oauth2-proxy", "oauth2-proxy's `program`")
	f.StringVar(&s.only, "only", "", "a regular `expression`: only variants whose name it matches, and the two that they are compared with")
	f.IntVar(&s.models, "models", 0, "further InferenceServices in the manifests, at most 20000")
	f.IntVar(&s.keys, "keys", 0, "further ApiKeys, at most 200000")
	f.IntVar(&s.bindings, "bindings", 0, "further RoleBindings and namespaces, at most 10000")
	f.IntVar(&s.rounds, "rounds", 5, "times that every variant has its turn, at most 50")
	f.DurationVar(&s.window, "window", 2500*time.Millisecond, "length of a turn, at most 30s")
	f.IntVar(&s.connections, "connections", 16, "connections with one request at a time each, at most 256")
	f.IntVar(&s.rate, "rate", 0, "requests per second of all connections together, at most 100000 (default: each as soon as the last is answered)")
	f.StringVar(&s.output, "o", "text", "`format`: text or json")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	switch {
	case f.NArg() > 0:
		return s, fmt.Errorf("got argument %q, want flags only", f.Arg(0))
	case s.rounds < 1 || s.rounds > 50 || s.window < 100*time.Millisecond || s.window > 30*time.Second || s.connections < 1 || s.connections > 256 || s.rate < 0 || s.rate > 100000:
		return s, errors.New("rounds, window, connections or rate out of range (see -help)")
	case s.models < 0 || s.models > 20_000 || s.keys < 0 || s.keys > 200_000 || s.bindings < 0 || s.bindings > 10_000:
		return s, errors.New("models, keys or bindings out of range (see -help)")
	case s.output != "text" && s.output != "json":
		return s, fmt.Errorf("got -o %q, want text or json", s.output)
	}
	return s, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	fmt.Fprintln(stderr, "bench: building posternd, signing tokens, starting Envoy")
	b, err := setUp(ctx, s)
	if err != nil {
		return errors.Join(err, b.close())
	}
	defer func() { _ = b.close() }()
	for round := range s.rounds {
		for i := range b.variants {
			v := b.variants[(i+round)%len(b.variants)] // nobody is always first
			w, err := b.measure(ctx, v)
			if err != nil {
				return fmt.Errorf("%s: %w", v.Name, err)
			}
			v.Windows = append(v.Windows, w)
			fmt.Fprintf(stderr, "bench: round %d of %d: %-42s %6.0f req/s, authorizer %5.1f us/check\n", round+1, s.rounds, v.Name, w.PerSecond, w.Authorizer)
		}
	}
	r := summarize(b.variants)
	if s.output == "json" {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	r.print(stdout)
	return nil
}
