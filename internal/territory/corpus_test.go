package territory

import (
	"os"
	"path/filepath"
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
