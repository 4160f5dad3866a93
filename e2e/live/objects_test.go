//go:build e2e

package live

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
)

const podRange = "10.244.0.0/16"

// place is the story's fourth state in an API server: its objects, what KServe,
// Knative and net-istio would write for them, and its pods with addresses.
type place struct {
	*control
	set  *manifest.Set // with what was derived
	pods []*topology.Pod
	dirs []string // the story's manifests as files

	login  string // the login that posternd asks
	linger string // how long posternd goes on after SIGTERM
}

func newPlace(t testing.TB) *place {
	t.Helper()
	p := newEmptyPlace(t)
	p.fill(t)
	return p
}

// newEmptyPlace is one with nothing in it yet.
func newEmptyPlace(t testing.TB) *place {
	t.Helper()
	p := &place{control: newControl(t), linger: "1ms"}
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/dex/auth")
		w.WriteHeader(http.StatusFound)
	}))
	t.Cleanup(login.Close)
	p.login = login.URL
	root := t.TempDir()
	if err := os.CopyFS(root, story.FS); err != nil {
		t.Fatal(err)
	}
	p.dirs = []string{filepath.Join(root, "common"), filepath.Join(root, "4-postern")}
	set, err := manifest.FS(story.FS, "common", "4-postern")
	if err != nil {
		t.Fatal(err)
	}
	derived, err := kserve.Derive(set)
	if err != nil {
		t.Fatal(err)
	}
	p.set = set.With(derived...)
	where, err := topology.New(p.set, topology.Options{Pods: netip.MustParsePrefix(podRange)})
	if err != nil {
		t.Fatal(err)
	}
	p.pods = where.Pods()
	return p
}

// fill creates the kinds and the objects.
func (p *place) fill(t testing.TB) {
	t.Helper()
	p.crds(t)
	p.apply(t, file(t, "..", "..", "deploy", "base", "reader.yaml"))
	for o := range p.set.All() {
		if o.Kind == "Namespace" {
			p.json(t, o)
		}
	}
	for o := range p.set.All() {
		if plurals[o.Kind] != "" && o.Kind != "Namespace" && o.Kind != "Pod" {
			p.json(t, o)
		}
	}
	p.apply(t, "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: posternd, namespace: postern-system}")
	for _, pod := range p.pods {
		p.pod(t, pod.Namespace, pod.Name, pod.ServiceAccount, pod.Addr.String(), pod.Labels)
	}
}

func file(t testing.TB, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// json creates an object of a set.
func (p *place) json(t testing.TB, o *manifest.Object) {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(o.JSON, &v); err != nil {
		t.Fatal(err)
	}
	meta := v["metadata"].(map[string]any)
	if o.Meta.Namespace != "" {
		meta["namespace"] = o.Meta.Namespace
	}
	p.put(t, v)
}

func (p *place) pod(t testing.TB, namespace, name, account, addr string, labels map[string]string) {
	t.Helper()
	p.put(t, map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"namespace": namespace, "name": name, "labels": labels},
		"spec":   map[string]any{"serviceAccountName": account, "containers": []any{map[string]any{"name": "c", "image": "i"}}},
		"status": map[string]any{"phase": "Running", "podIP": addr, "podIPs": []any{map[string]any{"ip": addr}}},
	})
}

// crds creates Istio's own kinds, KServe's and ours, and waits until they are served.
func (p *place) crds(t testing.TB) {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "istio.io/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	istio := file(t, strings.TrimSpace(string(out)), "kubernetes", "customresourcedefinitions.gen.yaml")
	for doc := range strings.SplitSeq(istio, "\n---") {
		if strings.Contains(doc, "\n  name: gateways.networking.istio.io\n") || strings.Contains(doc, "\n  name: virtualservices.networking.istio.io\n") {
			p.apply(t, doc)
		}
	}
	p.apply(t, file(t, "testdata", "kserve.yaml"))
	p.apply(t, file(t, "..", "..", "deploy", "base", "apikeys.yaml"))
	for _, at := range []string{"networking.istio.io/v1beta1/virtualservices", "networking.istio.io/v1beta1/gateways", "serving.kserve.io/v1beta1/inferenceservices", "serving.kserve.io/v1alpha1/inferencegraphs", "apikeys.postern.dev/v1alpha1/apikeys"} {
		eventually(t, at+" is served", func() bool {
			_, code := p.call(t, http.MethodGet, "/apis/"+at, adminToken, nil)
			return code == http.StatusOK
		})
	}
}

// questions are each pod at each door for each host of each VirtualService.
func (p *place) questions() []call {
	var out []call
	hosts := map[string]bool{}
	for _, v := range []string{"sklearn-iris.kserve-test.svc.cluster.local", "sklearn-iris.kserve-test.example.com", "sklearn-iris-predictor.kserve-test.svc.cluster.local",
		"sklearn-iris-predictor.kserve-test", "orders-api.backend.svc.cluster.local", "kubeflow.example.com", "nobody.example.com"} {
		hosts[v] = true
	}
	from := []string{"203.0.113.7", "10.99.0.1"}
	for _, pod := range p.pods {
		from = append(from, pod.Addr.String())
	}
	for host := range hosts {
		for _, door := range []uint32{8080, 8081, 8443} {
			for _, f := range from {
				out = append(out, call{from: f, door: door, host: host})
			}
		}
	}
	return out
}

// addr is where a pod of the story is.
func (p *place) addr(t testing.TB, namespace, name string) string {
	t.Helper()
	for _, pod := range p.pods {
		if pod.Namespace == namespace && pod.Name == name {
			return pod.Addr.String()
		}
	}
	t.Fatalf("no pod %s/%s", namespace, name)
	return ""
}

// used is what posternd asked the API server for: "verb group/resource", and the
// statuses it got.
func (p *place) used(t testing.TB) (what map[string]bool, refused []string) {
	t.Helper()
	what = map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader([]byte(file(t, p.audit))))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Verb, RequestURI string
			ObjectRef        *struct{ Resource, APIGroup, Subresource string }
			ResponseStatus   struct{ Code int }
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.ResponseStatus.Code == http.StatusForbidden || e.ResponseStatus.Code == http.StatusUnauthorized {
			refused = append(refused, e.Verb+" "+e.RequestURI)
		}
		if e.ObjectRef != nil {
			what[fmt.Sprintf("%s %s/%s%s", e.Verb, e.ObjectRef.APIGroup, e.ObjectRef.Resource, e.ObjectRef.Subresource)] = true
		}
	}
	return what, refused
}
