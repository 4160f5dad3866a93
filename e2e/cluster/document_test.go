//go:build e2e

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	modelURL  = "http://sklearn-iris.kserve-test.svc.cluster.local/v1/models/sklearn-iris:predict"
	otherURL  = "http://fraud.team-b.svc.cluster.local/v1/models/fraud:predict"
	ordersURL = "http://orders-api.backend.svc.cluster.local/orders"
	modelHost = "sklearn-iris.kserve-test.example.com"
	modelPath = "/v1/models/sklearn-iris:predict"
)

var asJSON = []string{"--header", "Content-Type: application/json", "--data", input}

// TestDocument is the document from its first command to its fix, and then Postern, in the order of a reader's day.
func TestDocument(t *testing.T) {
	t.Run("what kubectl shows", shows)
	t.Run("1 login everywhere", loginEverywhere)
	t.Run("2 the EnvoyFilter attempt", attempt)
	t.Run("3 the path exemption", pathExempt)
	t.Run("4 Postern", withPostern)
	t.Run("5 from the login to Postern and back", thereAndBack)
}

func shows(t *testing.T) {
	services := kubectl(t, "get", "svc", "-n", "kserve-test")
	for _, want := range []string{"sklearn-iris", "sklearn-iris-predictor", "sklearn-iris-predictor-00001", "knative-local-gateway.istio-system.svc.cluster.local"} {
		if !strings.Contains(services, want) {
			t.Errorf("kubectl get svc: got\n%s\nwant %q in it", services, want)
		}
	}
	routes := kubectl(t, "get", "virtualservices", "--all-namespaces")
	for _, want := range []string{"sklearn-iris ", "sklearn-iris-predictor-ingress", "sklearn-iris-predictor-mesh", "centraldashboard"} {
		if !strings.Contains(routes, want) {
			t.Errorf("kubectl get virtualservices: got\n%s\nwant %q in it", routes, want)
		}
	}
	for _, gateway := range [][2]string{{"kubeflow", "kubeflow-gateway"}, {"knative-serving", "knative-local-gateway"}} {
		text := kubectl(t, "get", "gateways", "-n", gateway[0], gateway[1], "-o", "yaml")
		if !strings.Contains(text, "istio: ingressgateway") {
			t.Errorf("Gateway %s/%s does not select the ingress gateway:\n%s", gateway[0], gateway[1], text)
		}
	}
	// The document's shell, on a terminal of its own (script makes one).
	shell := exec.Command("script", "--quiet", "--return", "--command", tool("kubectl")+" exec --stdin --tty myapp-pod -- /bin/sh", "/dev/null")
	shell.Stdin = strings.NewReader("hostname; tty\nexit 3\n")
	out, err := shell.CombinedOutput()
	if code := shell.ProcessState.ExitCode(); code != 3 || !strings.Contains(string(out), "myapp-pod") || !strings.Contains(string(out), "/dev/pts/") {
		t.Errorf("exec with a terminal: got exit code %d (%v)\n%s\nwant 3, the pod's name and a terminal", code, err, out)
	}
}

// want says what a call must have got, once the gateway has the configuration.
func want(t *testing.T, what string, status int, contains string, call func() answer) {
	t.Helper()
	eventually(t, what, 2*time.Minute, func() error {
		got := call()
		if got.status != status || !strings.Contains(got.location+" "+got.body, contains) {
			return fmt.Errorf("got %d %s %.300s, want %d with %q", got.status, got.location, got.body, status, contains)
		}
		return nil
	})
}

func loginEverywhere(t *testing.T) {
	want(t, "the pod's call", 302, "/dex/auth", func() answer { return fromPod(t, modelURL, asJSON...) })
	want(t, "the call from outside", 302, "/dex/auth", func() answer { return fromOutside(t, modelHost, modelPath, input) })
	want(t, "the pod's call to the backend team", 302, "/dex/auth", func() answer { return fromPod(t, ordersURL) })
	want(t, "a browser", 302, "/dex/auth", func() answer { return fromOutside(t, "localhost", "/", "") })
}

// attempt: what the document's author tried first changes nothing.
func attempt(t *testing.T) {
	bypass := filepath.Join(root, "examples/story/2-envoyfilter-attempt/authn-bypass.yaml")
	kubectl(t, "apply", "-f", bypass)
	time.Sleep(3 * time.Second) // istiod pushes within a second; there is nothing to wait for: nothing is to change
	if got := fromPod(t, modelURL, asJSON...); got.status != 302 {
		t.Errorf("got %d, want the login still: 302", got.status)
	}
	kubectl(t, "delete", "-f", bypass)
}

func pathExempt(t *testing.T) {
	dir := filepath.Join(root, "examples/story/3-path-exempt")
	kubectl(t, "apply", "-f", filepath.Join(dir, "mesh.yaml")) // kubectl edit configmap istio -n istio-system
	kubectl(t, "apply", "-f", filepath.Join(dir, "dex-auth.yaml"))
	kubectl(t, "delete", "-n", "istio-system", "envoyfilters.networking.istio.io", "authn-filter")
	kubectl(t, "rollout", "restart", "deployment/istiod", "-n", "istio-system")
	kubectl(t, "rollout", "status", "deployment/istiod", "-n", "istio-system", "--timeout=3m")
	want(t, "the pod's call", 200, `"predictions"`, func() answer { return fromPod(t, modelURL, asJSON...) })

	// The document's own line, letter for letter: it sends curl's form Content-Type, which KServe 0.20 does not read
	// as JSON. The gateway lets it through, and the answer is KServe's error.
	got := fromPod(t, modelURL, "-v", "-d", input)
	if got.status != 500 || !strings.Contains(got.body, "got scalar array") {
		t.Errorf("the document's line: got %d %.300s; want KServe 0.20's own 500", got.status, got.body)
	}

	// What else it opened: the same model and another tenant's, from outside; and a forged name arrives.
	want(t, "outside", 200, `"predictions"`, func() answer { return fromOutside(t, modelHost, modelPath, input, "Content-Type", "application/json") })
	want(t, "a forged kubeflow-userid", 200, `"kubeflow-userid":"admin@example.com"`, func() answer {
		return fromOutside(t, "orders.example.com", "/v1x", "", "kubeflow-userid", "admin@example.com")
	})
	// Every other application still asks for Kubeflow's login.
	want(t, "the pod's call to the backend team", 302, "/dex/auth", func() answer { return fromPod(t, ordersURL) })
}

func withPostern(t *testing.T) {
	deploy := filepath.Join(root, "deploy")
	key, err := exec.Command("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256").Output()
	if err != nil {
		t.Fatalf("openssl: %v", err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, key, 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-f", filepath.Join(deploy, "base/namespace.yaml"))
	kubectl(t, "create", "secret", "generic", "posternd-passport", "-n", "postern-system", "--from-file=key.pem="+file)
	eventually(t, "Postern's objects", time.Minute, func() error { // a CustomResourceDefinition takes a moment
		_, err := tryKubectl("apply", "-f", filepath.Join(deploy, "base"), "-f", filepath.Join(deploy, "authservice/config.yaml"))
		return err
	})
	kubectl(t, "rollout", "status", "deployment/posternd", "-n", "postern-system", "--timeout=4m")
	kubectl(t, "apply", "-f", filepath.Join(root, "examples/story/4-postern/mesh.yaml"))
	kubectl(t, "delete", "-n", "istio-system", "authorizationpolicy", "dex-auth")
	kubectl(t, "apply", "-f", filepath.Join(deploy, "authservice/gateway.yaml"))
	want(t, "without a binding, behind login", 302, "/dex/auth", func() answer { return fromOutside(t, "localhost", "/", "") })
	kubectl(t, "create", "rolebinding", "in-cluster", "-n", "kserve-test", "--clusterrole=postern-open-model", "--group=postern:pods")
	want(t, "the pod's call", 200, `"predictions"`, func() answer { return fromPod(t, modelURL, asJSON...) })
	want(t, "the same from outside", 401, "credential_required", func() answer { return fromOutside(t, modelHost, modelPath, input) })

	kubectl(t, "create", "rolebinding", "in-cluster", "-n", "backend", "--clusterrole=postern-open-model", "--group=postern:pods")
	want(t, "the pod's call to the backend team", 200, `"app":"whoami"`, func() answer { return fromPod(t, ordersURL, "--header", "kubeflow-userid: admin@example.com") })
	if got := fromPod(t, ordersURL, "--header", "kubeflow-userid: admin@example.com"); strings.Contains(got.body, "admin@example.com") {
		t.Errorf("the forged name arrived: %s", got.body)
	}
	want(t, "another tenant's model", 401, "login_required", func() answer { return fromPod(t, otherURL, asJSON...) })
	want(t, "a browser", 302, "/dex/auth", func() answer { return fromOutside(t, "localhost", "/", "") })

	allowed := kubectl(t, "auth", "can-i", "predict-unproven", "inferenceservices.serving.kserve.io/sklearn-iris", "-n", "kserve-test", "--as=postern:pod:default:default", "--as-group=postern:pods")
	if strings.TrimSpace(allowed) != "yes" {
		t.Errorf("kubectl auth can-i: got %q, want yes", allowed)
	}
	if out, _ := tryKubectl("auth", "can-i", "predict-unproven", "inferenceservices.serving.kserve.io/fraud", "-n", "team-b", "--as=postern:pod:default:default", "--as-group=postern:pods"); strings.TrimSpace(out) != "no" {
		t.Errorf("kubectl auth can-i for the other tenant's model: got %q, want no", out)
	}
}

// asNew is deploy/README.md's: an object as it can be created again.
const asNew = `sed -E '/^ +(creationTimestamp|generation|resourceVersion|uid):/d'`

// thereAndBack is step 3 of deploy/README.md and the way back, from a gateway where both judge.
func thereAndBack(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join(root, "deploy/README.md"))
	if err != nil || !strings.Contains(string(guide), asNew) {
		t.Fatalf("deploy/README.md no longer says %s (%v)", asNew, err)
	}
	removed, gateway := filepath.Join(root, "deploy/authservice/removed.yaml"), filepath.Join(root, "deploy/authservice/gateway.yaml")
	kubectl(t, "apply", "--validate=warn", "-f", filepath.Join(root, "examples/story/1-login-everywhere/authn-filter.yaml"))
	want(t, "with both, the pod's call", 302, "/dex/auth", func() answer { return fromPod(t, modelURL, asJSON...) })
	want(t, "with both, from outside", 302, "/dex/auth", func() answer { return fromOutside(t, modelHost, modelPath, input) })

	before := filepath.Join(t.TempDir(), "before.yaml")
	save := exec.Command("sh", "-c", tool("kubectl")+" get -f "+removed+" -o yaml | "+asNew+" > "+before)
	if out, err := save.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	kubectl(t, "delete", "-f", removed)
	want(t, "there, the pod's call", 200, `"predictions"`, func() answer { return fromPod(t, modelURL, asJSON...) })
	want(t, "there, from outside", 401, "credential_required", func() answer { return fromOutside(t, modelHost, modelPath, input) })

	kubectl(t, "apply", "-f", before)
	kubectl(t, "delete", "-f", gateway)
	want(t, "back, the pod's call", 302, "/dex/auth", func() answer { return fromPod(t, modelURL, asJSON...) })
	want(t, "back, from outside", 302, "/dex/auth", func() answer { return fromOutside(t, modelHost, modelPath, input) })
	want(t, "back, a browser", 302, "/dex/auth", func() answer { return fromOutside(t, "localhost", "/", "") })
	if kept, _ := tryKubectl("get", "authorizationpolicies", "-n", "istio-system", "-o", "name"); strings.Contains(kept, "postern-") {
		t.Errorf("left behind: %s", kept)
	}
}
