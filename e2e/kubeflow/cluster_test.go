//go:build e2e

package kubeflow

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/deploy"
	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/apikey"
	"postern.dev/postern/internal/lab"
	"postern.dev/postern/internal/lab/serving"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// pods is not the range of any other test: Envoys share a port that both listen on.
var pods = netip.MustParsePrefix("127.70.0.0/16")

// options say what is different in a cluster.
type options struct {
	without bool   // Postern
	more    string // objects, which take the place of those of their name
	unread  string // objects that posternd meets and Istio's translator does not read
	istio   string // the line that translates; default: the release's own
	config  func(string) string
	serve   map[string]http.Handler    // by workload "namespace/name", in the backend's place
	env     []string                   // of posternd
	judge   authv3.AuthorizationServer // in posternd's place
}

// cluster is a release of Kubeflow that runs.
type cluster struct {
	t        *testing.T
	release  string
	lab      *lab.System
	world    *world.World
	dir      string            // posternd's manifests
	config   string            // posternd's file
	keys     map[string]string // API keys by "namespace/name"
	daemons  []*process        // posternd's
	login    *process          // oauth2-proxy
	secret   string            // of the login's client at Dex
	backends *backends
	ends     []func()
}

// atEnd has something done when the cluster stops, last first.
func (c *cluster) atEnd(f func()) { c.ends = append(c.ends, f) }

// stop ends a cluster before the test's end: another needs its addresses.
func (c *cluster) stop() {
	for len(c.ends) > 0 {
		last := c.ends[len(c.ends)-1]
		c.ends = c.ends[:len(c.ends)-1]
		last()
	}
}

// releases are all five, or those of POSTERN_RELEASES.
func releases() []string {
	if only := os.Getenv("POSTERN_RELEASES"); only != "" {
		return strings.Split(only, ",")
	}
	var out []string
	for _, l := range deploy.Layouts() {
		out = append(out, l.Release)
	}
	return out
}

// each runs a test in every release.
func each(t *testing.T, f func(t *testing.T, release string)) {
	for _, r := range releases() {
		t.Run(r, func(t *testing.T) { f(t, r) })
	}
}

// shared tells whether both doors are of one workload, and authservice logs in.
func shared(release string) bool { return strings.HasSuffix(release, "-shared") }

// start runs a release until the test ends.
func start(t *testing.T, release string, o options) *cluster {
	t.Helper()
	c := &cluster{t: t, release: release, keys: map[string]string{}, secret: rand.Text(), backends: &backends{}}
	t.Cleanup(c.stop)
	set := c.objects(o)
	c.dir = t.TempDir()
	write(t, c.dir, "objects.yaml", text(set))
	models, remove, err := lab.BundledModels(story.FS, "models", "gs://kfserving-examples/models")
	if err != nil {
		t.Fatal(err)
	}
	c.atEnd(remove)
	base, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	c.lab, err = lab.Start(t.Context(), lab.Config{
		Load:      func() (*manifest.Set, error) { return manifest.Files([]string{c.dir}, nil) },
		Translate: translate.Options{Version: c.line(o), Dir: filepath.Join(base, "postern"), Progress: os.Stderr},
		Storage:   serving.Storage{Mappings: []serving.Mapping{models}},
		Ports:     map[string]int{"kubeflow/kubeflow-gateway": 0, "knative-serving/knative-local-gateway": 0},
		Envoy:     tool(t, "envoy", "bin", "envoy"), Pods: pods, LoginSecret: c.secret, Elsewhere: elsewhere,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.atEnd(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := c.lab.Close(ctx); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	c.world = c.lab.World()
	c.serve(o)
	if !shared(release) {
		c.startLogin()
	}
	switch {
	case o.judge != nil:
		c.judge(o.judge)
	case !o.without:
		write(t, c.dir, "unread.yaml", o.unread)
		c.configure(o)
		c.startDaemons(o)
	}
	return c
}

// judge answers on posternd's addresses.
func (c *cluster) judge(a authv3.AuthorizationServer) {
	c.t.Helper()
	for _, pod := range c.workload("postern-system", "posternd").Pods {
		l, err := net.Listen("tcp", pod.Addr.String()+":9000")
		if err != nil {
			c.t.Fatal(err)
		}
		s := grpc.NewServer()
		authv3.RegisterAuthorizationServer(s, a)
		go func() { _ = s.Serve(l) }()
		c.atEnd(s.Stop)
	}
}

// line is the Istio that translates: the release's own, by istiod's image. Istio 1.9
// cannot be had; the oldest there is, in which deprecated names match as they did, is
// the nearest.
func (c *cluster) line(o options) string {
	if o.istio == "" && c.release == "v1.4.0-shared" {
		return "1.17"
	}
	return o.istio
}

// objects are the release's with the company's and Postern's.
func (c *cluster) objects(o options) *manifest.Set {
	c.t.Helper()
	release := c.read(filepath.Join("testdata", c.release))
	set := c.read(filepath.Join("testdata", "company"))
	for _, name := range []string{"kserve-test/robot", "team-b/robot"} {
		set = set.With(c.key(name)...)
	}
	set = set.With(slices.Collect(release.All())...)
	if !o.without {
		layout, ok := deploy.Find(c.release)
		if !ok {
			c.t.Fatalf("no layout for %s", c.release)
		}
		var err error
		if set, err = layout.Into(set); err != nil {
			c.t.Fatal(err)
		}
	}
	if o.more == "" {
		return set
	}
	more, err := manifest.Bytes("more.yaml", []byte(o.more))
	if err != nil {
		c.t.Fatal(err)
	}
	return more.With(slices.Collect(set.All())...)
}

func (c *cluster) read(dir string) *manifest.Set {
	c.t.Helper()
	set, err := manifest.Files([]string{dir}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return set
}

// key makes an API key and gives its object.
func (c *cluster) key(name string) []*manifest.Object {
	c.t.Helper()
	ns, n, _ := strings.Cut(name, "/")
	text, spec, err := apikey.New(rand.Reader, ns, n)
	if err != nil {
		c.t.Fatal(err)
	}
	c.keys[name] = text
	set, err := manifest.Bytes("key.yaml", fmt.Appendf(nil, "apiVersion: apikeys.postern.dev/v1alpha1\nkind: ApiKey\nmetadata: {name: %s, namespace: %s}\nspec: {id: %q, hash: %q}\n", n, ns, spec.ID, spec.Hash))
	if err != nil {
		c.t.Fatal(err)
	}
	return slices.Collect(set.All())
}

// text is a set as a file.
func text(set *manifest.Set) string {
	var b strings.Builder
	for o := range set.All() {
		b.WriteString("---\n")
		b.Write(o.JSON)
		b.WriteString("\n")
	}
	return b.String()
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	// Not in place: posternd must not read half of it.
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	return file
}

// elsewhere are the workloads that are processes or the tests' own servers.
func elsewhere(wl *topology.Workload) bool {
	image := wl.Pods[0].Containers[0].Image
	return strings.HasPrefix(image, "example.com/") || strings.Contains(image, "posternd") || strings.Contains(image, "oauth2-proxy") || wl.Name == "mallory"
}

func (c *cluster) pod(name string) *topology.Pod {
	c.t.Helper()
	ns, n, _ := strings.Cut(name, "/")
	p, ok := c.world.Topology.Pod(ns, n)
	if !ok {
		c.t.Fatalf("no pod %s", name)
	}
	return p
}

// workload finds pods by what runs there.
func (c *cluster) workload(namespace, part string) *topology.Workload {
	c.t.Helper()
	for _, wl := range c.world.Topology.Workloads() {
		if wl.Namespace == namespace && strings.Contains(wl.Name, part) && len(wl.Pods) > 0 {
			return wl
		}
	}
	c.t.Fatalf("no workload %s/%s", namespace, part)
	return nil
}

// at is where a name of the cluster leads.
func (c *cluster) at(host string, port uint32) netip.AddrPort {
	c.t.Helper()
	eps, err := c.world.Topology.Reach("default", host, port)
	if err != nil || len(eps) == 0 {
		c.t.Fatalf("%s:%d: %v", host, port, err)
	}
	return eps[0].Addr
}

// gateway is the pod behind a Gateway.
func (c *cluster) gateway(name string) netip.Addr {
	c.t.Helper()
	g := c.world.GatewayAt(name)
	if g == nil {
		c.t.Fatalf("no gateway %s", name)
	}
	return g.Workload.Pods[0].Addr
}

// configMap is a text of the release's.
func (c *cluster) configMap(namespace, prefix, key string) string {
	c.t.Helper()
	for o, cm := range manifest.Of[*corev1.ConfigMap](c.world.Set) {
		if o.Meta.Namespace == namespace && strings.HasPrefix(o.Meta.Name, prefix) && cm.Data[key] != "" {
			return cm.Data[key]
		}
	}
	c.t.Fatalf("no ConfigMap %s/%s with %s", namespace, prefix, key)
	return ""
}

// buffer is written by a process and read by the test.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// decisions are those of every posternd so far.
func (c *cluster) decisions() []map[string]any {
	var out []map[string]any
	for _, p := range c.daemons {
		for line := range strings.Lines(p.stdout.String()) {
			var d map[string]any
			if json.Unmarshal([]byte(line), &d) == nil {
				out = append(out, d)
			}
		}
	}
	return out
}
