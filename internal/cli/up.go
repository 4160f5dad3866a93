package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/lab"
	"postern.dev/postern/internal/manifest"
)

// drainTime is how long requests under way may go on after Ctrl-C.
const drainTime = 10 * time.Second

type upFlags struct {
	systemFlags
	files             []string
	listen            string
	istio             istioFlags
	port, localPort   int
	hasPort, hasLocal bool // whether the port was asked for
}

func upCommand(s streams) *cobra.Command {
	f := &upFlags{}
	c := &cobra.Command{
		Use:   "up",
		Short: "Run the whole system in this process: gateway, login, authorizer, models, pods",
		Long: `Up runs a Kubeflow gateway system from Kubernetes manifests, without a cluster or
a container. What the gateway does is the configuration that Istio itself makes
of the manifests. Two doors open on this machine: gateway
kubeflow/kubeflow-gateway and gateway knative-serving/knative-local-gateway.
Whoever connects to them from here is outside, nobody's pod; "postern exec" runs
a command as one of the pods.

Without -f it runs the bundled story with Postern (examples/story: common and
4-postern). Changed manifests are taken up while it runs: whole when they are
good, not at all when they are not. Ctrl-C ends it.`,
		Example: `  postern up
  postern up -f examples/story/common -f examples/story/3-path-exempt
  kubectl kustomize example/ | postern up -f -
  postern up --envoy .tools/envoy/bin/envoy`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f.hasPort, f.hasLocal = c.Flags().Changed("port"), c.Flags().Changed("local-port")
			return f.run(c.Context(), s)
		},
	}
	f.add(c)
	c.Flags().StringArrayVarP(&f.files, "filename", "f", nil, "manifests: a `FILE`, a directory (not deeper), or - for standard input (repeatable)")
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1", "`ADDRESS` the doors listen on")
	c.Flags().IntVar(&f.port, "port", 8080, "port of gateway kubeflow/kubeflow-gateway; taken is an error when given, else the next free one")
	c.Flags().IntVar(&f.localPort, "local-port", 8081, "port of gateway knative-serving/knative-local-gateway; likewise")
	f.istio.add(c)
	return c
}

// load reads the manifests. Standard input is read once.
func (f *upFlags) load(s streams) func() (*manifest.Set, error) {
	if len(f.files) == 0 {
		states := story.States()
		return func() (*manifest.Set, error) { return manifest.FS(story.FS, states[len(states)-1].Dirs...) }
	}
	var stdin []byte
	return func() (*manifest.Set, error) { return manifest.FilesKeeping(f.files, s.in, &stdin) }
}

func (f *upFlags) run(ctx context.Context, s streams) error {
	c, cleanup, err := f.config(s, f.load(s))
	if err != nil {
		return err
	}
	defer cleanup()
	c.Listen = f.listen
	c.Translate.Version, c.Translate.Nearest = f.istio.version, f.istio.nearest
	if c.JWKS, err = f.istio.keys(); err != nil {
		return err
	}
	c.Ports = map[string]int{}
	if f.hasPort {
		c.Ports["kubeflow/kubeflow-gateway"] = f.port
	}
	if f.hasLocal {
		c.Ports["knative-serving/knative-local-gateway"] = f.localPort
	}
	system, err := lab.Start(ctx, c)
	if err != nil {
		if ctx.Err() != nil {
			return exit(0)
		}
		return hintNearest(err)
	}
	if err := system.Announce(); err != nil {
		s.say("postern exec will not find this system: %v", err)
	}
	f.greet(s, system)
	failed := f.attend(ctx, s, system)
	s.say("stopping")
	closing, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := system.Close(closing); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		s.say("%v", err)
	}
	return failed
}

// attend runs until ctx ends, or the system fails.
func (f *upFlags) attend(ctx context.Context, s streams, system *lab.System) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f.wait(ctx, s, system); err != nil {
			s.say("changes of the manifests are not noticed: %v", err)
			<-ctx.Done()
		}
	}()
	var err error
	select {
	case err = <-system.Failed():
		stop()
	case <-ctx.Done():
	}
	<-done
	return err
}

// wait takes up changed manifests until ctx ends.
func (f *upFlags) wait(ctx context.Context, s streams, system *lab.System) error {
	if len(f.files) == 0 {
		<-ctx.Done()
		return nil
	}
	return lab.Watch(ctx, f.files, func() {
		if err := system.Reload(ctx); err != nil {
			for line := range strings.Lines(err.Error()) {
				s.say("%s", strings.TrimRight(line, "\n"))
			}
			s.say("the manifests have errors: the configuration before stays in force")
			return
		}
		s.say("the changed manifests are in force")
		for _, n := range system.Notes() {
			s.say("note: %s", n)
		}
	})
}

func (f *upFlags) greet(s streams, system *lab.System) {
	for _, n := range system.Notes() {
		s.say("note: %s", n)
	}
	doors := system.Doors()
	for _, d := range doors {
		if d.Moved != 0 {
			s.say("port %d is taken: gateway %s is at %s", d.Moved, d.Gateway, d.URL)
		}
	}
	what := "the bundled story with Postern"
	if len(f.files) > 0 {
		what = strings.Join(f.files, ", ")
	}
	by := "Postern's gateway"
	if f.envoy != "" {
		by = "a real Envoy"
	}
	fmt.Fprintf(s.out, "postern up: %s, as Istio %s configures it, in %s\n\n", what, system.Istio(), by)
	for _, d := range doors {
		fmt.Fprintf(s.out, "  %s  gateway %s\n", d.URL, d.Gateway)
	}
	if len(f.files) == 0 {
		fmt.Fprint(s.out, suggestions(doors[0].URL))
	}
	fmt.Fprintf(s.out, "\nready; Ctrl-C stops\n")
}

// suggestions are what to try with the bundled story, as lines to paste.
func suggestions(gateway string) string {
	const path = "/v1/models/sklearn-iris:predict"
	const data = `'{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}'`
	return fmt.Sprintf(`
from a pod, allowed by one RoleBinding:
  %[1]s exec myapp-pod -- curl -s http://sklearn-iris.kserve-test.svc.cluster.local%[2]s -d %[3]s
the same from outside, refused with 401:
  curl -si %[4]s%[2]s -H 'Host: sklearn-iris.kserve-test.example.com' -d %[3]s
the backend team's application, from a pod, by one more RoleBinding:
  %[1]s exec myapp-pod -- curl -s http://orders-api.backend.svc.cluster.local/
people log in as before, user@example.com / 12341234:
  %[4]s
`, self(), path, data, gateway)
}
