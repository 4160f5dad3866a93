package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
)

const (
	// podRange is where the story's pods live: addresses of this machine.
	podRange  = "127.67.0.0/16"
	modelHost = "sklearn-iris.kserve-test.svc.cluster.local"
	modelPath = "/v1/models/sklearn-iris:predict"
	pageHost  = "kubeflow.bench.test"
)

// bench is everything that runs.
type bench struct {
	settings    settings
	dir         string
	servers     []*http.Server
	envoy       *process
	started     []*process
	variants    []*variant
	credentials credentials
	login       string // its URL
	small       callers
	many        callers // with the further objects
}

// callers are addresses: of a pod of the story's namespace default, and of one of the
// gateways' pods, the second hop.
type callers struct{ pod, gateway string }

func setUp(ctx context.Context, s settings) (*bench, error) {
	b := &bench{settings: s}
	var err error
	if b.dir, err = os.MkdirTemp("", "postern-bench-"); err != nil {
		return b, err
	}
	if b.credentials, err = newCredentials(manyTokens); err != nil {
		return b, err
	}
	if err := b.serveLogin(); err != nil {
		return b, err
	}
	if err := b.manifests(); err != nil {
		return b, err
	}
	ports, err := freePorts(variantCount + 2)
	if err != nil {
		return b, err
	}
	if err := b.list(ctx, ports[2:]); err != nil {
		return b, err
	}
	if err := b.serveUpstream(ports[0]); err != nil {
		return b, err
	}
	return b, b.startEnvoy(ctx, ports[0], ports[1])
}

// manifests writes the story's manifests with the bench's objects, and looks where
// the pods are that posternd will place there.
func (b *bench) manifests() error {
	root := filepath.Join(b.dir, "manifests")
	if err := os.CopyFS(root, story.FS); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "common", "bench.yaml"), []byte(objects+b.credentials.keyObject), 0o600); err != nil {
		return err
	}
	if err := b.more(); err != nil {
		return err
	}
	var err error
	if b.small, err = place(b.dirs(false)); err != nil || !b.settings.large() {
		return err
	}
	b.many, err = place(b.dirs(true))
	return err
}

// dirs are the folders that posternd reads.
func (b *bench) dirs(large bool) (out []string) {
	for _, d := range []string{"common", "4-postern", moreDir} {
		if d != moreDir || large {
			out = append(out, filepath.Join(b.dir, "manifests", d))
		}
	}
	return out
}

func place(dirs []string) (callers, error) {
	set, err := manifest.Files(dirs, nil)
	if err != nil {
		return callers{}, err
	}
	derived, err := kserve.Derive(set)
	if err != nil {
		return callers{}, err
	}
	world, err := topology.New(set.With(derived...), topology.Options{Pods: netip.MustParsePrefix(podRange)})
	if err != nil {
		return callers{}, err
	}
	pod, ok := world.Pod("default", "bench-caller")
	gateway, ok2 := world.Pod("istio-system", "bench-gateway")
	if !ok || !ok2 {
		return callers{}, errors.New("the bench's pods have no place")
	}
	return callers{pod.Addr.String(), gateway.Addr.String()}, nil
}

// posternd starts the program with manifests' folders.
func (b *bench) posternd(ctx context.Context, name, level string, dirs []string, doors []int, env ...string) (*process, error) {
	if b.settings.posternd == "" {
		b.settings.posternd = filepath.Join(b.dir, "posternd-program")
		cmd := exec.CommandContext(ctx, "go", "build", "-o", b.settings.posternd, "postern.dev/postern/cmd/posternd")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building posternd: %w: %s", err, out)
		}
	}
	key := filepath.Join(b.dir, "passport.pem")
	if err := os.WriteFile(key, b.credentials.passportKey, 0o600); err != nil {
		return nil, err
	}
	var config strings.Builder
	fmt.Fprintf(&config, "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0', linger: 1ms}\nlogLevel: %s\nrouting: derived\npassport: {keyFiles: [%q]}\nmanifests: {pods: %s, dirs: [%s]}\nlogin: {delegate: {url: %q}}\ndoors:\n",
		level, key, podRange, strings.Join(dirs, ", "), b.login)
	for _, d := range doors {
		fmt.Fprintf(&config, "- {gateway: knative-serving/knative-local-gateway, port: %d, inCluster: true}\n", d)
	}
	fmt.Fprintf(&config, "tokens: {issuers: [{issuer: %q, audiences: [postern], jwks: '%s'}]}\n", issuer, b.credentials.jwks)
	file := filepath.Join(b.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		return nil, err
	}
	decisions, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer decisions.Close() // the process has its own
	p, err := b.start(name, decisions, env, b.settings.posternd, "--config", file)
	if err != nil {
		return nil, err
	}
	return p, p.until(ctx, "the manifests are read and in force")
}

// serveUpstream is the backend: it answers as a model does.
func (b *bench) serveUpstream(port int) error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	b.serve(l, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"predictions":[1,1]}`)) // Envoy went away: the run ends
	})
	return nil
}

func (b *bench) startEnvoy(ctx context.Context, upstream, admin int) error {
	data, err := json.Marshal(bootstrap(b.variants, upstream, admin))
	if err != nil {
		return err
	}
	file := filepath.Join(b.dir, "envoy.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return err
	}
	if b.envoy, err = b.start("envoy", nil, nil, b.settings.envoy, "-c", file, "--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id", "--disable-hot-restart"); err != nil {
		return fmt.Errorf("%w (make tools installs Envoy)", err)
	}
	for range 200 {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ready", admin))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("envoy is not ready: %s", b.envoy.said.String())
}

func (b *bench) close() error {
	var errs []error
	for _, p := range b.started {
		errs = append(errs, p.stop())
	}
	for _, s := range b.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

// freePorts are ports that nobody listens on now.
func freePorts(n int) ([]int, error) {
	var out []int
	var held []net.Listener
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		held = append(held, l)
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}
