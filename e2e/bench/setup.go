package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"postern.dev/postern/examples/story"
)

// Addresses of this machine that stand for pods.
const (
	podAddress     = "127.0.0.1" // of a pod of the story's namespace default
	gatewayAddress = "127.0.0.2" // of one of the gateways' pods: the second hop
	modelHost      = "sklearn-iris.kserve-test.svc.cluster.local"
	modelPath      = "/v1/models/sklearn-iris:predict"
	variantCount   = 8
)

// bench is everything that runs.
type bench struct {
	settings settings
	dir      string
	upstream *http.Server
	envoy    *process
	started  []*process
	variants []*variant
	shown    credentials
}

// variant is one way of asking.
type variant struct {
	Name    string
	Windows []window
	from    string   // the address it calls from
	port    int      // its listener of Envoy
	asks    *process // nil: nobody
	shows   shows
}

// shows is what a variant's requests carry.
type shows int

const (
	nothing shows = iota
	passport
	apiKey
	token
)

func setUp(ctx context.Context, s settings) (*bench, error) {
	b := &bench{settings: s}
	var err error
	if b.dir, err = os.MkdirTemp("", "postern-bench-"); err != nil {
		return b, err
	}
	if b.shown, err = newCredentials(); err != nil {
		return b, err
	}
	ports, err := freePorts(variantCount + 2)
	if err != nil {
		return b, err
	}
	doors, backend, admin := ports[2:], ports[0], ports[1]
	noop, err := b.start("noop", nil, nil, mustSelf(), noopCommand)
	if err != nil {
		return b, err
	}
	loud, err := b.posternd(ctx, "posternd", "info", doors)
	if err != nil {
		return b, err
	}
	silent, err := b.posternd(ctx, "posternd-silent", "error", doors)
	if err != nil {
		return b, err
	}
	double, err := b.posternd(ctx, "posternd-double", "info", doors, "GOMAXPROCS=2")
	if err != nil {
		return b, err
	}
	b.variants = []*variant{
		{Name: "no authorizer", from: podAddress},
		{Name: "no-op, grpc-go", from: podAddress, asks: noop},
		{Name: "posternd, pod address", from: podAddress, asks: loud},
		{Name: "posternd, passport seen before", from: gatewayAddress, asks: loud, shows: passport},
		{Name: "posternd, API key", from: podAddress, asks: loud, shows: apiKey},
		{Name: "posternd, RS256 seen before", from: podAddress, asks: loud, shows: token},
		{Name: "posternd, RS256, log off", from: podAddress, asks: silent, shows: token},
		{Name: "posternd, RS256, two threads", from: podAddress, asks: double, shows: token},
	}
	for i, v := range b.variants {
		v.port = doors[i]
	}
	if err := b.serveUpstream(backend); err != nil {
		return b, err
	}
	return b, b.startEnvoy(ctx, backend, admin)
}

// posternd starts the program with the story's manifests and the bench's objects.
func (b *bench) posternd(ctx context.Context, name, level string, doors []int, env ...string) (*process, error) {
	manifests := filepath.Join(b.dir, name)
	if err := os.CopyFS(manifests, story.FS); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(manifests, "common", "bench.yaml"), []byte(objects+b.shown.keyObject), 0o600); err != nil {
		return nil, err
	}
	if b.settings.posternd == "" {
		b.settings.posternd = filepath.Join(b.dir, "posternd-program")
		cmd := exec.CommandContext(ctx, "go", "build", "-o", b.settings.posternd, "postern.dev/postern/cmd/posternd")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building posternd: %w: %s", err, out)
		}
	}
	var config strings.Builder
	fmt.Fprintf(&config, "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0', linger: 1ms}\nlogLevel: %s\nrouting: derived\nmanifests: {dirs: [%q, %q]}\ndoors:\n",
		level, filepath.Join(manifests, "common"), filepath.Join(manifests, "4-postern"))
	for _, d := range doors {
		fmt.Fprintf(&config, "- {gateway: knative-serving/knative-local-gateway, port: %d, inCluster: true}\n", d)
	}
	fmt.Fprintf(&config, "tokens: {issuers: [{issuer: %q, audiences: [postern], jwks: '%s'}]}\n", issuer, b.shown.jwks)
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

// serveUpstream is the backend: it answers as a model does and says which headers
// the request came with.
func (b *bench) serveUpstream(port int) error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	b.upstream = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Passport", r.Header.Get("X-Postern-Passport"))
		_, _ = w.Write([]byte(`{"predictions":[1,1]}`)) // Envoy went away: the run ends
	})}
	go func() { _ = b.upstream.Serve(l) }() // ends with close
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
	if b.upstream != nil {
		errs = append(errs, b.upstream.Close())
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
