package snapshot

import (
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/manifest"
)

const good = `
apiVersion: v1
kind: ConfigMap
metadata: {name: inferenceservice-config, namespace: kubeflow}
data:
  ingress: |
    {"ingressGateway": "kubeflow/kubeflow-gateway", "ingressService": "istio-ingressgateway.istio-system.svc.cluster.local",
     "localGateway": "knative-serving/knative-local-gateway", "localGatewayService": "knative-local-gateway.istio-system.svc.cluster.local"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: config-istio, namespace: knative-serving}
data:
  gateway.kubeflow.kubeflow-gateway: istio-ingressgateway.istio-system.svc.cluster.local
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: iris, namespace: team-a}
spec: {predictor: {model: {modelFormat: {name: sklearn}, storageUri: "gs://x"}}}
`

func read(t *testing.T, more string) *authorizer.Snapshot {
	t.Helper()
	cfg, err := authorizer.ParseConfig("c", []byte("doors: [{gateway: kubeflow/kubeflow-gateway, port: 8080}]\nrouting: derived\n"))
	if err != nil {
		t.Fatal(err)
	}
	set, err := manifest.FS(fstest.MapFS{"d/f.yaml": {Data: []byte(good + "---\n" + more)}}, "d")
	if err != nil {
		t.Fatal(err)
	}
	snap, err := Read(set, netip.Prefix{}, cfg)
	if err != nil {
		t.Fatalf("no snapshot at all: %v", err)
	}
	return snap
}

// TestOneObjectStopsNoOther: a tenant's object that is not understood keeps no
// other tenant's from being judged, a revocation included.
func TestOneObjectStopsNoOther(t *testing.T) {
	isvc := func(name, annotations, spec string) string {
		return "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: " + name + ", namespace: team-b, annotations: {" + annotations + "}}\nspec: {predictor: {" + spec + "model: {modelFormat: {name: sklearn}, storageUri: gs://x}}}\n"
	}
	for _, tt := range []struct{ name, more, says string }{
		{"nothing", "", ""},
		{"canary", isvc("a", "", "canaryTrafficPercent: 50, "), "InferenceService team-b/a: spec.predictor.canaryTrafficPercent"},
		{"RawDeployment", isvc("a", "serving.kserve.io/deploymentMode: RawDeployment", ""), "InferenceService team-b/a: metadata.annotations"},
		{"two claim one name", isvc("a", "", "") + "---\n" + isvc("a-predictor", "", ""), "team-b/a-predictor would also be that of"},
		{"replicas", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, namespace: team-b}\nspec: {replicas: 20000, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}}\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := read(t, tt.more).Map.Underived()
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
		})
	}
}

// TestLivePods: whose an address is, of pods as the cluster shows them.
func TestLivePods(t *testing.T) {
	pod := func(name, phase, addr string) string {
		return "---\napiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", namespace: team-a}\nspec: {serviceAccountName: " + name + ", containers: [{name: c, image: i}]}\nstatus: {phase: " + phase + ", podIP: \"" + addr + "\"}\n"
	}
	p := read(t, pod("lives", "Running", "10.9.9.9")+pod("ended", "Succeeded", "10.9.9.9")+pod("both", "Running", "10.9.9.7")+pod("too", "Running", "10.9.9.7")+
		pod("mapped", "Running", "::ffff:10.9.9.8")+pod("nowhere", "Pending", "")+pod("six", "Running", "fd00::1")+
		pod("here", "Running", "127.0.0.1")+pod("here-mapped", "Running", "::ffff:127.0.0.1")+pod("everywhere", "Running", "0.0.0.0")+pod("link", "Running", "169.254.169.254")+pod("wrong", "Running", "x")).Pods
	for addr, want := range map[string]string{
		"10.9.9.9": "postern:pod:team-a:lives", "10.9.9.8": "postern:pod:team-a:mapped", "fd00::1": "postern:pod:team-a:six",
		"10.9.9.7": "", "127.0.0.1": "", "::1": "", "0.0.0.0": "", "169.254.169.254": "",
	} {
		c, ok, why := p.Caller(netip.MustParseAddr(addr))
		if c.User != want || ok != (want != "") {
			t.Errorf("%s: got %q %t %s, want %q", addr, c.User, ok, why, want)
		}
	}
}

// TestUpdate: part by part comes to the same as all at once.
func TestUpdate(t *testing.T) {
	cfg, err := authorizer.ParseConfig("c", []byte("doors: [{gateway: kubeflow/kubeflow-gateway, port: 8080}]\nrouting: derived\n"))
	if err != nil {
		t.Fatal(err)
	}
	set, err := manifest.Bytes("f.yaml", []byte(good+"---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: team-a}\nspec: {containers: [{name: c, image: i}]}\nstatus: {phase: Running, podIP: 10.9.9.9}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var snap *authorizer.Snapshot
	for p := range Parts {
		of := map[string]bool{}
		for _, kind := range p.Of() {
			of[kind] = true
		}
		var mine []*manifest.Object
		for o := range set.All() {
			if of[o.Group()+"/"+o.Kind] {
				mine = append(mine, o)
			}
		}
		part, err := manifest.New(mine...)
		if err != nil {
			t.Fatal(err)
		}
		next, problems, err := Update(snap, p, part, cfg)
		if err != nil || problems != nil {
			t.Fatal(p, err, problems)
		}
		snap = next
	}
	if snap.Rules == nil || snap.APIKeys == nil || snap.Accounts == nil || snap.Map.Underived() != nil {
		t.Errorf("got %+v", snap)
	}
	if c, ok, why := snap.Pods.Caller(netip.MustParseAddr("10.9.9.9")); !ok || c.User != "postern:pod:team-a:default" {
		t.Errorf("got %v %s", c, why)
	}
}
