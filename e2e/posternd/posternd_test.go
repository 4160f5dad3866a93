//go:build e2e

package posternd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/lab/realenvoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// podRange is this process's own, so that tests may run beside each other and
// beside `postern up --envoy`.
var podRange = fmt.Sprintf("127.%d.0.0/16", 129+os.Getpid()%61)

// system is the story's fourth state: a real Envoy, posternd as a process, and one
// server that stands for every backend.
type system struct {
	world    *world.World
	gateway  netip.Addr
	backends *httptest.Server
	login    *httptest.Server
	program  string
	config   string
	port     int // of posternd
}

// TestKilledAndBack: with posternd killed the whole gateway answers 503, and with
// posternd back all is as before, with nobody touching the gateway.
func TestKilledAndBack(t *testing.T) {
	s := newSystem(t)
	p := s.posternd(t)
	p.until(t, "the manifests are read and in force")
	s.envoy(t)
	pod := s.podAddress(t, "default", "myapp-pod")
	calls := []struct{ name, from, host, path, want string }{
		{"a pod calls the model", pod, "sklearn-iris.kserve-test.svc.cluster.local", "/v1/models/sklearn-iris:predict", "200 postern:pod:default:default"},
		{"a pod calls the backend team", pod, "orders-api.backend.svc.cluster.local", "/", "200 postern:pod:default:default"},
		{"outside calls the model", "", "sklearn-iris.kserve-test.example.com", "/v1/models/sklearn-iris:predict", "401 "},
		{"a browser at the dashboard", "", "kubeflow.example.com", "/", "302 "},
	}
	ask := func(after string, want func(string) string) {
		t.Helper()
		for _, c := range calls {
			var got string
			for range 50 { // Envoy's connection to posternd comes back with backoff
				if got = s.call(t, c.from, c.host, c.path); got == want(c.want) {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if got != want(c.want) {
				t.Errorf("%s, %s: got %s, want %s", after, c.name, got, want(c.want))
			}
		}
	}
	same := func(want string) string { return want }
	ask("at first", same)
	p.kill(t)
	ask("posternd killed", func(string) string { return "503 " })
	p = s.posternd(t)
	p.until(t, "the manifests are read and in force")
	ask("posternd back", same)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-p.ended; err != nil {
		t.Errorf("SIGTERM: %v: %s", err, p.said.String())
	}
	ask("posternd stopped", func(string) string { return "503 " })
}

func newSystem(t *testing.T) *system {
	t.Helper()
	set, err := manifest.FS(story.FS, "common", "4-postern")
	if err != nil {
		t.Fatal(err)
	}
	translated, err := fs.Sub(story.FS, "translated")
	if err != nil {
		t.Fatal(err)
	}
	s := &system{}
	if s.world, err = world.Build(context.Background(), set, world.Options{Pods: netip.MustParsePrefix(podRange), Translate: translate.Options{Bundled: translated}}); err != nil {
		t.Fatal(err)
	}
	s.backends = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Caller", r.Header.Get("X-Postern-Caller"))
	}))
	s.backends.Config.Protocols = new(http.Protocols)
	s.backends.Config.Protocols.SetHTTP1(true)
	s.backends.Config.Protocols.SetUnencryptedHTTP2(true)
	s.backends.Start()
	t.Cleanup(s.backends.Close)
	s.login = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/dex/auth")
		w.WriteHeader(http.StatusFound)
	}))
	t.Cleanup(s.login.Close)
	s.build(t)
	s.configure(t)
	return s
}

func (s *system) build(t *testing.T) {
	t.Helper()
	s.program = filepath.Join(t.TempDir(), "posternd")
	cmd := exec.Command("go", "build", "-o", s.program, "postern.dev/postern/cmd/posternd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// configure writes posternd's file: the story's ConfigMap, with another login and
// the manifests' place.
func (s *system) configure(t *testing.T) {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, story.FS); err != nil {
		t.Fatal(err)
	}
	data, err := fs.ReadFile(story.FS, "4-postern/posternd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "config.yaml: |\n")
	var b strings.Builder
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "    ") {
			break
		}
		b.WriteString(strings.Replace(line[4:], "http://authservice.istio-system.svc.cluster.local:8080", s.login.URL, 1))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	fmt.Fprintf(&b, "listen: {grpc: '127.0.0.1:%d', http: '127.0.0.1:0', linger: 1ms}\nmanifests: {pods: %s, dirs: [%q, %q]}\n",
		s.port, podRange, filepath.Join(root, "common"), filepath.Join(root, "4-postern"))
	s.config = filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(s.config, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// envoy runs the gateway: what leads to posternd leads to the process, what leads
// to the gateway itself stays (the second hop), all else leads to the one server.
func (s *system) envoy(t *testing.T) {
	t.Helper()
	program, err := filepath.Abs("../../.tools/envoy/bin/envoy")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v (run make tools)", err)
	}
	g := s.world.Gateways[0]
	s.gateway = g.Workload.Pods[0].Addr
	backends := netip.MustParseAddrPort(s.backends.Listener.Addr().String())
	e, err := realenvoy.Start(context.Background(), realenvoy.Config{Program: program, Address: s.gateway, Endpoints: func(cluster string) []netip.AddrPort {
		if strings.Contains(cluster, "posternd.postern-system") {
			return []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(s.port))}
		}
		eps, err := s.world.Topology.Cluster(cluster)
		if err != nil || len(eps) == 0 {
			return nil
		}
		if eps[0].Addr.Addr() == s.gateway {
			return []netip.AddrPort{eps[0].Addr}
		}
		return []netip.AddrPort{backends}
	}}, g.Resources)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (s *system) podAddress(t *testing.T, namespace, name string) string {
	t.Helper()
	p, ok := s.world.Topology.Pod(namespace, name)
	if !ok {
		t.Fatalf("no pod %s", name)
	}
	return p.Addr.String()
}

// call gives status and caller. A pod calls at the door in the cluster, as the name
// leads it there; nobody's address at the other.
func (s *system) call(t *testing.T, from, host, path string) string {
	t.Helper()
	port, dialer := 8080, net.Dialer{Timeout: 5 * time.Second}
	if from != "" {
		port, dialer.LocalAddr = 8081, &net.TCPAddr{IP: net.ParseIP(from)}
	}
	client := &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext}}
	req, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://%s:%d%s", s.gateway, port, path), strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("X-Caller"))
}

// process is posternd.
type process struct {
	cmd   *exec.Cmd
	said  *said
	ended chan error
}

type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *system) posternd(t *testing.T) *process {
	t.Helper()
	p := &process{said: &said{}, ended: make(chan error, 1), cmd: exec.Command(s.program, "--config", s.config)}
	p.cmd.Stderr = p.said
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

func (p *process) until(t *testing.T, text string) {
	t.Helper()
	for range 200 {
		if strings.Contains(p.said.String(), text) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("never says %q: %s", text, p.said.String())
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.ended
}
