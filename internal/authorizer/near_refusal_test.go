package authorizer

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/territory"
)

// TestRefusalWhole: what a refusal says, to a program, to gRPC, at each door.
func TestRefusalWhole(t *testing.T) {
	s := newShop(t)
	const noRule = "system:anonymous has no rule with the verb predict-unproven on models/inferenceservices/open"
	out := s.decide(t, ask(8080, outside, "POST", openOut, predictPath))
	in := s.decide(t, ask(8081, "10.244.0.40", "POST", openIn, predictPath))
	for name, tt := range map[string]struct {
		v       Verdict
		message string
		accepts string
	}{
		"outside":        {out, noRule, `["api-key","service-account-token","oidc-token","session"]`},
		"in the cluster": {in, noRule + " (the pod passes on other callers' requests)", `["api-key","service-account-token","oidc-token","session","pod-address"]`},
	} {
		if body := string(tt.v.Body); tt.v.Message != tt.message || !strings.Contains(body, `"accepts":`+tt.accepts) || !strings.Contains(body, `"error":"credential_required"`) {
			t.Errorf("%s: got %s", name, body)
		}
		if got := headerOf(tt.v.Headers, "x-content-type-options"); !slices.Equal(got, []string{"nosniff"}) {
			t.Errorf("%s: got x-content-type-options %v", name, got)
		}
		if got := headerOf(tt.v.Headers, "www-authenticate"); len(got) != 1 || !strings.HasPrefix(got[0], `Bearer realm="postern", error="credential_required"`) {
			t.Errorf("%s: got www-authenticate %v", name, got)
		}
	}
	bare := newFixture(t, testConfig()) // no issuers
	if v := bare.decide(t, ask(8080, outside, "POST", openOut, predictPath)); !strings.Contains(string(v.Body), `"accepts":["api-key","session"]}`) {
		t.Errorf("without issuers: got %s", v.Body)
	}
	v := s.decide(t, ask(8080, outside, "POST", openOut, predictPath, "content-type: application/grpc"))
	if string(v.Body) != "credential_required: "+noRule || len(headerOf(v.Headers, "content-type")) > 0 {
		t.Errorf("by gRPC: got %q %v", v.Body, v.Headers)
	}
	v = s.decide(t, ask(8080, outside, "POST", ownedOut, predictPath, adaCookie))
	if v.Status != http.StatusForbidden || strings.Contains(string(v.Body), "accepts") || len(headerOf(v.Headers, "www-authenticate")) > 0 {
		t.Errorf("403: another credential of the same caller's would not help: got %s %v", v.Body, v.Headers)
	}
	if v := s.decide(t, ask(8080, outside, "GET", dashboard, "/", adaCookie)); v.Caller.User != "ada@example.com" {
		t.Errorf("the log is not told whom the login named: got %q", v.Caller.User)
	}
}

// TestApplicationsAnswers: what a model's answers carry, an application's do not.
func TestApplicationsAnswers(t *testing.T) {
	s := newShop(t)
	v := s.decide(t, ask(8080, outside, "POST", "web.example.com", "/"))
	if got := headerOf(v.Headers, "www-authenticate"); v.Status != 401 || len(got) != 1 || strings.Contains(got[0], "resource_metadata") {
		t.Errorf("an application: got %d %v", v.Status, got)
	}
	if v := s.decide(t, ask(8080, outside, "GET", "web.example.com", metadataPath)); v.Reason != CredentialRequired {
		t.Errorf("an application's metadata: got %s", v.Reason)
	}
	v = s.decide(t, ask(8080, outside, "GET", openOut, metadataPath))
	for name, want := range map[string]string{"content-type": "application/json", "cache-control": "no-store", "x-content-type-options": "nosniff"} {
		if got := headerOf(v.Headers, name); !slices.Equal(got, []string{want}) {
			t.Errorf("a model's metadata: got %s %v", name, got)
		}
	}
	// Two applications share a host by path: no page of theirs is a model's.
	s.swap(`
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: first, namespace: backend}
spec: {gateways: [knative-serving/knative-local-gateway], hosts: [two.example.com], http: [{match: [{uri: {prefix: /first/}}], route: [{destination: {host: web}}]}]}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: second, namespace: backend}
spec: {gateways: [knative-serving/knative-local-gateway], hosts: [two.example.com], http: [{match: [{uri: {prefix: /second/}}], route: [{destination: {host: web}}]}]}
`)
	v = s.decide(t, ask(8081, podAddr, "GET", "two.example.com", "/second/x", "origin: "+app))
	if !v.Allow || !v.Territory.Shared || len(v.Response) > 0 {
		t.Errorf("a shared application: got %s, shared %t, %v", v.Reason, v.Territory.Shared, v.Response)
	}
}

// TestDefaultNamespaces: nothing in Kubeflow's namespaces is an application; a letter
// away it is.
func TestDefaultNamespaces(t *testing.T) {
	const object = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NS}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: own, namespace: NS}
spec: {gateways: [kubeflow/kubeflow-gateway], hosts: [own.example.com], http: [{route: [{destination: {host: web}}]}]}
`
	cfg := testConfig()
	cfg.Kubeflow.Namespaces = []string{"my-tools"}
	for _, ns := range []string{"auth", "cert-manager", "istio-system", "knative-eventing", "knative-serving", "kube-system", "kubeflow", "kubeflow-system", "oauth2-proxy", "my-tools"} {
		for name, want := range map[string]territory.Kind{ns: territory.People, ns + "x": territory.Application} {
			snap := newSnapshot(t, cfg, strings.ReplaceAll(object, "NS", name))
			if got := snap.Map.At(8080, "own.example.com", "/", "GET"); got.Kind != want {
				t.Errorf("%s: got %s, want %s", name, got.Kind, want)
			}
		}
	}
}

// TestSessionKept: an answer of the login is believed for five seconds and no longer,
// and it is authservice that is asked unless the configuration says otherwise.
func TestSessionKept(t *testing.T) {
	f := newFixture(t, testConfig())
	for _, step := range []struct {
		after time.Duration
		asked int
	}{{0, 1}, {5*time.Second - time.Millisecond, 1}, {5 * time.Second, 2}} {
		f.now = noon.Add(step.after)
		if v := f.decide(t, ask(8080, outside, "POST", openOut, predictPath, adaCookie)); !v.Allow || f.login.count() != step.asked {
			t.Errorf("after %s: got %s and %d questions, want %d", step.after, v.Reason, f.login.count(), step.asked)
		}
	}
	if r := f.login.asked[0]; r.Method != "GET" || r.URL.Host != "authservice.istio-system.svc.cluster.local:8080" || r.URL.RequestURI() != "/" {
		t.Errorf("asked %s %s at %s", r.Method, r.URL.RequestURI(), r.URL.Host)
	}
}

// TestConfiguredValues: what the configuration says stands, defaults or not.
func TestConfiguredValues(t *testing.T) {
	c, err := ParseConfig("c.yaml", []byte(fullConfig+"cors: {methods: [GET], maxAge: 1m}\n"))
	if err != nil {
		t.Fatal(err)
	}
	c.Gateways = []Workload{{"edge", map[string]string{"role": "gw"}}}
	d := c.withDefaults()
	if l := d.Login.Delegate; l.SessionLife != 3*time.Second || l.Timeout != time.Second || l.SessionPath != "/oauth2/auth" || !slices.Equal(d.CORS.Methods, []string{"GET"}) || d.CORS.MaxAge != time.Minute {
		t.Errorf("got %+v %+v", l, d.CORS)
	}
	if g := c.PodRules().Gateways; len(g) != 1 || g[0].Namespace != "edge" {
		t.Errorf("got gateways %v, want the configured one alone", g)
	}
	if g := (Config{}).PodRules().Gateways; len(g) != 2 || g[0].Namespace != "istio-system" || g[1].Namespace != "istio-system" {
		t.Errorf("got gateways %v by default", g)
	}
}
