package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"strings"
	"syscall"

	"postern.dev/postern/internal/cluster"
)

const usage = `posternd answers Envoy's ext_authz checks for the gateways of a Kubeflow cluster:
models and applications by Kubernetes RBAC, people by the login that is there.

Usage: posternd --config FILE [--in-cluster | --kubeconfig FILE | --manifests DIR...]

  --config FILE      the configuration, YAML, read strictly
  --in-cluster       watch the objects of the cluster whose pod this is
  --kubeconfig FILE  watch those of another cluster, by the file's current context
  --manifests DIR    a directory of the cluster's objects, besides manifests.dirs of
                     the configuration (repeatable); changes are taken up

One JSON line per decision goes to standard output, the talk to standard error.
Checks are answered on one thread, files are read beside it, and memory is traded
for time (GOGC=400, less with a large cluster); GOMAXPROCS and GOGC in the
environment win.
Ends on SIGTERM or SIGINT, with status 0; with 1 when it could not go on, with 2
when the arguments, the configuration or an address are no good.
`

// aside reads files on a thread beside the one that answers checks. One thread is
// what a check costs least with: with more, each of its steps in grpc-go (reading,
// answering, writing) wakes another, a tenth to a third of a check's time
// (BENCHMARKS.md). It is enough for some ten thousand checks a second; GOMAXPROCS
// in the environment wins.
func aside(read func() error) error {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(min(2, runtime.NumCPU())))
	return read()
}

// Memory is traded for time: garbage comes by the request. As much is let lie as
// garbage says, but no more than gcMost percent of what is in use, and no less than
// gcLeast. GOGC in the environment wins.
const (
	garbage = 32 << 20
	gcMost  = 400
	gcLeast = 50
	gcFirst = 100 // until the first snapshot is made
)

// collect sets the garbage collector up, and gives what to call after each new
// snapshot: a large cluster's is large, and reading it leaves much behind, which goes
// back to the operating system.
func collect() func() {
	last := gcFirst
	debug.SetGCPercent(last)
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	first := true
	return func() {
		runtimemetrics.Read(sample)
		live, free, objects := sample[0].Value.Uint64(), sample[1].Value.Uint64(), sample[2].Value.Uint64()
		if first || free+objects > live+2*garbage {
			first = false
			debug.FreeOSMemory()
			runtimemetrics.Read(sample[:1])
			live = sample[0].Value.Uint64()
		}
		if p := gcFor(live); p != last {
			last = p
			debug.SetGCPercent(p)
		}
	}
}

// gcFor is the percentage for so many bytes in use, in steps.
func gcFor(live uint64) int {
	p := int(garbage * 100 / max(live, 1))
	return max(gcLeast, min(gcMost, p/50*50))
}

// dirs is a flag that may be given several times.
type dirs []string

func (d *dirs) String() string     { return strings.Join(*d, ",") }
func (d *dirs) Set(s string) error { *d = append(*d, s); return nil }

// Main runs the program until it is told to end, and returns its exit status.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	say := talk(stderr)
	options := Options{Decisions: stdout, Say: say}
	if os.Getenv("GOGC") == "" {
		options.Swapped = collect()
	}
	if os.Getenv("GOMAXPROCS") == "" {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
		options.Aside = aside
	}
	d, err := fromArgs(args, options)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err != nil:
		say("%v", err)
		return 2
	}
	if err := d.Run(ctx); err != nil {
		say("%v", err)
		return 1
	}
	return 0
}

func fromArgs(args []string, o Options) (*Daemon, error) {
	var file, kubeconfig string
	var inCluster bool
	var more dirs
	flags := flag.NewFlagSet("posternd", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&file, "config", "", "")
	flags.BoolVar(&inCluster, "in-cluster", false, "")
	flags.StringVar(&kubeconfig, "kubeconfig", "", "")
	flags.Var(&more, "manifests", "")
	switch err := flags.Parse(args); {
	case err != nil:
		return nil, err
	case flags.NArg() > 0:
		return nil, fmt.Errorf("got argument %q, want flags only\nhint: see posternd --help", flags.Arg(0))
	case file == "":
		return nil, errors.New("--config is missing\nhint: see posternd --help")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	c, err := ParseConfig(file, data)
	if err != nil {
		return nil, err
	}
	if inCluster && kubeconfig != "" {
		return nil, errors.New("--in-cluster and --kubeconfig: want one of the two")
	}
	if (inCluster || kubeconfig != "") && c.Cluster == nil {
		c.Cluster = &cluster.Settings{}
	}
	if c.Cluster != nil && kubeconfig != "" {
		c.Cluster.Kubeconfig = kubeconfig
	}
	for _, dir := range more {
		if _, err := os.ReadDir(dir); err != nil {
			return nil, fmt.Errorf("--manifests: %w", err)
		}
		c.Manifests.Dirs = append(c.Manifests.Dirs, dir)
	}
	return New(c, o)
}

// talk writes for people: every line with the program's name.
func talk(w io.Writer) func(string, ...any) {
	return func(format string, args ...any) {
		var b strings.Builder
		for line := range strings.Lines(fmt.Sprintf(format, args...)) {
			b.WriteString("posternd: " + strings.TrimRight(line, "\n") + "\n")
		}
		_, _ = io.WriteString(w, b.String()) // in one write: goroutines talk too
	}
}
