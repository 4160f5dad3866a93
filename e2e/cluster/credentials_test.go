//go:build e2e

package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// inEditor puts a file's text under a ConfigMap's key, by kubectl edit.
func inEditor(t *testing.T, file, text, key, configMap string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(script.dir, file), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, "cat "+file)
	sh(t, `KUBE_EDITOR="sed -i '/^  `+key+`: |/r `+file+`'" kubectl edit configmap `+configMap, "edited")
}

const tokens = `    tokens:
      cluster:
        issuer: https://kubernetes.default.svc.cluster.local
        audiences: [postern]
        jwksURL: https://kubernetes.default.svc/openid/v1/jwks
        caFile: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
        tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
`

// as is a call with the header of a file.
func as(call, file string) string { return call + " -H @" + file }

var fraudCall = strings.NewReplacer("sklearn-iris:", "fraud:", modelHost, "fraud.team-b.example.com").Replace(outCall)

func serviceAccountToken(t *testing.T) {
	chapter(t, "a token")
	inEditor(t, "tokens.yaml", tokens, "config.yaml", "posternd -n postern-system")
	sh(t, "kubectl rollout restart deployment/posternd -n postern-system", "restarted")
	sh(t, "kubectl rollout status deployment/posternd -n postern-system", "successfully rolled out")
	// posternd says whose tokens it takes, and for whom they must be made.
	shWant(t, outCall, `"tokens":[{"issuer":"https://kubernetes.default.svc.cluster.local","audiences":["postern"]}]`, "401")
	sh(t, "kubectl create serviceaccount ci -n kserve-test", "created")
	sh(t, `echo "Authorization: Bearer $(kubectl create token ci -n kserve-test --audience=postern)" > ci.txt`)
	shWant(t, as(outCall, "ci.txt"), "not_allowed", "403")
	sh(t, "kubectl create rolebinding ci -n kserve-test --clusterrole=postern-model-caller --serviceaccount=kserve-test:ci", "created")
	shWant(t, as(outCall, "ci.txt"), `"predictions":[1,1]`, "200")
	sh(t, `curl -s http://`+gatewayShown+modelPath+` -H 'Host: `+modelHost+`'`+instance+` -H "Authorization: Bearer $(kubectl create token ci -n kserve-test)"`, "token_wrong_audience")

	// Another tenant's model, which has a rule of its own by now.
	chapter(t, "another tenant")
	sh(t, as(fraudCall, "ci.txt"), "login_required", "401")
	sh(t, "kubectl create serviceaccount ci -n team-b", "created")
	sh(t, "kubectl create rolebinding ci -n team-b --clusterrole=postern-model-caller --serviceaccount=team-b:ci", "created")
	shWant(t, as(fraudCall, "ci.txt"), "not_allowed", "403")
	sh(t, `echo "Authorization: Bearer $(kubectl create token ci -n team-b --audience=postern)" > team-b.txt`)
	sh(t, as(fraudCall, "team-b.txt"), `"predictions":[1,1]`, "200")
}

func apiKey(t *testing.T) {
	chapter(t, "an api key")
	sh(t, "postern key create nightly -n kserve-test --owner ada@example.com -o yaml 2>said.txt | kubectl apply -f -", "created")
	sh(t, `sed -n 's/.*shown this once: /x-api-key: /p' said.txt > nightly.txt`)
	sh(t, "kubectl get apikeys -n kserve-test -o custom-columns=NAME:.metadata.name,OWNER:.spec.owner", "ada@example.com")
	sh(t, "kubectl create rolebinding nightly -n kserve-test --clusterrole=postern-model-caller --user=postern:key:kserve-test:nightly", "created")
	shWant(t, as(outCall, "nightly.txt"), `"predictions":[1,1]`, "200")
}

// revoked: a key's object is deleted, and 5 seconds later no replica takes the key any more.
func revoked(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(script.dir, "nightly.txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := strings.Cut(strings.TrimSpace(string(text)), ": ")
	call := func() answer {
		return fromOutside(t, modelHost, modelPath, input, "Content-Type", "application/json", "x-api-key", key)
	}
	if got := call(); got.status != 200 {
		t.Fatalf("before its end: got %d %s", got.status, got.body)
	}
	chapter(t, "the key is revoked")
	sh(t, "kubectl delete apikey nightly -n kserve-test", "deleted")
	deleted, last, calls := time.Now(), time.Duration(0), 0
	for began := time.Duration(0); began < 7*time.Second; calls++ {
		began = time.Since(deleted)
		got := call()
		switch {
		case got.status == 200 && began > 5*time.Second:
			t.Errorf("%s after its object was deleted: got 200, want 401", began)
		case got.status == 200:
			last = began
		case got.status != 401:
			t.Errorf("got %d %s, want 200 or 401", got.status, got.body)
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("of %d calls in the 7 s after the key's object was deleted, the last that was let in began after %s", calls, last)
	sh(t, as(outCall, "nightly.txt"), "401")
	sh(t, "kubectl delete rolebinding nightly -n kserve-test", "deleted")
}

var action = regexp.MustCompile(`<form method="post" action="([^"]+)"`)

// logIn is a person at a browser: Dex's page, the password, and back. The session's cookies are in person.txt.
func logIn(t *testing.T) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Jar: jar, Timeout: time.Minute}
	body := func(resp *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	home := "http://" + doors["gateway"] + "/"
	page := body(client.Get(home))
	form := action.FindStringSubmatch(page)
	if form == nil {
		t.Fatalf("Dex's page has no form:\n%.2000s", page)
	}
	to, err := url.Parse(home)
	if err == nil {
		to, err = to.Parse(html.UnescapeString(form[1]))
	}
	if err != nil {
		t.Fatal(err)
	}
	page = body(client.PostForm(to.String(), url.Values{"login": {"user@example.com"}, "password": {"12341234"}}))
	if !strings.Contains(page, `"kubeflow-userid":"user@example.com"`) {
		t.Fatalf("after the login the dashboard got:\n%.2000s", page)
	}
	var cookies []string
	for _, c := range jar.Cookies(to) {
		cookies = append(cookies, c.Name+"="+c.Value)
	}
	if err := os.WriteFile(filepath.Join(script.dir, "person.txt"), []byte("Cookie: "+strings.Join(cookies, "; ")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// whoMayCall asks Kubernetes and the gateway the same, of each caller and each model or application.
func whoMayCall(t *testing.T) {
	logIn(t)
	callers := []struct{ name, as, header string }{ // header "" is nobody, "pod" the document's pod
		{"the pod", "--as=postern:pod:default:default --as-group=postern:pods --as-group=postern:pods:default", "pod"},
		{"nobody, from outside", "", ""},
		{"user@example.com, logged in", "--as=user@example.com --as-group=system:authenticated", "person.txt"},
		{"the key kserve-test/nightly", "--as=postern:key:kserve-test:nightly --as-group=postern:keys:kserve-test --as-group=system:authenticated", "nightly.txt"},
		{"a token of kserve-test/ci", "--as=system:serviceaccount:kserve-test:ci", "ci.txt"},
		{"a token of team-b/ci", "--as=system:serviceaccount:team-b:ci", "team-b.txt"},
	}
	resources := []struct{ verb, resource, namespace, inside, outside string }{
		{"predict", "inferenceservices.serving.kserve.io/sklearn-iris", "kserve-test", podCall, outCall},
		{"predict", "inferenceservices.serving.kserve.io/fraud", "team-b", strings.Replace(podCall, modelURL, otherURL, 1), fraudCall},
		{"call", "virtualservices.networking.istio.io/orders", "backend", orders, outside + "http://" + gatewayShown + "/orders -H 'Host: orders.example.com'"},
	}
	table := "caller  model or application  kubectl auth can-i  the gateway\n"
	var yes, no int
	for _, c := range callers {
		for _, r := range resources {
			verb, call := r.verb, r.outside
			switch c.header {
			case "pod":
				verb, call = verb+"-unproven", r.inside
			case "":
				verb += "-unproven"
			default:
				call = as(call, c.header)
			}
			ask := fmt.Sprintf("kubectl auth can-i %s %s -n %s %s", verb, r.resource, r.namespace, c.as)
			if c.header == "" { // Kubernetes lets nobody without a name ask for themselves: its administrator asks
				kind, name, _ := strings.Cut(r.resource, "/")
				plural, group, _ := strings.Cut(kind, ".")
				ask = fmt.Sprintf(`echo '{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"system:anonymous","groups":["system:unauthenticated"],`+
					`"resourceAttributes":{"verb":%q,"group":%q,"resource":%q,"name":%q,"namespace":%q}}}' | kubectl create -f - -o jsonpath='{.status.allowed}' | sed 's/true/yes/; s/^$/no/; s/false/no/'`,
					verb, group, plural, name, r.namespace)
			}
			if c.header == "pod" && r.namespace == "kserve-test" || c.header == "ci.txt" && r.namespace == "team-b" {
				chapter(t, map[bool]string{true: "can-i yes", false: "can-i no"}[c.header == "pod"])
				sh(t, ask)
				sh(t, call)
			}
			may, _ := shell(ask).Output() // "no" exits with 1
			got, err := shell(call).Output()
			if err != nil {
				t.Fatalf("%s: %v", call, err)
			}
			lines := strings.Split(strings.TrimSpace(string(got)), "\n")
			status := strings.TrimSpace(lines[len(lines)-1])
			said := strings.TrimSpace(string(may))
			table += fmt.Sprintf("%s  %s/%s  %s %s  %s\n", c.name, r.namespace, r.resource[strings.IndexByte(r.resource, '/')+1:], verb, said, status)
			switch {
			case said == "yes" && status == "200":
				yes++
			case said == "no" && (status == "401" || status == "403"):
				no++
			default:
				t.Errorf("%s, %s/%s: kubectl auth can-i says %q, the gateway %s\n%s", c.name, r.namespace, r.resource, said, status, got)
			}
		}
	}
	if yes < 5 || no < 5 {
		t.Errorf("%d may and %d may not: too few to tell anything", yes, no)
	}
	chapter(t, "who may call what")
	script.blocks["who may call what"] = aligned(table)
}

func transformer(t *testing.T) {
	chapter(t, "a transformer")
	sh(t, "kubectl apply -f e2e/cluster/manifests/transformer.yaml", "created")
	sh(t, "kubectl wait -n team-b --for=condition=Ready --timeout=5m inferenceservice/fraud-checked", "condition met")
	checked := strings.NewReplacer("fraud:", "fraud-checked:", "fraud.team-b", "fraud-checked.team-b").Replace(fraudCall)
	shWant(t, as(checked, "team-b.txt"), `"predictions":[1,1]`, `"transformed":true`, "200")
	// The predictor has no rule for pods: its own transformer gets in, another pod does not.
	sh(t, inPod+"http://fraud-checked-predictor.team-b.svc.cluster.local/v1/models/fraud-checked:predict"+instance, "credential_required", "401")
	sh(t, as(checked, "ci.txt"), "not_allowed", "403")
	sh(t, "kubectl delete --wait=false -f e2e/cluster/manifests/transformer.yaml", "deleted")
}

func fromZero(t *testing.T) {
	chapter(t, "from zero")
	sh(t, "kubectl apply -f e2e/cluster/manifests/echo.yaml", "created")
	sh(t, "kubectl wait -n kserve-test --for=condition=Ready --timeout=5m inferenceservice/echo", "condition met")
	sh(t, "kubectl wait -n kserve-test --for=delete --timeout=5m pod -l serving.kserve.io/inferenceservice=echo", "condition met")
	sh(t, "kubectl get pods -n kserve-test -l serving.kserve.io/inferenceservice=echo", "No resources found")
	got := sh(t, as(outside+"http://"+gatewayShown+"/who -H 'Host: echo.kserve-test.example.com' -H 'kubeflow-userid: admin@example.com'", "ci.txt"),
		`"x-postern-caller":"system:serviceaccount:kserve-test:ci"`, "200")
	if strings.Contains(got, "admin@example.com") || strings.Contains(got, "uthorization") {
		t.Errorf("a forged name or the caller's token arrived: %s", got)
	}
	sh(t, "kubectl get pods -n kserve-test -l serving.kserve.io/inferenceservice=echo -o name", "pod/echo-predictor")
	claims := passportOf(t, got)
	if claims["sub"] != "system:serviceaccount:kserve-test:ci" || fmt.Sprint(claims["aud"]) != "[kserve-test/inferenceservices/echo]" && claims["aud"] != "kserve-test/inferenceservices/echo" {
		t.Errorf("its passport says %v", claims)
	}
}

// passportOf are the claims of the passport that a model echoed. Who signed it is for a sidecar to check.
func passportOf(t *testing.T, echoed string) map[string]any {
	t.Helper()
	var got struct{ Headers map[string]string }
	if err := json.NewDecoder(strings.NewReader(echoed)).Decode(&got); err != nil {
		t.Fatalf("%v: %s", err, echoed)
	}
	parts := strings.Split(got.Headers["x-postern-passport"], ".")
	if len(parts) != 3 {
		t.Fatalf("no passport in %s", echoed)
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{}
	if err := json.Unmarshal(text, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// pastTheGateway: whoever reaches a pod meets no gateway. A sidecar with the passport's rule stops him.
func pastTheGateway(t *testing.T) {
	chapter(t, "past the gateway")
	direct := func(namespace, name string) string {
		return `ADDRESS=$(kubectl get pod -n ` + namespace + ` -l serving.kserve.io/inferenceservice=` + name + ` -o jsonpath='{.items[0].status.podIP}') && ` +
			inPod + `http://$ADDRESS:8012/ -H 'kubeflow-userid: admin@example.com'`
	}
	shWant(t, direct("kserve-test", "echo"), `"kubeflow-userid":"admin@example.com"`, "200")
	sh(t, "kubectl delete --wait=false -f e2e/cluster/manifests/echo.yaml", "deleted")

	chapter(t, "a sidecar")
	sh(t, "kubectl get --raw /api/v1/namespaces/postern-system/services/posternd:9001/proxy/jwks.json > jwks.json")
	sh(t, `sed "s|JWKS'|$(cat jwks.json)'|" e2e/cluster/manifests/guarded.yaml | kubectl apply -f -`, "requestauthentication.security.istio.io/postern created")
	sh(t, "kubectl wait -n team-c --for=condition=Ready --timeout=5m inferenceservice/guarded", "condition met")
	sh(t, "kubectl create rolebinding ci -n team-c --clusterrole=postern-model-caller --serviceaccount=kserve-test:ci", "created")
	got := shWant(t, as(outside+"http://"+gatewayShown+"/ -H 'Host: guarded.team-c.example.com'", "ci.txt"), `"x-postern-caller":"system:serviceaccount:kserve-test:ci"`, "200")
	if claims := passportOf(t, got); claims["sub"] != "system:serviceaccount:kserve-test:ci" {
		t.Errorf("its passport says %v", claims)
	}
	sh(t, direct("team-c", "guarded"), "RBAC: access denied", "403")
	sh(t, direct("team-c", "guarded")+" -H 'x-postern-passport: "+"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJwb3N0ZXJuIn0.AAAA'", "40")
	sh(t, "kubectl delete --wait=false namespace team-c", "deleted")
}
