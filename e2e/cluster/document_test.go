//go:build e2e

package main

import (
	"flag"
	"fmt"
	"os"
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

// TestDocument is the document from its first command to its fix, then Postern with every credential and every fault,
// and the way back: one reader's day, in one order, since each step begins where the one before ended.
// docs/walkthrough.md is its transcript.
func TestDocument(t *testing.T) {
	for _, step := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"what kubectl shows", shows},
		{"login everywhere", loginEverywhere},
		{"the EnvoyFilter attempt", attempt},
		{"the path exemption", pathExempt},
		{"from the login to Postern", toPostern},
		{"a token", serviceAccountToken},
		{"an API key", apiKey},
		{"who may call what", whoMayCall},
		{"the key is revoked", revoked},
		{"a transformer", transformer},
		{"from zero", fromZero},
		{"past the gateway", pastTheGateway},
		{"faults", faults},
		{"and back", back},
	} {
		if !t.Run(step.name, step.do) {
			t.Fatalf("the steps after %q were not run", step.name)
		}
	}
	finished = flag.Lookup("test.run").Value.String() == ""
}

func shows(t *testing.T) {
	chapter(t, "shows")
	sh(t, "kubectl apply -f examples/story/common/models.yaml", "inferenceservice.serving.kserve.io/sklearn-iris", "pod/myapp-pod")
	sh(t, "kubectl get svc -n kserve-test", "sklearn-iris ", "sklearn-iris-predictor ", "sklearn-iris-predictor-00001 ", "knative-local-gateway.istio-system.svc.cluster.local")
	sh(t, "kubectl get virtualservices --all-namespaces", "sklearn-iris ", "sklearn-iris-predictor-ingress", "sklearn-iris-predictor-mesh", "centraldashboard")
	for _, gateway := range []string{"-n kubeflow kubeflow-gateway", "-n knative-serving knative-local-gateway"} {
		sh(t, "kubectl get gateways "+gateway+" -o yaml | sed -n '/^spec:/,$p'", "istio: ingressgateway")
	}
}

// The calls of the transcript. A model's caller sends JSON and says so: KServe 0.20 takes curl's form for text.
const (
	inPod    = `kubectl exec myapp-pod -- curl -s -w '\n%{http_code} %{redirect_url}\n' `
	outside  = `curl -s -w '\n%{http_code} %{redirect_url}\n' `
	instance = ` -H 'Content-Type: application/json' -d @./iris-input.json`
	podCall  = inPod + modelURL + instance
	outCall  = outside + "http://" + gatewayShown + modelPath + " -H 'Host: " + modelHost + "'" + instance
	orders   = inPod + ordersURL
	browser  = outside + "http://" + gatewayShown + "/"
)

func loginEverywhere(t *testing.T) {
	chapter(t, "login")
	code := session(t, "kubectl exec --stdin --tty myapp-pod -- /bin/sh", "# ",
		`hostname`, `cat <<EOF > "./iris-input.json"`+"\n"+input+"\nEOF",
		`curl -s -i `+modelURL+` -d @./iris-input.json | grep -E '^(HTTP|location)'`, `exit 3`)
	if code != 3 {
		t.Errorf("the shell's exit code: got %d, want 3", code)
	}
	shell := script.blocks["login"]
	if !strings.Contains(shell, "\nmyapp-pod\n") || !strings.Contains(shell, "HTTP/1.1 302 Found") {
		t.Errorf("the shell in the pod showed\n%s", shell)
	}
	sh(t, "cat <<EOF > ./iris-input.json\n"+input+"\nEOF")
	shWant(t, podCall, "302 ", "/dex/auth")
	shWant(t, outCall, "302 ", "/dex/auth")
	shWant(t, orders, "302 ", "/dex/auth")
	shWant(t, browser, "302 ", "/dex/auth")
}

const gatewayDump = "kubectl exec -n istio-system deployment/istio-ingressgateway -- pilot-agent request GET config_dump > gateway.json"

// attempt: what the document's author tried first changes nothing, and the live gateway's own configuration says why.
func attempt(t *testing.T) {
	chapter(t, "attempt")
	sh(t, "kubectl apply -f examples/story/2-envoyfilter-attempt/authn-bypass.yaml", "created")
	time.Sleep(3 * time.Second) // istiod pushes within a second; there is nothing to wait for: nothing is to change
	sh(t, podCall, "302 ", "/dex/auth")
	chapter(t, "explain the attempt")
	sh(t, gatewayDump)
	sh(t, "postern explain --config-dump gateway.json -f examples/story/common -f examples/story/2-envoyfilter-attempt --from pod:default/myapp-pod -X POST "+modelURL,
		"redirected with 302 to /dex/auth by EnvoyFilter istio-system/authn-filter",
		`EnvoyFilter istio-system/bypass-authn-filter: spec.configPatches[0] is merged into a route named "sklearn-iris": the gateway has none of that name`,
		`sets up a filter named "envoy.ext_authz": Envoy looks a route's setting up by the filter's own name, and those of the gateway are`,
		// The document's old names: Istio 1.28 lets this one match nothing, and its login only still works because
		// the field that narrows it is in the wrong place.
		`EnvoyFilter istio-system/x-forwarded-host: spec.configPatches[0] is to insert filter "envoy.filters.http.lua" and is not in force: its match names "envoy.http_connection_manager"`,
		`EnvoyFilter istio-system/authn-filter: spec.configPatches[0].listener: unknown field: Istio ignores it`)
	sh(t, "kubectl delete -f examples/story/2-envoyfilter-attempt/authn-bypass.yaml", "deleted")
}

const dexProvider = `    extensionProviders:
    - name: "dex-auth-provider"
      envoyExtAuthzHttp:
        service: "authservice.istio-system.svc.cluster.local"
        port: "8080"
        includeHeadersInCheck: ["authorization", "cookie", "x-auth-token"]
        headersToUpstreamOnAllow: ["kubeflow-userid"]
`

func pathExempt(t *testing.T) {
	chapter(t, "path exemption")
	inEditor(t, "dex-provider.yaml", dexProvider, "mesh", "istio -n istio-system")
	sh(t, "kubectl apply -f examples/story/3-path-exempt/dex-auth.yaml", "created")
	sh(t, "kubectl delete -n istio-system envoyfilters.networking.istio.io authn-filter", "deleted")
	sh(t, "kubectl rollout restart deployment/istiod -n istio-system", "restarted")
	sh(t, "kubectl rollout status deployment/istiod -n istio-system", "successfully rolled out")
	shWant(t, podCall, `"predictions":[1,1]`, "200")

	// The document's own line, letter for letter: it sends curl's form Content-Type, which KServe 0.20 does not read
	// as JSON. The gateway lets it through, and the answer is KServe's error.
	chapter(t, "the line itself")
	sh(t, inPod+modelURL+" -d @./iris-input.json", "got scalar array", "500")

	// What else it opened: the same model and another tenant's, from outside; and a forged name arrives.
	chapter(t, "what it opened")
	shWant(t, outCall, `"predictions":[1,1]`, "200")
	shWant(t, strings.NewReplacer("sklearn-iris:", "fraud:", modelHost, "fraud.team-b.example.com").Replace(outCall), `"predictions":[1,1]`, "200")
	sh(t, outside+"http://"+gatewayShown+"/v1x -H 'Host: orders.example.com' -H 'kubeflow-userid: admin@example.com'", `"kubeflow-userid":"admin@example.com"`, "200")
	shWant(t, orders, "302 ", "/dex/auth") // every other application still asks for Kubeflow's login
	sh(t, gatewayDump)
	sh(t, "postern explain --config-dump gateway.json -f examples/story/common -f examples/story/3-path-exempt -X POST -H 'kubeflow-userid: admin@example.com' http://"+modelHost+modelPath+" | sed -n '/^why/,/^$/p'",
		`it wants notPaths ["/v1*"]`, "the client's own kubeflow-userid: admin@example.com reached the backend")

	chapter(t, "back to the beginning")
	sh(t, "kubectl apply --validate=warn -f examples/story/1-login-everywhere", "envoyfilter.networking.istio.io/authn-filter")
	sh(t, "kubectl delete authorizationpolicy dex-auth -n istio-system", "deleted")
	shWant(t, podCall, "302 ", "/dex/auth")
	shWant(t, outCall, "302 ", "/dex/auth")
}

// asNew is deploy/README.md's: an object as it can be created again.
const asNew = `sed -E '/^ +(creationTimestamp|generation|resourceVersion|uid):/d'`

// toPostern is deploy/README.md, in its order, from a gateway with login.
func toPostern(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join(root, "deploy/README.md"))
	if err != nil || !strings.Contains(string(guide), asNew) {
		t.Fatalf("deploy/README.md no longer says %s (%v)", asNew, err)
	}
	chapter(t, "postern arrives")
	sh(t, "kubectl get -f deploy/authservice/removed.yaml -o yaml | "+asNew+" > before.yaml")
	sh(t, "kubectl apply -f deploy/base/namespace.yaml", "created")
	sh(t, "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem")
	sh(t, "kubectl create secret generic posternd-passport -n postern-system --from-file=key.pem", "created")
	eventually(t, "Postern's objects", time.Minute, func() error { // a CustomResourceDefinition takes a moment
		out, err := shell("kubectl apply --dry-run=server -f deploy/base -f deploy/authservice/config.yaml").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	sh(t, "kubectl apply -f deploy/base -f deploy/authservice/config.yaml", "deployment.apps/posternd created")
	sh(t, "kubectl rollout status deployment/posternd -n postern-system", "successfully rolled out")
	text, err := os.ReadFile(filepath.Join(root, "deploy/provider.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	inEditor(t, "postern-provider.yaml", provider(string(text)), "mesh", "istio -n istio-system")
	sh(t, "kubectl apply -f deploy/authservice/gateway.yaml", "created")
	shWant(t, podCall, "302 ", "/dex/auth") // both judge: nothing opens
	shWant(t, outCall, "302 ", "/dex/auth")
	sh(t, "kubectl delete -f deploy/authservice/removed.yaml", "deleted")

	chapter(t, "postern judges")
	shWant(t, podCall, "credential_required", "401") // only the profile's own people have a rule, by Kubeflow's roles
	sh(t, "kubectl create rolebinding in-cluster -n kserve-test --clusterrole=postern-open-model --group=postern:pods", "created")
	shWant(t, podCall, `"predictions":[1,1]`, "200")
	shWant(t, outCall, "credential_required", "401")
	shWant(t, orders, "302 ", "/dex/auth")
	sh(t, "kubectl create rolebinding in-cluster -n backend --clusterrole=postern-open-model --group=postern:pods", "created")
	shWant(t, orders+" -H 'kubeflow-userid: admin@example.com'", `"app":"whoami"`, `"x-postern-caller":"postern:pod:default:default"`, "200")
	if got := sh(t, orders+" -H 'KubeFlow_UserId: admin@example.com'", `"app":"whoami"`); strings.Contains(got, "admin@example.com") || strings.Contains(script.blocks["postern judges"], `"kubeflow-userid":`) {
		t.Errorf("a forged name arrived: %s", got)
	}
	shWant(t, strings.Replace(podCall, modelURL, otherURL, 1), "login_required", "401")
	shWant(t, browser, "302 ", "/dex/auth")
}

// provider is deploy/provider.yaml as the first entry of extensionProviders.
func provider(text string) string {
	out, first := "    extensionProviders:\n", "    - "
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			out += first + line
			first = "      "
		}
	}
	return out
}

// back is deploy/README.md's way back: login is there before Postern goes.
func back(t *testing.T) {
	chapter(t, "and back")
	sh(t, "kubectl apply -f before.yaml", "created")
	sh(t, "kubectl delete -f deploy/authservice/gateway.yaml", "deleted")
	shWant(t, podCall, "302 ", "/dex/auth")
	shWant(t, outCall, "302 ", "/dex/auth")
	shWant(t, browser, "302 ", "/dex/auth")
	sh(t, "kubectl apply -f examples/story/1-login-everywhere/mesh.yaml", "configmap/istio")
	sh(t, "kubectl delete -f deploy/authservice/config.yaml -f deploy/base", `namespace "postern-system" deleted`)
	sh(t, "kubectl delete rolebinding in-cluster -n backend", "deleted")
	sh(t, "kubectl delete rolebindings,serviceaccounts in-cluster ci -n kserve-test --ignore-not-found", "deleted")
	sh(t, "kubectl delete rolebindings,serviceaccounts ci -n team-b", "deleted")
	if kept, _ := tryKubectl("get", "authorizationpolicies,envoyfilters,clusterroles,crds", "-n", "istio-system", "-o", "name"); strings.Contains(kept, "postern") {
		t.Errorf("left behind: %s", kept)
	}
	shWant(t, podCall, "302 ", "/dex/auth")
}
