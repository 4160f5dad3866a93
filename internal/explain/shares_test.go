package explain_test

import (
	"encoding/json"
	"strings"
	"testing"

	"postern.dev/postern/internal/explain"
)

// A route with weights: the answer tells one way, and names the others with their ends.
func TestWeights(t *testing.T) {
	const one = `"cluster": "outbound|80||ml-pipeline-ui.kubeflow.svc.cluster.local",`
	dump := readDump(t)
	at := strings.Index(dump, "\"route\": {\n                  "+one)
	if at < 0 {
		t.Fatal("the dump has no route to ml-pipeline-ui")
	}
	const weighted = `"weightedClusters": {"clusters": [
	 {"name": "outbound|80|v0|ml-pipeline-ui.kubeflow.svc.cluster.local", "weight": 0},
	 {"name": "outbound|80||ml-pipeline-ui.kubeflow.svc.cluster.local", "weight": 10},
	 {"name": "outbound|80||centraldashboard.kubeflow.svc.cluster.local", "weight": 30},
	 {"name": "outbound|80|v2|gone.kubeflow.svc.cluster.local", "weight": 60}]},`
	s := fromDump(t, dump[:at]+strings.Replace(dump[at:], one, weighted, 1), nil)
	a := ask(t, s, explain.Call{URL: "http://localhost/pipeline/", Session: "u@x"})
	if a.Outcome != explain.Forwarded || a.Backend != "kubeflow/ml-pipeline-ui:80" {
		t.Fatalf("got %s %s, %q", a.Outcome, a.Backend, a.Why)
	}
	got, err := json.Marshal(a.Hops[len(a.Hops)-1].Shares)
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"backend":"kubeflow/ml-pipeline-ui:80","weight":10,"of":100,"taken":true,"outcome":"forwarded","status":0},` +
		`{"backend":"kubeflow/centraldashboard:80","weight":30,"of":100,"taken":false,"outcome":"forwarded","status":0},` +
		`{"backend":"kubeflow/gone:80","subset":"v2","weight":60,"of":100,"taken":false,"outcome":"refused","status":503}]`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	const assumed = "the route's weights choose kubeflow/ml-pipeline-ui:80; 30 of 100 calls go to kubeflow/centraldashboard:80: forwarded; 60 of 100 calls go to kubeflow/gone:80 subset v2: refused with 503"
	if !strings.Contains(strings.Join(a.Assumed, "\n"), assumed) {
		t.Errorf("got assumed %q, want %q", a.Assumed, assumed)
	}
	var text strings.Builder
	if err := explain.Write(&text, a); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"by weight: 10 of 100 calls go to kubeflow/ml-pipeline-ui:80: forwarded (this walk)", "by weight: 60 of 100 calls go to kubeflow/gone:80 subset v2: refused with 503"} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("got\n%s\nwant a line %q", text.String(), line)
		}
	}

	// Refused before the choice: no alternative is worth a word.
	if a = ask(t, s, explain.Call{URL: "http://localhost/pipeline/", Authz: &explain.Authz{Status: 403}}); a.Outcome != explain.Refused || strings.Contains(strings.Join(a.Assumed, "\n"), "weights") {
		t.Errorf("got %s, assumed %q", a.Outcome, a.Assumed)
	}
	// A route to one backend has none.
	a = ask(t, s, explain.Call{URL: "http://localhost/", Session: "u@x"})
	for _, h := range a.Hops {
		if len(h.Shares) > 0 {
			t.Errorf("a route to one backend: got %v", h.Shares)
		}
	}
}
