//go:build e2e

package live

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern.dev/postern/internal/apikey"
	"postern.dev/postern/internal/cli"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

const (
	modelIn  = "sklearn-iris.kserve-test.svc.cluster.local"
	modelOut = "sklearn-iris.kserve-test.example.com"
)

// newKey creates an ApiKey and a binding by which it may call the models of
// kserve-test, and gives the key's text.
func (p *place) newKey(t *testing.T, name string) string {
	t.Helper()
	text, spec, err := apikey.New(rand.Reader, "kserve-test", name)
	if err != nil {
		t.Fatal(err)
	}
	p.apply(t, `apiVersion: apikeys.postern.dev/v1alpha1
kind: ApiKey
metadata: {name: `+name+`, namespace: kserve-test}
spec: {id: `+spec.ID+`, hash: `+spec.Hash+`, owner: ada@example.com}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: `+name+`, namespace: kserve-test}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-model-caller}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "postern:key:kserve-test:`+name+`"}]
`)
	return text
}

// TestLive goes through a cluster's life with two posternd. Its steps build on each
// other: a control plane takes its time to start.
func TestLive(t *testing.T) {
	program := buildPosternd(t)
	p := newPlace(t)
	kubeconfig := p.kubeconfig(t, p.token(t, "postern-system", "posternd"))
	began := time.Now()
	one := p.posternd(t, program, "--kubeconfig", kubeconfig)
	one.ready(t)
	t.Logf("from start to ready: %s", time.Since(began).Round(time.Millisecond))
	two := p.posternd(t, program, "--kubeconfig", kubeconfig)
	two.ready(t)
	both := []*posternd{one, two}
	pod := call{from: p.addr(t, "default", "myapp-pod"), door: 8081, host: modelIn}

	t.Run("as with manifests", func(t *testing.T) { asManifests(t, p, program, both) })
	t.Run("revocation", func(t *testing.T) { revocation(t, p, both, pod) })
	t.Run("pods come and go", func(t *testing.T) { podsMove(t, p, both) })
	t.Run("a model is updated", func(t *testing.T) { updated(t, p, both, pod) })
	t.Run("postern key", func(t *testing.T) { postern(t, p, both) })
	t.Run("bad objects", func(t *testing.T) { badObjects(t, p, both, pod) })
	t.Run("least privilege", func(t *testing.T) { leastPrivilege(t, p) })
	t.Run("a connection that is dead without a word", func(t *testing.T) { silent(t, p, program, pod) })
	t.Run("API server stopped", func(t *testing.T) {
		away(t, p, both, pod, "stopped", func() { p.api.signal(syscall.SIGSTOP) }, func() { p.api.signal(syscall.SIGCONT) })
	})
	t.Run("API server killed", func(t *testing.T) {
		away(t, p, both, pod, "killed", p.api.kill, p.start)
	})
	t.Run("etcd stopped", func(t *testing.T) {
		away(t, p, both, pod, "stopped", func() { p.etcd.signal(syscall.SIGSTOP) }, func() { p.etcd.signal(syscall.SIGCONT) })
	})
}

// asManifests: the live objects and the manifests they were made of give the same
// answers, on both replicas.
func asManifests(t *testing.T, p *place, program string, both []*posternd) {
	want := p.posternd(t, program, "--manifests", p.dirs[0], "--manifests", p.dirs[1])
	want.ready(t)
	allowed := 0
	for _, c := range p.questions() {
		expected := want.ask(t, c)
		if expected == "allow" {
			allowed++
		}
		for _, d := range both {
			d.expect(t, c, expected)
		}
	}
	if allowed == 0 {
		t.Error("nothing is allowed: the comparison says nothing")
	}
	t.Logf("%d questions, %d of them allowed", len(p.questions()), allowed)
}

// revocation: a key that is deleted and a binding that is deleted end within five
// seconds on every replica. The bound itself is not asserted, for loaded machines: it is
// printed.
func revocation(t *testing.T, p *place, both []*posternd, pod call) {
	slowest := map[string]time.Duration{}
	note := func(what string, took time.Duration) { slowest[what] = max(slowest[what], took) }
	for range 5 {
		key := call{from: "203.0.113.7", door: 8080, host: modelOut, key: p.newKey(t, "robot")}
		for _, d := range both {
			note("a key created", d.until(t, key, "allow"))
		}
		p.remove(t, "apikeys.postern.dev/v1alpha1", "ApiKey", "kserve-test", "robot")
		for _, d := range both {
			note("a key deleted", d.until(t, key, "401 key_unknown"))
		}
		key.key = p.newKey(t, "robot")
		for _, d := range both {
			d.until(t, key, "allow")
		}
		p.change(t, "apikeys.postern.dev/v1alpha1", "ApiKey", "kserve-test", "robot", `{"spec":{"disabled":true}}`)
		for _, d := range both {
			note("a key disabled", d.until(t, key, "401 key_revoked"))
		}
		p.change(t, "apikeys.postern.dev/v1alpha1", "ApiKey", "kserve-test", "robot", `{"spec":{"disabled":false}}`)
		for _, d := range both {
			d.until(t, key, "allow")
		}
		p.remove(t, "rbac.authorization.k8s.io/v1", "RoleBinding", "kserve-test", "robot")
		for _, d := range both {
			note("a binding deleted", d.until(t, key, "403 not_allowed"))
		}
		p.remove(t, "apikeys.postern.dev/v1alpha1", "ApiKey", "kserve-test", "robot")
		for _, d := range both {
			d.expect(t, pod, "allow")
		}
	}
	for what, took := range slowest {
		t.Logf("%s: in force on both after %s at the slowest of 5", what, took.Round(time.Millisecond))
	}
}

// podsMove: an address is whose the pods say it is.
func podsMove(t *testing.T, p *place, both []*posternd) {
	at := call{from: "10.244.200.1", door: 8081, host: modelIn}
	p.pod(t, "default", "new", "default", at.from, nil)
	for _, d := range both {
		d.until(t, at, "allow")
	}
	p.pod(t, "default", "twin", "default", at.from, nil)
	for _, d := range both {
		d.until(t, at, "401 credential_required")
	}
	p.remove(t, "v1", "Pod", "default", "twin")
	for _, d := range both {
		d.until(t, at, "allow")
	}
	p.remove(t, "v1", "Pod", "default", "new")
	for _, d := range both {
		d.until(t, at, "401 credential_required")
	}
}

// updated: a model's second revision is the model too, and a route of its owner's that
// leads elsewhere is not.
func updated(t *testing.T, p *place, both []*posternd, pod call) {
	second := call{from: pod.from, door: 8081, host: "sklearn-iris-predictor.kserve-test.svc.cluster.local"}
	name := "sklearn-iris-predictor-ingress"
	o, ok := p.set.Get("networking.istio.io", "VirtualService", "kserve-test", name)
	if !ok {
		t.Fatal("no VirtualService of the predictor's")
	}
	first := string(o.JSON)
	was := make([]string, len(both))
	for i, d := range both {
		if was[i] = d.ask(t, second); was[i] != "allow" {
			t.Fatalf("before: got %s", was[i])
		}
	}
	p.apply(t, strings.ReplaceAll(first, "predictor-00001", "predictor-00002"))
	p.apply(t, strings.ReplaceAll(strings.ReplaceAll(first, "predictor-00001", "elsewhere-00002"), name, "other"))
	for _, d := range both {
		// The other one claims the same hosts, so they are nobody's for certain.
		d.until(t, second, "403 ambiguous_route")
	}
	p.remove(t, "networking.istio.io/v1beta1", "VirtualService", "kserve-test", "other")
	for _, d := range both {
		d.until(t, second, "allow")
		d.expect(t, pod, "allow")
	}
}

// postern: a key made, listed and revoked by the command line.
func postern(t *testing.T, p *place, both []*posternd) {
	admin := p.kubeconfig(t, adminToken)
	run := func(status int, args ...string) string {
		t.Helper()
		var out, talk strings.Builder
		if got := cli.Main(append(args, "--kubeconfig", admin, "-n", "kserve-test"), strings.NewReader(""), &out, &talk); got != status {
			t.Fatalf("%v: got %d %s%s", args, got, out.String(), talk.String())
		}
		return out.String()
	}
	key := call{from: "203.0.113.7", door: 8080, host: modelOut, key: strings.TrimSpace(run(0, "key", "create", "cli", "--owner", "ada", "--expires", "1h"))}
	for _, d := range both {
		d.until(t, key, "403 not_allowed")
	}
	run(2, "key", "create", "cli") // there is one
	if list := run(0, "key", "list"); !strings.Contains(list, "cli") || !strings.Contains(list, "valid") || strings.Contains(list, key.key) {
		t.Errorf("got %s", list)
	}
	run(0, "key", "revoke", "cli")
	run(1, "key", "revoke", "cli")
	for _, d := range both {
		d.until(t, key, "401 key_unknown")
	}
}

// badObjects: what one tenant writes keeps nothing from the others.
func badObjects(t *testing.T, p *place, both []*posternd, pod call) {
	p.apply(t, `apiVersion: v1
kind: Namespace
metadata: {name: mallory}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: unknown, namespace: mallory}
spec: {predictor: {model: {modelFormat: {name: sklearn}, storageUri: "gs://x"}, noSuchField: 1}}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: wrong, namespace: mallory}
spec: {predictor: "a text"}
---
apiVersion: serving.kserve.io/v1alpha1
kind: InferenceGraph
metadata: {name: wrong, namespace: mallory}
spec: [1, 2]
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: wrong, namespace: mallory}
spec: {hosts: ["mallory.example.com"], gateways: ["kubeflow/kubeflow-gateway"], http: [{match: [{uri: {regex: "["}}], route: [{destination: {host: "x\u0085"}}]}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: dangling, namespace: mallory}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: there-is-none}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:authenticated"}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: inferenceservice-config, namespace: mallory}
data: {ingress: "no JSON"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: mallory}
data: {mesh: "[no mesh"}
`)
	key := call{from: "203.0.113.7", door: 8080, host: modelOut, key: p.newKey(t, "after")}
	for _, d := range both {
		d.until(t, key, "allow")
		d.expect(t, pod, "allow")
		eventually(t, "the bad objects are named", func() bool {
			return strings.Contains(d.said.String(), "InferenceService mallory/") || strings.Contains(d.said.String(), "more like this")
		})
	}
	p.remove(t, "apikeys.postern.dev/v1alpha1", "ApiKey", "kserve-test", "after")
	for _, d := range both {
		d.until(t, key, "401 key_unknown")
	}
}

// leastPrivilege: posternd is refused nothing, and every verb that its ClusterRole
// grants is one it uses.
func leastPrivilege(t *testing.T, p *place) {
	used, refused := p.used(t)
	if len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	var role rbacv1.ClusterRole
	first, _, _ := strings.Cut(file(t, "..", "..", "deploy", "base", "reader.yaml"), "\n---")
	if err := yaml.UnmarshalStrict([]byte(first), &role); err != nil {
		t.Fatal(err)
	}
	var granted []string
	for _, r := range role.Rules {
		for _, g := range r.APIGroups {
			for _, res := range r.Resources {
				for _, v := range r.Verbs {
					if what := v + " " + g + "/" + res; !used[what] {
						t.Errorf("the ClusterRole grants %q, which is never used", what)
					} else {
						granted = append(granted, what)
					}
				}
			}
		}
	}
	for what := range used {
		if !slices.Contains(granted, what) {
			t.Errorf("uses %q, which is not granted by the ClusterRole", what)
		}
	}
	token := p.token(t, "postern-system", "posternd")
	for _, at := range []string{"/api/v1/secrets", "/api/v1/namespaces/kserve-test/secrets", "/api/v1/configmaps", "/api/v1/nodes"} {
		if _, code := p.call(t, http.MethodGet, at, token, nil); code != http.StatusForbidden {
			t.Errorf("%s with posternd's own token: got %d, want 403", at, code)
		}
	}
}

// away: without the API server all goes on but pods, whose addresses are not believed
// for long; with it back, all does.
func away(t *testing.T, p *place, both []*posternd, pod call, how string, stop, back func()) {
	key := call{from: "203.0.113.7", door: 8080, host: modelOut, key: p.newKey(t, "steady")}
	for _, d := range both {
		d.until(t, key, "allow")
		d.until(t, pod, "allow")
	}
	stop()
	began := time.Now()
	for _, d := range both {
		d.until(t, pod, "503 pods_stale")
	}
	t.Logf("pod callers are refused %s after it was %s", time.Since(began).Round(100*time.Millisecond), how)
	for _, d := range both {
		d.expect(t, key, "allow")
		d.expect(t, call{from: "203.0.113.7", door: 8080, host: modelOut}, "401 credential_required")
		if status, _ := d.get(t, "/readyz"); status != http.StatusOK {
			t.Errorf("readyz: got %d: what was known before is in force", status)
		}
		eventually(t, "the metrics say so", func() bool { return d.metric(t, "postern_cluster_connected") == 0 })
		if age := d.metric(t, "postern_pods_age_seconds"); age < 10 {
			t.Errorf("postern_pods_age_seconds: got %f", age)
		}
		if age := d.metric(t, "postern_snapshot_age_seconds"); age < 1 {
			t.Errorf("postern_snapshot_age_seconds: got %f", age)
		}
	}
	back()
	began = time.Now()
	for _, d := range both {
		d.until(t, pod, "allow")
		eventually(t, "the metrics say so", func() bool { return d.metric(t, "postern_cluster_connected") == 1 })
	}
	t.Logf("back after %s", time.Since(began).Round(100*time.Millisecond))
	p.until(t)
	p.remove(t, "apikeys.postern.dev/v1alpha1", "ApiKey", "kserve-test", "steady")
	for _, d := range both {
		d.until(t, key, "401 key_unknown")
	}
}

// silent: a posternd whose connections lead nowhere any more, with nobody saying so,
// makes new ones by itself.
func silent(t *testing.T, p *place, program string, pod call) {
	between := newProxy(t, strings.TrimPrefix(p.url, "https://"))
	kubeconfig := p.kubeconfig(t, p.token(t, "postern-system", "posternd"))
	text := file(t, kubeconfig)
	write(t, kubeconfig, strings.ReplaceAll(text, p.url, "https://"+between.addr))
	d := p.posternd(t, program, "--kubeconfig", kubeconfig)
	d.ready(t)
	key := call{from: "203.0.113.7", door: 8080, host: modelOut, key: p.newKey(t, "silent")}
	d.until(t, key, "allow")
	d.expect(t, pod, "allow")
	between.silence()
	p.remove(t, "apikeys.postern.dev/v1alpha1", "ApiKey", "kserve-test", "silent")
	t.Logf("a key deleted meanwhile: in force after %s", d.until(t, key, "401 key_unknown").Round(100*time.Millisecond))
	d.until(t, pod, "allow")
	eventually(t, "connected again", func() bool { return d.metric(t, "postern_cluster_connected") == 1 })
}

// TestKindsComeLater: a cluster without KServe, Istio or API keys has none of their
// objects, and posternd is ready; when the kinds come, they are watched.
func TestKindsComeLater(t *testing.T) {
	p := newEmptyPlace(t)
	p.apply(t, file(t, "..", "..", "deploy", "base", "reader.yaml"))
	p.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: postern-system}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: posternd, namespace: postern-system}")
	d := p.posternd(t, buildPosternd(t), "--kubeconfig", p.kubeconfig(t, p.token(t, "postern-system", "posternd")))
	pod := call{from: p.addr(t, "default", "myapp-pod"), door: 8081, host: modelIn}
	if got := d.ask(t, pod); got != "503 not_synced" && got != "302" {
		t.Errorf("at first: got %s", got)
	}
	d.ready(t)
	p.fill(t)
	t.Logf("the kinds and their objects: in force after %s", d.until(t, pod, "allow").Round(100*time.Millisecond))
	for _, kind := range []string{"InferenceService", "VirtualService", "ApiKey", "Pod", "ConfigMap istio-system/istio"} {
		if d.metric(t, `postern_cluster_watched{kind="`+kind+`"}`) != 1 {
			t.Errorf("%s is not watched", kind)
		}
	}
	p.remove(t, "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "inferenceservices.serving.kserve.io")
	t.Logf("KServe's kind deleted: its model is none after %s", d.until(t, pod, "302").Round(100*time.Millisecond))
}

// TestForbidden: without a right of its ClusterRole posternd is not ready, and names
// what it lacks.
func TestForbidden(t *testing.T) {
	p := newEmptyPlace(t)
	p.fill(t)
	p.remove(t, "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", "posternd")
	d := p.posternd(t, buildPosternd(t), "--kubeconfig", p.kubeconfig(t, p.token(t, "postern-system", "posternd")))
	eventually(t, "says what it lacks", func() bool {
		return strings.Contains(d.said.String(), `cannot list resource "pods" in API group "" at the cluster scope`)
	})
	if status, _ := d.get(t, "/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("readyz: got %d", status)
	}
	pod := call{from: p.addr(t, "default", "myapp-pod"), door: 8081, host: modelIn}
	d.expect(t, pod, "503 not_synced")
	p.apply(t, file(t, "..", "..", "deploy", "base", "reader.yaml"))
	d.ready(t)
	d.until(t, pod, "allow")
}
