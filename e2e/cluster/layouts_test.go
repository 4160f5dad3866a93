//go:build e2e

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"postern.dev/postern/deploy"
)

// TestLayouts brings a cluster up for each layout, one after the other, and holds it there: by this program again, with
// CLUSTER_LAYOUT. A cluster of its own, and not one whose gateways change: whatever a layout leaves behind (istiod's
// pushes, addresses, objects that the next does not name) could make the next one's answers.
// CLUSTER_LAYOUTS names some of them, separated by commas.
func TestLayouts(t *testing.T) {
	if name := os.Getenv("CLUSTER_LAYOUT"); name != "" {
		holdLayout(t, name)
		return
	}
	var wanted []string
	if names := os.Getenv("CLUSTER_LAYOUTS"); names != "" {
		wanted = strings.Split(names, ",")
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(layouts, func(l layout) bool { return l.name == name }) {
			t.Errorf("CLUSTER_LAYOUTS: there is no layout %q", name)
		}
	}
	for _, l := range layouts {
		if wanted != nil && !slices.Contains(wanted, l.name) {
			continue
		}
		t.Run(l.name, func(t *testing.T) {
			test := exec.Command(os.Args[0], "-test.run=^TestLayouts$", "-test.v", "-test.count=1")
			test.Env = append(os.Environ(), "CLUSTER_LAYOUT="+l.name)
			out, err := test.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNoSuchLayout(t *testing.T) {
	if l, err := findLayout("26.03", t.TempDir()); err == nil || !strings.Contains(err.Error(), "layout 26.03: the corpus is absent") {
		t.Errorf("got %v, %v; want it said that the corpus is absent", l, err)
	}
	if l, err := findLayout("v1.7.0", t.TempDir()); err == nil || !strings.Contains(err.Error(), "want one of story, v1.4.0-shared") {
		t.Errorf("got %v, %v; want the names that there are", l, err)
	}
	if l, err := findLayout(storyLayout, t.TempDir()); err != nil || l != nil {
		t.Errorf("got %v, %v; want the story, which needs no corpus", l, err)
	}
}

// upFlags are those for the cluster that TestMain brings up.
func upFlags() []string {
	if name := os.Getenv("CLUSTER_LAYOUT"); name != "" {
		return []string{"--layout", name}
	}
	return nil
}

// onlyLayouts tells that no test wants the story's cluster: each layout brings up its own.
func onlyLayouts() bool {
	flag.Parse()
	run := flag.Lookup("test.run").Value.String()
	return strings.Trim(run, "^$") == "TestLayouts" && os.Getenv("CLUSTER_LAYOUT") == ""
}

// holdLayout is one layout, from Kubeflow's login to Postern.
func holdLayout(t *testing.T, name string) {
	l, err := findLayout(name, filepath.Join(root, "e2e/kubeflow/testdata"))
	if err != nil || l == nil {
		t.Fatalf("%v", err)
	}
	release, ok := deploy.Find(l.folder)
	if !ok {
		t.Fatalf("deploy has nothing for %s", l.folder)
	}
	oauth2Proxy := slices.Contains(release.Dirs, "oauth2-proxy")
	// What explain has to say of nobody at the dashboard, of nobody at a model, and of a pod: what happens.
	browser, outside, pod := said{"redirected", 302}, said{"redirected", 302}, said{"redirected", 302}
	if oauth2Proxy {
		browser, outside = said{"refused", 403}, said{"refused", 403}
	}
	if l.separated() {
		pod = said{"forwarded", 0}
	}
	first := func(t *testing.T) {
		login(t, oauth2Proxy)
		if door := func() answer { return fromPod(t, modelURL, asJSON...) }; l.separated() {
			want(t, "the pod's call, whose gateway nothing guards", 200, `"predictions"`, door)
		} else {
			want(t, "the pod's call", 302, "/dex/auth", door)
		}
	}
	t.Run("login", first)
	t.Run("pushed", func(t *testing.T) {
		compare(t, oauth2Proxy, browser, outside, pod)
	})
	t.Run("derived", TestDerived)
	var back func(t *testing.T)
	t.Run("Postern", func(t *testing.T) { back = postern(t, release.Dirs, oauth2Proxy) })
	t.Run("pushed with Postern", func(t *testing.T) {
		compare(t, oauth2Proxy, browser, said{"refused", 401}, said{"forwarded", 0})
	})
	t.Run("back", func(t *testing.T) {
		back(t)
		first(t)
	})
}

// login is what nobody's call from outside gets: authservice sends everybody to Dex, Kubeflow's oauth2-proxy answers with
// its page, whose button leads there.
func login(t *testing.T, oauth2Proxy bool) {
	t.Helper()
	outside := func(host, path, body string) func() answer {
		return func() answer { return fromOutside(t, host, path, body) }
	}
	if !oauth2Proxy {
		want(t, "the call from outside", 302, "/dex/auth", outside(modelHost, modelPath, input))
		want(t, "a browser", 302, "/dex/auth", outside("localhost", "/", ""))
		return
	}
	want(t, "the call from outside", 403, `action="/oauth2/start"`, outside(modelHost, modelPath, input))
	browserLogin(t)
}

func browserLogin(t *testing.T) {
	t.Helper()
	want(t, "a browser", 403, `action="/oauth2/start"`, func() answer { return fromOutside(t, "localhost", "/", "") })
	want(t, "the page's button", 302, "/dex/auth", func() answer { return fromOutside(t, "localhost", "/oauth2/start?rd=%2F", "") })
}

// postern applies deploy/'s objects in the order of its README, and one rule for one model. back is the README's way back.
func postern(t *testing.T, dirs []string, oauth2Proxy bool) (back func(t *testing.T)) {
	files := filepath.Join(root, "deploy")
	own := filepath.Join(files, dirs[1])
	before := []string{asTheyWere(t, "-f", filepath.Join(own, "removed.yaml"))}
	if oauth2Proxy {
		before = append([]string{asTheyWere(t, "-n", "istio-system", "authorizationpolicy", "istio-ingressgateway-require-jwt")}, before...)
	}
	key, err := exec.Command("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256").Output()
	if err != nil {
		t.Fatalf("openssl: %v", err)
	}
	kubectl(t, "apply", "-f", filepath.Join(files, "base/namespace.yaml"))
	kubectl(t, "create", "secret", "generic", "posternd-passport", "-n", "postern-system", "--from-file=key.pem="+write(t, t.TempDir(), "key.pem", key))
	eventually(t, "Postern's objects", time.Minute, func() error { // a CustomResourceDefinition takes a moment
		_, err := tryKubectl("apply", "-f", filepath.Join(files, "base"), "-f", filepath.Join(own, "config.yaml"))
		return err
	})
	for _, dir := range dirs[2:] {
		for _, file := range glob(t, filepath.Join(files, dir, "*.yaml")) {
			kubectl(t, "apply", "-f", file)
		}
	}
	kubectl(t, "rollout", "status", "deployment/posternd", "-n", "postern-system", "--timeout=4m")
	addProvider(t, filepath.Join(files, "provider.yaml"))
	kubectl(t, "apply", "-f", filepath.Join(own, "gateway.yaml"))
	kubectl(t, "delete", "-f", filepath.Join(own, "removed.yaml"))
	if oauth2Proxy {
		kubectl(t, "apply", "-f", filepath.Join(own, "require-jwt.yaml"))
	}
	want(t, "without a binding, the pod's call", 401, "_required", func() answer { return fromPod(t, modelURL, asJSON...) })
	kubectl(t, "create", "rolebinding", "in-cluster", "-n", "kserve-test", "--clusterrole=postern-open-model", "--group=postern:pods")
	want(t, "the pod's call", 200, `"predictions"`, func() answer { return fromPod(t, modelURL, asJSON...) })
	want(t, "the same from outside", 401, "credential_required", func() answer { return fromOutside(t, modelHost, modelPath, input) })
	want(t, "another tenant's model", 401, "_required", func() answer { return fromPod(t, otherURL, asJSON...) })
	if oauth2Proxy {
		browserLogin(t)
	} else {
		want(t, "a browser", 302, "/dex/auth", func() answer { return fromOutside(t, "localhost", "/", "") })
	}
	return func(t *testing.T) {
		for _, objects := range before {
			kubectl(t, "apply", "-f", write(t, t.TempDir(), "before.yaml", []byte(objects)))
		}
		kubectl(t, "delete", "-f", filepath.Join(own, "gateway.yaml"))
	}
}

// asTheyWere are objects as they can be created again (as_new of deploy/README.md).
func asTheyWere(t *testing.T, which ...string) string {
	t.Helper()
	return removed.ReplaceAllString(kubectl(t, append([]string{"get", "-o", "yaml"}, which...)...), "")
}

var removed = regexp.MustCompile(`(?m)^ +(creationTimestamp|generation|resourceVersion|uid):.*\n`)

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, want files", pattern, err)
	}
	return files
}

// addProvider is `kubectl edit configmap istio -n istio-system`: one more entry of extensionProviders.
func addProvider(t *testing.T, file string) {
	t.Helper()
	entry, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var provider any
	var mesh map[string]any
	text := kubectl(t, "get", "configmap", "istio", "-n", "istio-system", "-o", "jsonpath={.data.mesh}")
	if err := errors.Join(yaml.Unmarshal(entry, &provider), yaml.Unmarshal([]byte(text), &mesh)); err != nil {
		t.Fatal(err)
	}
	providers, _ := mesh["extensionProviders"].([]any)
	mesh["extensionProviders"] = append(providers, provider)
	edited, err := yaml.Marshal(mesh)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := json.Marshal(map[string]any{"data": map[string]string{"mesh": string(edited)}})
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "patch", "configmap", "istio", "-n", "istio-system", "--type=merge", "--patch="+string(patch))
}

const dexIssuer = "http://dex.auth.svc.cluster.local:5556/dex"

// said is an answer of explain's, in short.
type said struct {
	Outcome string
	Status  int
}

// compare holds every Envoy against the translator, and explain of either; and three of its answers against what was seen
// to happen.
func compare(t *testing.T, oauth2Proxy bool, browser, outside, pod said) {
	var keys map[string]string
	var arguments []string
	if oauth2Proxy { // RequestAuthentication dex-jwt: istiod has fetched them
		keys = map[string]string{dexIssuer: kubectl(t, "exec", "myapp-pod", "--", "curl", "--silent", "--fail", dexIssuer+"/keys")}
		arguments = []string{"--jwks", dexIssuer + "=" + write(t, t.TempDir(), "jwks.json", []byte(keys[dexIssuer]))}
	}
	pushed(t, keys, 2)
	gateways, _ := proxies(t)
	calls := layoutCalls()
	answers := explained(t, arguments, gateways, calls)
	for i, want := range []said{browser, outside, pod} {
		var got said
		if err := json.Unmarshal([]byte(answers[i]), &got); err != nil || got != want {
			t.Errorf("explain %s: got %+v (%v), want %+v: %s", calls[i], got, err, want, answers[i])
		}
	}
}

// layoutCalls are those that explain is asked about: first those whose answers the layout tells.
func layoutCalls() []string {
	host := func(h string) [2]string { return [2]string{"Host", h} }
	var out []string
	for _, c := range []map[string]any{
		{"url": "http://localhost/"},
		{"url": "http://localhost" + modelPath, "method": "POST", "headers": [][2]string{host(modelHost)}},
		{"url": modelURL, "method": "POST", "from": "pod:default/myapp-pod"},
		{"url": "http://localhost/", "headers": [][2]string{{"kubeflow-userid", "admin@example.com"}}},
		{"url": "http://localhost/", "headers": [][2]string{{"authorization", "Bearer nonsense"}}},
		{"url": "http://localhost/", "authz": map[string]any{"status": 200}},
		{"url": "http://localhost/dex/auth"},
		{"url": "http://localhost/jupyter/", "authz": map[string]any{"status": 200}},
		{"url": "http://localhost" + modelPath, "method": "POST", "headers": [][2]string{host(modelHost)}, "authz": map[string]any{"status": 200}},
		{"url": "http://localhost/serving/kserve-test/sklearn-iris" + modelPath, "method": "POST", "authz": map[string]any{"status": 200}},
		{"url": "http://localhost/orders", "headers": [][2]string{host("orders.example.com")}},
		{"url": "http://localhost/", "headers": [][2]string{host("nobody.example.net")}},
		{"url": modelURL, "method": "POST", "from": "pod:default/myapp-pod", "authz": map[string]any{"status": 200}},
		{"url": modelURL, "method": "POST", "from": "pod:default/myapp-pod", "authz": map[string]any{"status": 200}, "scaledToZero": true},
		{"url": otherURL, "method": "POST", "from": "pod:default/myapp-pod"},
		{"url": ordersURL, "from": "pod:default/myapp-pod"},
		{"url": "http://istio-ingressgateway.istio-system.svc.cluster.local/", "from": "pod:default/myapp-pod"},
		{"url": "http://cluster-local-gateway.istio-system.svc.cluster.local/", "from": "pod:default/myapp-pod"},
		{"url": "http://sklearn-iris-predictor-00001.kserve-test.svc.cluster.local/", "from": "pod:default/myapp-pod"},
	} {
		line, err := json.Marshal(c)
		if err != nil {
			panic(err) // strings and numbers
		}
		out = append(out, string(line))
	}
	return out
}
