package territory

import (
	"errors"
	"strings"
	"testing"

	"postern.dev/postern/internal/manifest"

	corev1 "k8s.io/api/core/v1"
)

// TestRevisions: which revision of a component is served changes with every update of
// a model, and so may the number of revisions; another component's is not the model.
func TestRevisions(t *testing.T) {
	const host = "iris-predictor.kserve-test.svc.cluster.local"
	to := func(name string) string {
		return "{destination: {host: " + name + ".kserve-test.svc.cluster.local, port: {number: 80}}, headers: {request: {set: {Knative-Serving-Revision: x}}}}"
	}
	const derived = "{destination: {host: iris-predictor-00001.kserve-test.svc.cluster.local, port: {number: 80}}}"
	service := "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: iris-predictor-00003, namespace: kserve-test}\nspec: {type: ExternalName, externalName: a.b.svc.cluster.local}\n"
	for _, tt := range []struct {
		name, routes, more string
		want               Kind
	}{
		{"the first", to("iris-predictor-00001"), "", Model},
		{"a later one", to("iris-predictor-00042"), "", Model},
		{"two", to("iris-predictor-00002") + ", " + to("iris-predictor-00003"), "", Model},
		{"another component's", to("iris-transformer-00001"), "", People},
		{"one of two", to("iris-predictor-00002") + ", " + to("own"), "", People},
		{"a Service whose name begins so", to("iris-predictor-00002-x"), "", People},
		{"no number", to("iris-predictor-latest"), "", People},
		{"another namespace's", strings.ReplaceAll(to("iris-predictor-00001"), "kserve-test", "other"), "", People},
		{"another port", strings.ReplaceAll(to("iris-predictor-00002"), "80", "81"), "", People},
		{"one that leads away", to("iris-predictor-00002") + ", " + to("iris-predictor-00003"), service, People},
		{"none", "", "", People},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vs := strings.ReplaceAll(modelOf(knativeVS, "kserve-test", "iris"), derived, tt.routes)
			if strings.Contains(vs, derived) {
				t.Fatal("the routes are as before")
			}
			got := compileMap(t, Config{}, vs+tt.more).At(8081, host, "/", "GET")
			if (got.Kind == Model) != (tt.want == Model) {
				t.Errorf("got %s %s", got.Kind, got.Detail)
			}
		})
	}
}

// TestUnread: a live object that is not understood whole is nobody's model or
// application, and makes the hosts that it claims uncertain.
func TestUnread(t *testing.T) {
	compile := func(unread func(*manifest.Object) bool, texts ...string) *Map {
		t.Helper()
		set, err := manifest.Bytes("t.yaml", []byte(strings.Join(append([]string{gateways, virtualService("backend", "web", webSpec)}, texts...), "\n---\n")))
		if err != nil {
			t.Fatal(err)
		}
		derived, err := derive(set)
		if err != nil {
			t.Fatal(err)
		}
		set = set.With(derived...)
		for o := range set.All() {
			if unread(o) {
				o.Unread = errors.New("a field of a later API")
			}
		}
		m, err := Compile(set, Config{Derive: derive, Doors: []Door{{"kubeflow/kubeflow-gateway", 8080}}, Namespaces: []string{"kubeflow", "knative-serving"}})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	at := func(m *Map, host string) Territory { return m.At(8080, host, "/", "GET") }
	nothing := compile(func(*manifest.Object) bool { return false })
	if at(nothing, "web.example.com").Kind != Application || at(nothing, "iris.kserve-test.example.com").Kind != Model {
		t.Fatal("as they are, they are an application and a model")
	}
	m := compile(func(o *manifest.Object) bool { return o.Kind == "VirtualService" && o.Meta.Name == "web" })
	if got := at(m, "web.example.com"); got.Kind != People {
		t.Errorf("an application's: got %s", got.Kind)
	}
	if got := at(m, "iris.kserve-test.example.com"); got.Kind != Model {
		t.Errorf("somebody else's model: got %s", got.Kind)
	}
	second := virtualService("backend", "second", strings.Replace(webSpec, "http:", "tcp: [], http:", 1))
	m = compile(func(o *manifest.Object) bool { return o.Meta.Name == "second" }, second)
	if got := at(m, "web.example.com"); got.Reason != AmbiguousRoute {
		t.Errorf("another one on the application's host: got %s %s", got.Kind, got.Reason)
	}
	m = compile(func(o *manifest.Object) bool { return o.Kind == "Gateway" })
	for _, host := range []string{"web.example.com", "iris.kserve-test.example.com"} {
		if got := at(m, host); got.Kind != People {
			t.Errorf("%s behind a Gateway that is not understood: got %s", host, got.Kind)
		}
	}
}

// TestMeshUnreadable: with the mesh's settings unreadable no VirtualService is at a
// door for certain, unless it says so itself; and it is said.
func TestMeshUnreadable(t *testing.T) {
	set, err := manifest.Bytes("t.yaml", []byte(gateways+"\n---\n"+virtualService("backend", "web", webSpec)+"\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: ''}\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, cm, _ := manifest.Find[*corev1.ConfigMap](set, "istio-system", "istio")
	cm.Data["mesh"] = "defaultVirtualServiceExportTo: {"
	m, err := Compile(set, Config{Derive: derive, Doors: []Door{{"kubeflow/kubeflow-gateway", 8080}}, Namespaces: []string{"kubeflow", "istio-system"}})
	if err != nil || m.Underived() == nil || !strings.Contains(m.Underived().Error(), "data.mesh") {
		t.Fatalf("got %v, %v", err, m.Underived())
	}
	if got := m.At(8080, "web.example.com", "/", "GET"); got.Kind != People {
		t.Errorf("got %s, want people", got.Kind)
	}
}
