package explain_test

import (
	"context"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/explain"
	"postern.dev/postern/internal/lab"
	"postern.dev/postern/internal/lab/demo"
	"postern.dev/postern/internal/lab/serving"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// systems keeps the states: working one out takes a second with the race detector.
var systems = map[string]*explain.System{}

// system is a state of the story, from the committed translations alone.
func system(t *testing.T, name string) *explain.System {
	t.Helper()
	if systems[name] == nil {
		systems[name] = systemOf(t, stateSet(t, name))
	}
	return systems[name]
}

func stateSet(t *testing.T, name string) *manifest.Set {
	t.Helper()
	set, err := manifest.FS(story.FS, "common", name)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func systemOf(t *testing.T, set *manifest.Set) *explain.System {
	t.Helper()
	t.Setenv("PATH", t.TempDir()) // no translator and no Go to build one
	translated, err := fs.Sub(story.FS, "translated")
	if err != nil {
		t.Fatal(err)
	}
	w, err := world.Build(context.Background(), set, world.Options{Translate: translate.Options{Bundled: translated, Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := explain.New(w)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	model    = "http://localhost/v1/models/sklearn-iris:predict"
	internal = "http://sklearn-iris.kserve-test.svc.cluster.local/v1/models/sklearn-iris:predict"
)

func host(name string, more ...[2]string) [][2]string {
	return append([][2]string{{"Host", name}}, more...)
}

// rows are the demo's requests as calls.
var rows = map[string]explain.Call{
	"pod calls the model":             {From: "pod:default/myapp-pod", Method: "POST", URL: internal},
	"outside calls the model":         {Method: "POST", URL: model, Headers: host("sklearn-iris.kserve-test.example.com")},
	"outside, with a session":         {Method: "POST", URL: model, Headers: host("sklearn-iris.kserve-test.example.com"), Session: demo.User},
	"outside, forged kubeflow-userid": {Method: "POST", URL: model, Headers: host("sklearn-iris.kserve-test.example.com", [2]string{"Kubeflow-Userid", demo.Forged})},
	"outside, another tenant's model": {Method: "POST", URL: "http://localhost/v1/models/fraud:predict", Headers: host("fraud.team-b.example.com")},
	"pod calls the backend team":      {From: "pod:default/myapp-pod", URL: "http://orders-api.backend.svc.cluster.local/", Headers: [][2]string{{"Accept", "text/html"}}},
	"browser at the dashboard":        {URL: "http://localhost/", Headers: [][2]string{{"Accept", "text/html"}}},
}

// cell is an answer as the demo shows one.
func cell(a *explain.Answer) demo.Cell {
	c := demo.Cell{Status: a.Status}
	for _, h := range a.Headers {
		switch {
		case a.Outcome == explain.Redirected && h[0] == "location":
			c.Location = h[1]
		case a.Outcome == explain.Forwarded && (h[0] == "kubeflow-userid" || h[0] == "x-postern-caller" && c.Identity == ""):
			c.Identity = h[1]
		}
	}
	if a.Outcome == explain.Forwarded {
		c.Status, c.Reached = http.StatusOK, true // what the backends answer
	}
	return c
}

// Explain says of every cell of the demo's table what the running system does.
func TestExplainAgreesWithTheDemo(t *testing.T) {
	models, remove, err := lab.BundledModels(story.FS, "models", "gs://kfserving-examples/models")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	translated, err := fs.Sub(story.FS, "translated")
	if err != nil {
		t.Fatal(err)
	}
	var states []demo.State
	for _, s := range story.States() {
		states = append(states, demo.State{Title: s.Name, Config: lab.Config{
			Load:      func() (*manifest.Set, error) { return manifest.FS(story.FS, s.Dirs...) },
			Translate: translate.Options{Bundled: translated, Dir: t.TempDir()},
			Storage:   serving.Storage{Mappings: []serving.Mapping{models}},
		}})
	}
	table, err := demo.Run(context.Background(), states, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != len(rows) {
		t.Fatalf("the demo has %d rows, this test %d calls", len(table.Rows), len(rows))
	}
	for i, name := range table.States {
		s := system(t, name)
		for _, r := range table.Rows {
			call, ok := rows[r.Name]
			if !ok {
				t.Fatalf("no call for the demo's row %q", r.Name)
			}
			a, err := s.Explain(context.Background(), call)
			if err != nil {
				t.Errorf("%s, %s: %v", name, r.Name, err)
				continue
			}
			if got, want := cell(a), r.Got[i]; got != want {
				t.Errorf("%s, %s: explain says %s, the system did %s; why: %q", name, r.Name, got, want, a.Why)
			}
		}
	}
}

// why wants every text in some line of the reasons.
func why(t *testing.T, a *explain.Answer, wants ...string) {
	t.Helper()
	all := strings.Join(a.Why, "\n")
	for _, want := range wants {
		if !strings.Contains(all, want) {
			t.Errorf("got reasons\n%s\nwant %q", all, want)
		}
	}
}

func ask(t *testing.T, s *explain.System, c explain.Call) *explain.Answer {
	t.Helper()
	a, err := s.Explain(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestWhoDecided(t *testing.T) {
	for _, tt := range []struct {
		state, row string
		outcome    explain.Outcome
		by         explain.By
	}{
		{"1-login-everywhere", "pod calls the model", explain.Redirected, explain.By{Kind: "EnvoyFilter", Namespace: "istio-system", Name: "authn-filter", Rule: "configPatches[0]", File: "1-login-everywhere/authn-filter.yaml", Line: 5}},
		{"1-login-everywhere", "outside, with a session", explain.Forwarded, explain.By{Kind: "VirtualService", Namespace: "kserve-test", Name: "sklearn-iris-predictor-ingress", Rule: "prefix /", File: "common/models.yaml", Line: 5, Derived: "InferenceService kserve-test/sklearn-iris"}},
		{"3-path-exempt", "pod calls the backend team", explain.Redirected, explain.By{Kind: "AuthorizationPolicy", Namespace: "istio-system", Name: "dex-auth", Rule: "rules[0]", File: "3-path-exempt/dex-auth.yaml", Line: 5}},
		{"4-postern", "pod calls the model", explain.Forwarded, explain.By{Kind: "RoleBinding", Namespace: "kserve-test", Name: "in-cluster", Rule: "ClusterRole postern-open-model rules[0]", File: "4-postern/access.yaml", Line: 6}},
		{"4-postern", "pod calls the backend team", explain.Forwarded, explain.By{Kind: "RoleBinding", Namespace: "backend", Name: "in-cluster", Rule: "ClusterRole postern-open-model rules[1]", File: "4-postern/access.yaml", Line: 20}},
		{"4-postern", "outside calls the model", explain.Refused, explain.By{Kind: "AuthorizationPolicy", Namespace: "istio-system", Name: "postern", Rule: "rules[0]", File: "4-postern/gateway.yaml", Line: 3}},
	} {
		a := ask(t, system(t, tt.state), rows[tt.row])
		got := explain.By{}
		if a.By != nil {
			got = *a.By
		}
		if a.Outcome != tt.outcome || got != tt.by {
			t.Errorf("%s, %s: got %s by %+v, want %s by %+v", tt.state, tt.row, a.Outcome, got, tt.outcome, tt.by)
		}
	}
}

// The attempt changes nothing, and both reasons are said with the refusal.
func TestTheEnvoyFilterAttempt(t *testing.T) {
	why(t, ask(t, system(t, "2-envoyfilter-attempt"), rows["pod calls the model"]),
		`authn-bypass.yaml:9: EnvoyFilter istio-system/bypass-authn-filter: spec.configPatches[0] is merged into a route named "sklearn-iris": the gateway has none of that name`,
		`sets up a filter named "envoy.ext_authz": Envoy looks a route's setting up by the filter's own name`)
}

func TestTheForgedIdentity(t *testing.T) {
	s := system(t, "3-path-exempt")
	why(t, ask(t, s, rows["outside, forged kubeflow-userid"]),
		`at port 8080 of Deployment istio-system/istio-ingressgateway ext_authz was not asked: AuthorizationPolicy istio-system/dex-auth rules[0]`,
		`it wants notPaths ["/v1*"]; the path is /v1/models/sklearn-iris:predict`,
		`at port 8081 of`,
		`the client's own kubeflow-userid: admin@example.com reached the backend, and the connection is the gateway's (service account istio-system/istio-ingressgateway-service-account)`)
	// Near miss: the login named the person itself.
	call := rows["outside, forged kubeflow-userid"]
	call.Session = demo.Forged
	if a := ask(t, system(t, "1-login-everywhere"), call); strings.Contains(strings.Join(a.Why, ""), "the client's own") {
		t.Errorf("got %q: here the login named the person", a.Why)
	}
}

func TestNearest(t *testing.T) {
	s := system(t, "4-postern")
	for _, tt := range []struct {
		call explain.Call
		want string
	}{
		{rows["outside calls the model"], "kubectl create rolebinding NAME -n kserve-test --clusterrole=postern-open-model --group=system:unauthenticated"},
		{explain.Call{URL: model, Headers: host("sklearn-iris.kserve-test.example.com"), Session: "stranger@example.com"}, "--clusterrole=postern-model-caller --user=stranger@example.com"},
		{explain.Call{URL: "http://localhost/", Headers: host("sklearn-iri.kserve-test.example.com"), Door: "8081"}, "host sklearn-iris.kserve-test.example.com, prefix /: VirtualService kserve-test/sklearn-iris"},
		{rows["browser at the dashboard"], "log in (--session USER"},
		{explain.Call{From: "pod:default/myapp-pod", URL: "http://nothing.backend/"}, "a Service of that name and port"},
	} {
		a := ask(t, s, tt.call)
		if a.Exit() != 1 || !strings.Contains(strings.Join(a.Nearest, "\n"), tt.want) {
			t.Errorf("%s %v: got %s, nearest %q, want %q", tt.call.URL, tt.call.Headers, a.Outcome, a.Nearest, tt.want)
		}
	}
}

// A pod's sidecar judges who connects: the gateway by its certificate, a pod without
// a sidecar as nobody.
func TestSidecars(t *testing.T) {
	s := system(t, "1-login-everywhere")
	identity := func(a *explain.Answer) string {
		for _, h := range a.Hops {
			if h.Kind == "sidecar" {
				return h.Text
			}
		}
		return "no sidecar"
	}
	for _, tt := range []struct {
		name     string
		call     explain.Call
		outcome  explain.Outcome
		status   int
		backend  string
		by       string
		identity string
	}{
		{"through the gateway", explain.Call{URL: "http://localhost/pipeline/", Session: demo.User}, explain.Forwarded, 0, "kubeflow/ml-pipeline-ui:80",
			"VirtualService kubeflow/ml-pipeline-ui", "from spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account (mutual TLS)"},
		{"a pod by itself", explain.Call{From: "pod:default/myapp-pod", URL: "http://ml-pipeline-ui.kubeflow/"}, explain.Refused, 403, "",
			"AuthorizationPolicy kubeflow/ml-pipeline-ui", "in plaintext, nobody of the mesh (the client has no sidecar)"},
		{"a pod with a sidecar", explain.Call{From: "pod:kubeflow/kfserving-models-web-app", URL: "http://ml-pipeline-ui.kubeflow/"}, explain.Refused, 403, "",
			"AuthorizationPolicy kubeflow/ml-pipeline-ui", "from spiffe://cluster.local/ns/kubeflow/sa/kfserving-models-web-app (mutual TLS)"},
		{"a pod without a sidecar", explain.Call{From: "pod:default/myapp-pod", URL: "http://centraldashboard.kubeflow/"}, explain.Forwarded, 0, "kubeflow/centraldashboard:80", "", "no sidecar"},
	} {
		a := ask(t, s, tt.call)
		by := ""
		if a.By != nil {
			by = a.By.Kind + " " + a.By.Namespace + "/" + a.By.Name
		}
		if a.Outcome != tt.outcome || a.Status != tt.status || a.Backend != tt.backend || by != tt.by || !strings.Contains(identity(a), tt.identity) {
			t.Errorf("%s: got %s %d %s by %q, %s; why: %q", tt.name, a.Outcome, a.Status, a.Backend, by, identity(a), a.Why)
		}
	}
	a := ask(t, s, explain.Call{From: "pod:default/myapp-pod", URL: "http://ml-pipeline-ui.kubeflow/"})
	why(t, a, "no ALLOW policy at the sidecar of pod kubeflow/ml-pipeline-ui-1 matches the call", "the call meets no gateway")
	if got := strings.Join(a.Nearest, "\n"); !strings.Contains(got, `it wants namespaces ["istio-system"]`) {
		t.Errorf("got nearest %q, want what the policy allows", got)
	}
}

// An authorizer that names somebody by a header its filter does not pass on does
// not hide the client's own.
func TestTheLoginsNameIsNotTheClients(t *testing.T) {
	call := rows["outside, forged kubeflow-userid"]
	call.Authz = &explain.Authz{Status: http.StatusOK, Headers: [][2]string{{"x-other", "x"}}}
	why(t, ask(t, system(t, "1-login-everywhere"), call), "the client's own kubeflow-userid: admin@example.com")
	call.Authz.Headers = [][2]string{{"kubeflow-userid", demo.User}}
	a := ask(t, system(t, "1-login-everywhere"), call)
	if got := cell(a).Identity; got != demo.User || strings.Contains(strings.Join(a.Why, ""), "the client's own") {
		t.Errorf("got %s, %q", got, a.Why)
	}
}
