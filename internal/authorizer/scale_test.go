package authorizer

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime"
	"testing"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/apikey"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/territory"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// largeCluster is the story's cluster and besides that many models, keys and
// bindings. text is the last key, which has a rule for the last model.
func largeCluster(b *testing.B, cfg Config, models, keys, bindings int) (s *Snapshot, text, host string) {
	b.Helper()
	const settings = `
apiVersion: v1
kind: ConfigMap
metadata: {name: inferenceservice-config, namespace: kubeflow}
data:
  ingress: '{"ingressGateway": "kubeflow/kubeflow-gateway", "localGateway": "knative-serving/knative-local-gateway", "localGatewayService": "knative-local-gateway.istio-system.svc.cluster.local"}'
---
apiVersion: v1
kind: ConfigMap
metadata: {name: config-domain, namespace: knative-serving}
data: {example.com: ""}
`
	base, err := manifest.Bytes("cluster.yaml", []byte(cluster+"\n---\n"+settings))
	if err != nil {
		b.Fatal(err)
	}
	var objects []*manifest.Object
	add := func(apiVersion, kind, namespace, name string, value any) {
		objects = append(objects, &manifest.Object{APIVersion: apiVersion, Kind: kind, Meta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Value: value})
	}
	namespace := func(i int) string { return fmt.Sprintf("ns%d", i%max(bindings, 1)) }
	for i := range models {
		v := &manifest.InferenceService{}
		v.Namespace, v.Name, v.Spec.Predictor.SKLearn = namespace(i), fmt.Sprintf("m%d", i), &manifest.FrameworkSpec{}
		add("serving.kserve.io/v1beta1", "InferenceService", v.Namespace, v.Name, v)
		host = v.Name + "." + v.Namespace + ".example.com"
	}
	for i := range keys {
		v := &manifest.APIKey{}
		if text, v.Spec, err = apikey.New(rand.Reader, namespace(i), fmt.Sprintf("k%d", i)); err != nil {
			b.Fatal(err)
		}
		add("apikeys.postern.dev/v1alpha1", "ApiKey", namespace(i), fmt.Sprintf("k%d", i), v)
	}
	for i := range bindings {
		v := &rbacv1.RoleBinding{
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "postern-model-caller"},
			Subjects: []rbacv1.Subject{{Kind: "Group", Name: fmt.Sprintf("postern:keys:ns%d", (keys-1)%bindings)}, {Kind: "User", Name: fmt.Sprintf("u%d@example.com", i)}},
		}
		add("rbac.authorization.k8s.io/v1", "RoleBinding", namespace(i), "callers", v)
	}
	set := base.With(objects...)
	derived, err := kserve.Derive(set)
	if err != nil {
		b.Fatal(err)
	}
	set = set.With(derived...)
	s = &Snapshot{Pods: credential.NewPods(nil, cfg.PodRules()), APIKeys: credential.NewAPIKeys(set)}
	if s.Rules, err = access.Compile(set); err != nil {
		b.Fatal(err)
	}
	if s.Map, err = territory.Compile(set, cfg.Territory(kserve.Derive)); err != nil {
		b.Fatal(err)
	}
	return s, text, host
}

// BenchmarkScale: a check costs the same whatever the cluster's size. heap-MB is
// what the snapshot keeps, without the objects it is made of.
func BenchmarkScale(b *testing.B) {
	for _, size := range []struct{ models, keys, bindings int }{{10, 10, 10}, {10_000, 100_000, 1_000}} {
		b.Run(fmt.Sprintf("%d-models-%d-keys-%d-bindings", size.models, size.keys, size.bindings), func(b *testing.B) {
			f := newFixture(b, testConfig())
			f.Authorizer.log = slog.New(slog.DiscardHandler)
			f.Swap(nil)
			before := heap()
			s, text, host := largeCluster(b, testConfig(), size.models, size.keys, size.bindings)
			f.Swap(s)
			kept := heap() - before
			req := ask(8080, outside, "POST", host, predictPath, "authorization: Bearer "+text, "content-type: application/json")
			b.ReportAllocs()
			for b.Loop() {
				if v := f.Decide(b.Context(), req); !v.Allow {
					b.Fatal(v.Reason, v.Message)
				}
			}
			b.ReportMetric(float64(kept)/(1<<20), "heap-MB")
		})
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
