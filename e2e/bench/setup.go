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
)

// pods are added to the story's manifests.
const pods = `apiVersion: v1
kind: Pod
metadata: {name: bench-caller, namespace: default}
spec: {containers: [{name: c, image: bench}]}
status: {podIP: ` + podAddress + `, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: bench-gateway, namespace: istio-system, labels: {istio: ingressgateway}}
spec: {containers: [{name: c, image: bench}]}
status: {podIP: ` + gatewayAddress + `, phase: Running}
`

// bench is everything that runs.
type bench struct {
	settings settings
	dir      string
	upstream *http.Server
	envoy    *process
	started  []*process
	variants []*variant
}

// variant is one way of asking.
type variant struct {
	Name     string
	Windows  []window
	from     string   // the address it calls from
	port     int      // its listener of Envoy
	asks     *process // nil: nobody
	passport bool     // carries one, as the gateway's second hop does
}

func setUp(ctx context.Context, s settings) (*bench, error) {
	b := &bench{settings: s}
	var err error
	if b.dir, err = os.MkdirTemp("", "postern-bench-"); err != nil {
		return b, err
	}
	ports, err := freePorts(7)
	if err != nil {
		return b, err
	}
	doors := ports[:5]
	noop, err := b.start("noop", nil, mustSelf(), noopCommand)
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
	b.variants = []*variant{
		{Name: "no authorizer", from: podAddress},
		{Name: "no-op, grpc-go", from: podAddress, asks: noop},
		{Name: "posternd, pod address", from: podAddress, asks: loud},
		{Name: "posternd, passport seen before", from: gatewayAddress, asks: loud, passport: true},
		{Name: "posternd, pod address, log off", from: podAddress, asks: silent},
	}
	for i, v := range b.variants {
		v.port = doors[i]
	}
	if err := b.serveUpstream(ports[5]); err != nil {
		return b, err
	}
	return b, b.startEnvoy(ctx, ports[5], ports[6])
}

// posternd starts the program with the story's manifests and the bench's pods.
func (b *bench) posternd(ctx context.Context, name, level string, doors []int) (*process, error) {
	manifests := filepath.Join(b.dir, name)
	if err := os.CopyFS(manifests, story.FS); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(manifests, "common", "bench.yaml"), []byte(pods), 0o600); err != nil {
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
	file := filepath.Join(b.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		return nil, err
	}
	decisions, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer decisions.Close() // the process has its own
	p, err := b.start(name, decisions, b.settings.posternd, "--config", file)
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
	if b.envoy, err = b.start("envoy", nil, b.settings.envoy, "-c", file, "--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id", "--disable-hot-restart"); err != nil {
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
