package kserve

import (
	"path/filepath"
	"strings"
	"testing"

	"postern.dev/postern/internal/manifest"

	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
)

const graph = `
apiVersion: serving.kserve.io/v1alpha1
kind: InferenceGraph
metadata: {name: isvc-sklearn-predictor, namespace: kubeflow-user-example-com}
spec:
  nodes:
    root:
      routerType: Sequence
      steps: [{serviceName: a}, {serviceName: b, data: $response, condition: "x", weight: 1, dependency: Hard}]
  routerTimeouts: {serverRead: 5}
  minReplicas: 1
  serviceAccountName: walker
`

// TestGraph: a graph is a Knative Service like a predictor of its name, so
// net-istio writes the same VirtualServices for it.
func TestGraph(t *testing.T) {
	got := derived(t, strings.Replace(gateways, "data:\n", "data:\n  router: '{\"image\": \"kserve/router:v1\"}'\n", 1)+exampleCom+graph)
	var list []string
	for o := range got.Sorted() {
		list = append(list, o.Kind+" "+o.Meta.Name)
		if o.Derived != "InferenceGraph kubeflow-user-example-com/isvc-sklearn-predictor" {
			t.Errorf("%s: derived from %q", o, o.Derived)
		}
	}
	if want := "Pod isvc-sklearn-predictor-00001-deployment-1,Service isvc-sklearn-predictor,Service isvc-sklearn-predictor-00001," +
		"VirtualService isvc-sklearn-predictor-ingress,VirtualService isvc-sklearn-predictor-mesh"; strings.Join(list, ",") != want {
		t.Errorf("got %q", list)
	}
	pod, _ := got.Get("", "Pod", "kubeflow-user-example-com", "isvc-sklearn-predictor-00001-deployment-1")
	p := pod.Value.(*corev1.Pod)
	if p.Spec.ServiceAccountName != "walker" || p.Spec.Containers[0].Image != "kserve/router:v1" ||
		p.Labels["serving.kserve.io/inferencegraph"] != "isvc-sklearn-predictor" || p.Labels["serving.kserve.io/inferenceservice"] != "" {
		t.Errorf("got %+v %v", p.Spec, p.Labels)
	}
	want, err := manifest.Files([]string{filepath.Join(corpus, "derived/knative-vs-external.yaml")}, nil)
	if err != nil {
		t.Skipf("no corpus of real objects here: %v", err)
	}
	for o, vs := range manifest.Of[*networking.VirtualService](want) {
		same(t, got, o, vs)
	}
}

func TestGraphRefused(t *testing.T) {
	for _, tt := range []struct{ old, new, want string }{
		{"metadata: {", "metadata: {annotations: {serving.kserve.io/deploymentMode: RawDeployment}, ", "InferenceGraph kubeflow-user-example-com/isvc-sklearn-predictor: metadata.annotations"},
		{"name: isvc-sklearn-predictor", "name: " + strings.Repeat("a", 60), "at most 63"},
		{"name: isvc-sklearn-predictor", "name: isvc-sklearn", "would also be that of"},
	} {
		objects, err := Derive(set(t, gateways+exampleCom+model+"---"+strings.Replace(graph, tt.old, tt.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.new, err, tt.want)
		}
		if len(objects) < 7 {
			t.Errorf("%s: got %d objects, want the model's 7", tt.new, len(objects))
		}
	}
	if objects, err := Derive(set(t, gateways+strings.Replace(graph, "metadata: {", "metadata: {annotations: {serving.kserve.io/stop: 'true'}, ", 1))); err != nil || len(objects) > 0 {
		t.Errorf("stopped: got %d %v", len(objects), err)
	}
	if _, err := Derive(set(t, graph)); err == nil {
		t.Error("without settings: no error")
	}
}
