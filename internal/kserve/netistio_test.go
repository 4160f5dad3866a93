package kserve

import (
	"encoding/json"
	"strings"
	"testing"

	"postern.dev/postern/internal/manifest"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A live Ingress as Knative 1.20 (serving v0.48.2) wrote it gives the VirtualServices that are derived for a model.
func TestNetIstio(t *testing.T) {
	s, err := manifest.Bytes("config", []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"knative-serving","name":"config-istio"},
		"data":{"gateway.kubeflow.kubeflow-gateway":"istio-ingressgateway.istio-system.svc.cluster.local"}}`))
	if err != nil {
		t.Fatal(err)
	}
	c := &config{}
	if err := c.istio(s); err != nil {
		t.Fatal(err)
	}
	comp := component{kind: "predictor", name: "m-predictor", spec: &manifest.Component{}}
	ing := newIngress("ns", comp, "example.com")
	raw, err := json.Marshal(ing)
	if err != nil {
		t.Fatal(err)
	}
	source := &manifest.Object{Kind: "Ingress", Meta: metav1.ObjectMeta{Namespace: "ns", Name: "m-predictor"}}
	want := &maker{source: source}
	want.netIstio(ing, nil, c)

	live := strings.Replace(string(raw), `{"rules"`, `{"httpOption":"Enabled","rules"`, 1)
	got, local, err := NetIstio(KnativeIngress{Source: source, Spec: []byte(live)}, s)
	if err != nil || local != "knative-local-gateway.istio-system.svc.cluster.local" {
		t.Fatalf("got %q, %v", local, err)
	}
	for i, o := range got {
		if o.Meta.Name != want.objects[i].Meta.Name || !proto.Equal(o.Value.(*networking.VirtualService), want.objects[i].Value.(*networking.VirtualService)) {
			t.Errorf("got %s\nwant %s", o.JSON, want.objects[i].JSON)
		}
	}

	for name, change := range map[string][2]string{
		"traffic split": {`"splits":[`, `"splits":[{"serviceName":"m-predictor-00002","servicePort":80,"percent":10},`},
		"headers":       {`"paths":[{`, `"paths":[{"headers":{"Knative-Serving-Tag":{"exact":"x"}},`},
	} {
		if _, _, err := NetIstio(KnativeIngress{Source: source, Spec: []byte(strings.ReplaceAll(live, change[0], change[1]))}, s); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
