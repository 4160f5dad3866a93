package territory

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
)

// corpus is where the lead keeps the real objects; it is not part of the repository.
const corpus = "../../../shared/corpus"

// TestCorpus judges real releases with the VirtualServices that the controllers
// themselves made, and with those derived here.
func TestCorpus(t *testing.T) {
	const isvc = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: isvc-sklearn, namespace: kubeflow-user-example-com}\nspec: {predictor: {sklearn: {storageUri: 'gs://x/y'}}}\n"
	model := access.Model("kubeflow-user-example-com", "isvc-sklearn")
	for _, tt := range []struct {
		release string
		inner   string // the Gateway at 8081
		files   []string
		hosts   map[string]access.Resource // at 8080
	}{
		{"v1.4.0-shared", "knative-serving/knative-local-gateway", nil, nil}, // no domain: internal only
		{"v1.8.1-shared", "knative-serving/knative-local-gateway", []string{"kserve-vs-internal.yaml", "knative-vs-internal.yaml"}, nil},
		{"v1.10.2", "knative-serving/knative-local-gateway", []string{"kserve-vs-external.yaml", "knative-vs-external.yaml"}, map[string]access.Resource{"isvc-sklearn.kubeflow-user-example-com.example.com": model}},
	} {
		t.Run(tt.release, func(t *testing.T) {
			if _, err := os.Stat(filepath.Join(corpus, tt.release)); err != nil {
				t.Skipf("no corpus of real objects here: %v", err)
			}
			files := []string{"-"}
			for _, f := range []string{"gateways.yaml", "virtualservices.yaml", "kserve-config.yaml", "knative-config.yaml", "meshconfig.yaml"} {
				files = append(files, filepath.Join(corpus, tt.release, f))
			}
			for _, f := range tt.files {
				files = append(files, filepath.Join(corpus, "derived", f))
			}
			set, err := manifest.Files(files, strings.NewReader(isvc))
			if err != nil {
				t.Fatal(err)
			}
			derived, err := kserve.Derive(set)
			if err != nil {
				t.Fatal(err)
			}
			m, err := Compile(set.With(derived...), Config{
				Doors:      []Door{{"kubeflow/kubeflow-gateway", 8080}, {"istio-system/istio-ingressgateway", 8080}, {tt.inner, 8081}},
				Namespaces: []string{"kubeflow", "istio-system", "knative-serving", "auth", "oauth2-proxy"},
				Derive:     kserve.Derive,
			})
			if err != nil {
				t.Fatal(err)
			}
			if m.Underived() != nil {
				t.Error(m.Underived())
			}
			for host, want := range tt.hosts {
				if got := m.At(8080, host, "/v1/models/isvc-sklearn:predict", "POST"); got.Resource != want {
					t.Errorf("%s: got %s %+v", host, got.Kind, got)
				}
			}
			for _, host := range []string{
				"isvc-sklearn.kubeflow-user-example-com.svc.cluster.local", "isvc-sklearn-predictor.kubeflow-user-example-com.svc.cluster.local", "isvc-sklearn-predictor.kubeflow-user-example-com",
			} {
				if got := m.At(8081, host, "/", "GET"); got.Kind != Model || got.Resource != model {
					t.Errorf("%s: got %s %+v", host, got.Kind, got)
				}
			}
			for _, host := range []string{"localhost:8080", "kubeflow.example.com", "example.com"} {
				if got := m.At(8080, host, "/v1", "GET"); got.Kind != People {
					t.Errorf("%s: got %s, want people", host, got.Kind)
				}
			}
		})
	}
}

// TestGraph: an InferenceGraph is called by its Knative Service's names.
func TestGraph(t *testing.T) {
	if _, err := os.Stat(filepath.Join(corpus, "v1.10.2")); err != nil {
		t.Skipf("no corpus of real objects here: %v", err)
	}
	files := []string{"-"}
	for _, f := range []string{"gateways.yaml", "virtualservices.yaml", "kserve-config.yaml", "knative-config.yaml", "meshconfig.yaml"} {
		files = append(files, filepath.Join(corpus, "v1.10.2", f))
	}
	const graph = "apiVersion: serving.kserve.io/v1alpha1\nkind: InferenceGraph\nmetadata: {name: walk, namespace: tenant, annotations: {postern.dev/allowed-origins: 'https://a.example.com'}}\nspec: {nodes: {root: {routerType: Sequence, steps: [{serviceName: iris}]}}}\n"
	set, err := manifest.Files(files, strings.NewReader(graph))
	if err != nil {
		t.Fatal(err)
	}
	derived, err := kserve.Derive(set)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Compile(set.With(derived...), Config{
		Doors:      []Door{{"kubeflow/kubeflow-gateway", 8080}, {"knative-serving/knative-local-gateway", 8081}},
		Namespaces: []string{"kubeflow", "istio-system", "knative-serving", "auth", "oauth2-proxy"}, Derive: kserve.Derive,
	})
	if err != nil || m.Underived() != nil {
		t.Fatal(err, m.Underived())
	}
	for host, port := range map[string]uint16{"walk.tenant.example.com": 8080, "walk.tenant.svc.cluster.local": 8081, "walk.tenant": 8081} {
		if got := m.At(port, host, "/", "POST"); got.Kind != Model || got.Resource != access.Graph("tenant", "walk") || len(got.Origins) != 1 {
			t.Errorf("%s: got %s %+v", host, got.Kind, got)
		}
	}
}

// TestPathTemplate judges Kubeflow 26.03, where all models share a host: with the
// VirtualService that KServe itself made, and many that are derived.
func TestPathTemplate(t *testing.T) {
	if _, err := os.Stat(filepath.Join(corpus, "26.03")); err != nil {
		t.Skipf("no corpus of real objects here: %v", err)
	}
	files := []string{"-", filepath.Join(corpus, "derived", "kserve-vs-26.03-pathtemplate.yaml"), filepath.Join(corpus, "derived", "knative-vs-external.yaml")}
	for _, f := range []string{"gateways.yaml", "virtualservices.yaml", "kserve-config.yaml", "knative-config.yaml", "meshconfig.yaml"} {
		files = append(files, filepath.Join(corpus, "26.03", f))
	}
	isvc := func(ns, name, more string) string {
		return "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: " + name + ", namespace: " + ns + "}\nspec: {predictor: {sklearn: {storageUri: 'gs://x/y'}}" + more + "}\n---\n"
	}
	const vs = "apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata: {name: %, namespace: tenant}\nspec: {gateways: [kubeflow/kubeflow-gateway], hosts: [example.com], http: [{match: [{uri: {prefix: /mine/}}], route: [{destination: {host: web}}]}]}\n---\n"
	models := isvc("kubeflow-user-example-com", "isvc-sklearn", "") + isvc("tenant", "iris", "") + isvc("tenant", "iris2", "") +
		isvc("tenant", "why", ", explainer: {containers: [{name: e, image: e:1}]}")
	compile := func(text string) *Map {
		t.Helper()
		set, err := manifest.Files(files, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		derived, err := kserve.Derive(set)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Compile(set.With(derived...), Config{
			Doors:      []Door{{"kubeflow/kubeflow-gateway", 8080}, {"istio-system/istio-ingressgateway", 8080}, {"knative-serving/knative-local-gateway", 8081}},
			Namespaces: []string{"kubeflow", "istio-system", "knative-serving", "auth", "oauth2-proxy"},
			Derive:     kserve.Derive,
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := compile(models)
	for _, tt := range []struct {
		path string
		want access.Resource // zero: refused
	}{
		{"/serving/kubeflow-user-example-com/isvc-sklearn/v1/models/x:predict", access.Model("kubeflow-user-example-com", "isvc-sklearn")},
		{"/serving/kubeflow-user-example-com/isvc-sklearn", access.Model("kubeflow-user-example-com", "isvc-sklearn")},
		{"/serving/tenant/iris/", access.Model("tenant", "iris")},
		{"/serving/tenant/iris2/", access.Model("tenant", "iris2")},
		{"/serving/tenant/iris/../iris2/", access.Model("tenant", "iris")}, // Envoy has normalised the path; if not, it takes this one too
		{"/serving/tenant/why/v1/models/x:explain", access.Model("tenant", "why")},
		{"/serving/tenant/irisx", access.Resource{}},
		{"/serving/tenant/", access.Resource{}},
		{"/serving/tenant/IRIS/", access.Resource{}},
		{"//serving/tenant/iris/", access.Resource{}},
		{"/serving/tenant%2Firis/", access.Resource{}},
		{"/serving//tenant/iris/", access.Resource{}},
		{"/", access.Resource{}},
		{"/v1/models/iris:predict", access.Resource{}},
		{"/x/serving/tenant/iris/", access.Resource{}},
	} {
		got := m.At(8080, "example.com:80", tt.path, "POST")
		if got.Resource != tt.want || (got.Kind == Model) != (tt.want != access.Resource{}) || got.Kind == People {
			t.Errorf("%s: got %s %s (%s)", tt.path, got.Kind, got.Resource, got.Reason)
		}
		if got.Kind == Model && (!got.Shared || len(got.VirtualServices) != 1) {
			t.Errorf("%s: got %+v, want a shared host", tt.path, got)
		}
	}
	for _, host := range []string{"iris.tenant.example.com", "iris.tenant.svc.cluster.local"} {
		port := uint16(8080)
		if strings.HasSuffix(host, "local") {
			port = 8081
		}
		if got := m.At(port, host, "/v1", "GET"); got.Resource != access.Model("tenant", "iris") || got.Shared {
			t.Errorf("%s: got %+v", host, got)
		}
	}
	if got := m.At(8080, "kubeflow.example.com", "/serving/tenant/iris/", "GET"); got.Kind != People {
		t.Errorf("Kubeflow's own host: got %s", got.Kind)
	}
	// Anything else on that host, and nothing on it can be told.
	m = compile(models + strings.Replace(vs, "%", "guest", 1))
	for _, path := range []string{"/serving/tenant/iris/", "/mine/"} {
		if got := m.At(8080, "example.com", path, "GET"); got.Kind != Refused || got.Reason != AmbiguousHost {
			t.Errorf("with a guest, %s: got %s %s", path, got.Kind, got.Reason)
		}
	}
	// One that is not what KServe writes for it.
	m = compile(models + strings.Replace(vs, "%", "iris", 1))
	if got := m.At(8080, "example.com", "/serving/tenant/iris2/", "GET"); got.Kind != Refused {
		t.Errorf("with a forged one: got %s", got.Kind)
	}
	var many strings.Builder
	for n := range 200 {
		many.WriteString(isvc("many", "m"+strconv.Itoa(n), ""))
	}
	m = compile(models + many.String())
	if got := m.At(8080, "example.com", "/serving/many/m199/v1", "GET"); got.Resource != access.Model("many", "m199") {
		t.Errorf("of many: got %+v", got.Resource)
	}
	// They are found by their paths, not one after the other: only the explainer's is
	// a regular expression.
	if p := m.doors[8080].exact["example.com"].byPath; len(p.others) != 1 || len(p.begin) != 2*(4+200) {
		t.Errorf("got %d routes by path and %d others", len(p.begin), len(p.others))
	}
}
