//go:build e2e

package main

import (
	"encoding/json"
	"testing"

	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	kubejson "k8s.io/apimachinery/pkg/util/json" // whole numbers stay whole

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
)

// live is one object as the API server has it.
func live(t *testing.T, kind, namespace, name string) []byte {
	t.Helper()
	return []byte(kubectl(t, "get", kind, "-n", namespace, name, "-o", "json"))
}

// TestDerived holds what internal/kserve derives for the live InferenceService, from the controllers' live settings,
// against what the real KServe and Knative made of it: the VirtualServices, and the Services that are names for the
// gateway. (The two VirtualServices of net-istio's stand-in are made of Knative's real Ingress. A revision's Service has
// no selector in a cluster: Knative writes its endpoints.)
func TestDerived(t *testing.T) {
	var objects []*manifest.Object
	for _, o := range [][3]string{
		{"inferenceservice", "kserve-test", "sklearn-iris"}, {"configmap", "kserve", "inferenceservice-config"},
		{"configmap", "knative-serving", "config-istio"}, {"configmap", "knative-serving", "config-network"}, {"configmap", "knative-serving", "config-domain"},
	} {
		var value map[string]any
		if err := kubejson.Unmarshal(live(t, o[0], o[1], o[2]), &value); err != nil {
			t.Fatal(err)
		}
		object, err := manifest.Live(value)
		if err != nil {
			t.Fatalf("%s %s/%s: %v", o[0], o[1], o[2], err)
		}
		objects = append(objects, object)
	}
	set, err := manifest.New(objects...)
	if err != nil {
		t.Fatal(err)
	}
	derived, err := kserve.Derive(set)
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, o := range derived {
		switch want := o.Value.(type) {
		case *networking.VirtualService:
			var real struct {
				Spec json.RawMessage `json:"spec"`
			}
			if err := json.Unmarshal(live(t, "virtualservice", o.Meta.Namespace, o.Meta.Name), &real); err != nil {
				t.Fatal(err)
			}
			var got networking.VirtualService
			if err := protojson.Unmarshal(real.Spec, &got); err != nil {
				t.Fatal(err)
			}
			want = proto.Clone(want).(*networking.VirtualService)
			dropHash(want)
			dropHash(&got)
			if !proto.Equal(&got, want) {
				t.Errorf("VirtualService %s:\nthe cluster has %s\nderived         %s", o.Meta.Name, protojson.Format(&got), protojson.Format(want))
			}
			compared++
		case *corev1.Service:
			if want.Spec.Type != corev1.ServiceTypeExternalName {
				continue
			}
			var got corev1.Service
			if err := json.Unmarshal(live(t, "service", o.Meta.Namespace, o.Meta.Name), &got); err != nil {
				t.Fatal(err)
			}
			if got.Spec.Type != want.Spec.Type || got.Spec.ExternalName != want.Spec.ExternalName || len(got.Spec.Ports) != len(want.Spec.Ports) {
				t.Errorf("Service %s: the cluster has %+v, derived %+v", o.Meta.Name, got.Spec, want.Spec)
			}
			compared++
		}
	}
	if compared != 5 {
		t.Errorf("compared %d objects, want 3 VirtualServices and 2 Services", compared)
	}
}

// dropHash takes out the value of net-istio's probe header: it is of an Ingress with its httpOption.
func dropHash(vs *networking.VirtualService) {
	for _, r := range vs.Http {
		if set := r.GetHeaders().GetRequest().GetSet(); set["K-Network-Hash"] != "" {
			set["K-Network-Hash"] = "hash"
		}
	}
}
