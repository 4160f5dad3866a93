package story

import (
	"testing"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/territory"

	corev1 "k8s.io/api/core/v1"
)

// TestTerritories: state 4's configuration is one that posternd reads, and with it
// the models and the backend team's application are told from what is people's.
func TestTerritories(t *testing.T) {
	set, _ := load(t, States()[3])
	o, cm, ok := manifest.Find[*corev1.ConfigMap](set, "postern-system", "posternd")
	if !ok {
		t.Fatal("no ConfigMap posternd")
	}
	config, err := authorizer.ParseConfig(o.Source.File, []byte(cm.Data["config.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	m, err := territory.Compile(set, config.Territory(kserve.Derive))
	if err != nil {
		t.Fatal(err)
	}
	const predict = "/v1/models/sklearn-iris:predict"
	for _, tt := range []struct {
		port       uint16
		host, path string
		kind       territory.Kind
		name       string
	}{
		{8081, "sklearn-iris.kserve-test.svc.cluster.local", predict, territory.Model, "kserve-test/sklearn-iris"},
		{8081, "sklearn-iris-predictor.kserve-test.svc.cluster.local", predict, territory.Model, "kserve-test/sklearn-iris"},
		{8080, "sklearn-iris.kserve-test.example.com", predict, territory.Model, "kserve-test/sklearn-iris"},
		{8080, "fraud.team-b.example.com", "/v1/models/fraud:predict", territory.Model, "team-b/fraud"},
		{8081, "orders-api.backend.svc.cluster.local", "/", territory.Application, "backend/orders"},
		{8080, "orders.example.com", "/", territory.Application, "backend/orders"},
		{8080, "localhost:8080", "/", territory.People, ""},
		{8080, "localhost:8080", predict, territory.People, ""}, // a path decides nothing
		{8080, "kubeflow.example.com", "/pipeline/", territory.People, ""},
		{8081, "centraldashboard.kubeflow.svc.cluster.local", "/", territory.People, ""},
		{9999, "sklearn-iris.kserve-test.svc.cluster.local", predict, territory.Refused, ""},
	} {
		got := m.At(tt.port, tt.host, tt.path, "POST")
		name := ""
		if got.Resource.Name != "" {
			name = got.Resource.Namespace + "/" + got.Resource.Name
		}
		if got.Kind != tt.kind || name != tt.name {
			t.Errorf("%d %s%s: got %s %s (%s %s), want %s %s", tt.port, tt.host, tt.path, got.Kind, name, got.Reason, got.Detail, tt.kind, tt.name)
		}
	}
}
