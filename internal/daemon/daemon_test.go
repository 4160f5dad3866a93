package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
)

const (
	modelHost = "sklearn-iris.kserve-test.svc.cluster.local"
	modelPath = "/v1/models/sklearn-iris:predict"
	inside    = 8081
	outside   = 8080
)

// storyDirs are the story's fourth state in folders of their own.
func storyDirs(t *testing.T) []string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, story.FS); err != nil {
		t.Fatal(err)
	}
	return []string{filepath.Join(root, "common"), filepath.Join(root, "4-postern")}
}

// podAddress is where the story's pod is placed.
func podAddress(t *testing.T) string {
	t.Helper()
	set, err := manifest.FS(story.FS, "common", "4-postern")
	if err != nil {
		t.Fatal(err)
	}
	derived, err := kserve.Derive(set)
	if err != nil {
		t.Fatal(err)
	}
	w, err := topology.New(set.With(derived...), topology.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, ok := w.Pod("default", "myapp-pod")
	if !ok {
		t.Fatal("no myapp-pod")
	}
	return p.Addr.String()
}

// output is a buffer that several goroutines write.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// running is a Daemon under test.
type running struct {
	*Daemon
	decisions, said output
	stop            func() error
}

// start runs a Daemon with the story's configuration and some more YAML; change
// does what YAML cannot.
func start(t *testing.T, dirs []string, change func(*Config)) *running {
	t.Helper()
	c, err := ParseConfig("config.yaml", []byte(storyConfig(t)))
	if err != nil {
		t.Fatal(err)
	}
	c.Listen = Listen{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Linger: time.Millisecond, Drain: 5 * time.Second}
	c.Manifests.Dirs = dirs
	if err := c.Manifests.Pods.UnmarshalText([]byte("10.244.0.0/16")); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&c)
	}
	r := &running{}
	if r.Daemon, err = New(c, Options{Decisions: &r.decisions, Say: talk(&r.said), Poll: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *running) get(t *testing.T, path string) (int, string) {
	t.Helper()
	_, web := r.Addrs()
	resp, err := http.Get("http://" + web.String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// eventually waits for what happens within some polls.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 100 {
		if f() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func (r *running) ready(t *testing.T) {
	t.Helper()
	eventually(t, "ready", func() bool { status, _ := r.get(t, "/readyz"); return status == http.StatusOK })
}

func (r *running) dial(t *testing.T, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	checks, _ := r.Addrs()
	return dial(t, checks.String(), creds)
}

func dial(t *testing.T, addr string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func peer(addr string, port uint32) *auth.AttributeContext_Peer {
	return &auth.AttributeContext_Peer{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: addr, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port}}}}}
}

func check(from string, door uint32, host, path string) *auth.CheckRequest {
	return &auth.CheckRequest{Attributes: &auth.AttributeContext{Source: peer(from, 40000), Destination: peer("10.244.0.1", door),
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "POST", Host: host, Path: path, Headers: map[string]string{":method": "POST"}}}}}
}

// ask gives "allow" or the refusal's status and the word of its body.
func ask(t *testing.T, conn *grpc.ClientConn, in *auth.CheckRequest) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := auth.NewAuthorizationClient(conn).Check(ctx, in)
	switch {
	case err != nil:
		return "error: " + err.Error()
	case out.GetOkResponse() != nil && out.GetStatus().GetCode() == 0:
		return "allow"
	}
	word := out.GetDeniedResponse().GetBody()
	if _, rest, ok := strings.Cut(word, `"error":"`); ok {
		word, _, _ = strings.Cut(rest, `"`)
	}
	return fmt.Sprintf("%d %s", out.GetDeniedResponse().GetStatus().GetCode(), word)
}

func expect(t *testing.T, conn *grpc.ClientConn, in *auth.CheckRequest, want string) {
	t.Helper()
	if got := ask(t, conn, in); got != want {
		t.Errorf("%s at %s from %s: got %s, want %s", in.Attributes.Request.Http.Host, in.Attributes.Request.Http.Path, in.Attributes.Source.GetAddress().GetSocketAddress().GetAddress(), got, want)
	}
}

func TestServes(t *testing.T) {
	r := start(t, storyDirs(t), nil)
	r.ready(t)
	conn := r.dial(t, insecure.NewCredentials())
	pod := podAddress(t)
	expect(t, conn, check(pod, inside, modelHost, modelPath), "allow")
	expect(t, conn, check(pod, outside, "sklearn-iris.kserve-test.example.com", modelPath), "401 credential_required")
	expect(t, conn, check("10.9.9.9", inside, modelHost, modelPath), "401 credential_required")
	if got, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: got %v %v", got, err)
	}
	if status, body := r.get(t, "/healthz"); status != 200 || body != "ok\n" {
		t.Errorf("healthz: got %d %q", status, body)
	}
	if status, body := r.get(t, "/jwks.json"); status != 200 || strings.Count(body, `"kid"`) != 1 || strings.Contains(body, `"d":`) {
		t.Errorf("jwks: got %d %s", status, body)
	}
	_, text := r.get(t, "/metrics")
	for _, want := range []string{
		`postern_decisions_total{reason="allowed",territory="model",verdict="allow"} 1`,
		`postern_decisions_total{reason="credential_required",territory="model",verdict="refuse"} 2`,
		`postern_decision_seconds_count 3`, `postern_snapshot_objects{kind="InferenceService"}`, `postern_stale{what="the manifests"} 0`, `postern_cache_total{cache="tokens",result="hit"} 0`, "postern_snapshot_age_seconds 0.", "process_resident_memory_bytes",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	for _, path := range []string{"/", "/debug/pprof/", "/debug/vars"} {
		if status, _ := r.get(t, path); status != http.StatusNotFound {
			t.Errorf("%s: got %d", path, status)
		}
	}
	eventually(t, "three decision lines", func() bool { return strings.Count(r.decisions.String(), `"msg":"decision"`) == 3 })
	if !strings.Contains(r.decisions.String(), `"caller":"postern:pod:default:default"`) {
		t.Errorf("got %s", r.decisions.String())
	}
}

// TestPatience: without the cluster's objects readiness comes after a while, for
// people's sake; models are still refused.
func TestPatience(t *testing.T) {
	dirs := storyDirs(t)
	write(t, filepath.Join(dirs[0], "zz.yaml"), "kind: [")
	r := start(t, dirs, func(c *Config) { c.Listen.Patience = 50 * time.Millisecond })
	eventually(t, "ready for people", func() bool {
		status, body := r.get(t, "/readyz")
		return status == http.StatusOK && strings.HasPrefix(body, "ready for people;")
	})
	conn := r.dial(t, insecure.NewCredentials())
	expect(t, conn, check(podAddress(t), inside, modelHost, modelPath), "503 not_synced")
	if got, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: got %v %v", got, err)
	}
}

// TestNotSynced: with errors in the manifests at the start, models wait and people
// do not.
func TestNotSynced(t *testing.T) {
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/dex/auth")
		w.WriteHeader(http.StatusFound)
	}))
	defer login.Close()
	dirs := storyDirs(t)
	bad := filepath.Join(dirs[0], "zz.yaml")
	write(t, bad, "kind: [")
	r := start(t, dirs, func(c *Config) {
		c.Authorizer.Login.Delegate.URL = login.URL
		c.Authorizer.Kubeflow.Hosts = []string{"kubeflow.example.com"}
	})
	conn := r.dial(t, insecure.NewCredentials())
	eventually(t, "says so", func() bool { return strings.Contains(r.said.String(), "zz.yaml") })
	expect(t, conn, check(podAddress(t), inside, modelHost, modelPath), "503 not_synced")
	expect(t, conn, check("1.2.3.4", outside, "kubeflow.example.com", "/"), "302 ")
	if status, _ := r.get(t, "/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("readyz: got %d", status)
	}
	if got, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || got.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health: got %v %v", got, err)
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	r.ready(t)
	expect(t, conn, check(podAddress(t), inside, modelHost, modelPath), "allow")
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestReload: a change is put in force whole, or not at all and said so.
func TestReload(t *testing.T) {
	dirs := storyDirs(t)
	r := start(t, dirs, nil)
	r.ready(t)
	conn := r.dial(t, insecure.NewCredentials())
	call := check(podAddress(t), inside, modelHost, modelPath)
	access := filepath.Join(dirs[1], "access.yaml")
	good, err := os.ReadFile(access)
	if err != nil {
		t.Fatal(err)
	}
	write(t, access, "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: x, namespace: y}\nroleReff: {}\n")
	eventually(t, "the error is said", func() bool { return strings.Contains(r.said.String(), "access.yaml:4") })
	expect(t, conn, call, "allow")
	if _, text := r.get(t, "/metrics"); !strings.Contains(text, `postern_stale{what="the manifests"} 1`) || !strings.Contains(text, `postern_reads_total{result="error",what="the manifests"} 1`) {
		t.Error("the metrics do not say that what is in force is old")
	}
	if status, _ := r.get(t, "/readyz"); status != http.StatusOK {
		t.Errorf("readyz: got %d: what was read before is in force", status)
	}
	write(t, access, strings.ReplaceAll(string(good), "postern:pods", "postern:pods:elsewhere"))
	eventually(t, "the change is in force", func() bool { return ask(t, conn, call) == "401 credential_required" })
	if !strings.Contains(r.said.String(), "are read again and in force") {
		t.Errorf("got %q", r.said.String())
	}
}

// TestInsecure: a port that anybody reaches takes nobody's word for an address.
func TestInsecure(t *testing.T) {
	r := start(t, storyDirs(t), func(c *Config) { c.InsecurePort, c.Authorizer.Insecure = true, true })
	r.ready(t)
	conn := r.dial(t, insecure.NewCredentials())
	expect(t, conn, check(podAddress(t), inside, modelHost, modelPath), "401 credential_required")
}

// TestInventedAddresses: without a range a pod has only the address it was seen at.
func TestInventedAddresses(t *testing.T) {
	dirs := storyDirs(t)
	r := start(t, dirs, func(c *Config) { c.Manifests.Pods = Manifests{}.Pods })
	r.ready(t)
	conn := r.dial(t, insecure.NewCredentials())
	expect(t, conn, check(podAddress(t), inside, modelHost, modelPath), "401 credential_required")
	write(t, filepath.Join(dirs[0], "zz.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: seen, namespace: default}\nspec: {containers: [{name: c, image: i}]}\nstatus: {podIP: 10.7.7.7, phase: Running}\n")
	eventually(t, "the pod is known", func() bool { return ask(t, conn, check("10.7.7.7", inside, modelHost, modelPath)) == "allow" })
}

// TestPortTaken: an address that cannot be had ends New, and frees the other.
func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := Config{Listen: Listen{GRPC: "127.0.0.1:0", HTTP: l.Addr().String()}, Manifests: Manifests{Dirs: []string{t.TempDir()}}}
	if _, err := New(c, Options{}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
}
