package manifest

import (
	"strings"
	"testing"

	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestLive: live objects are read by the rules for manifests. What is not understood
// stays where leaving it out would change what others mean, and is marked.
func TestLive(t *testing.T) {
	const (
		rbac  = "apiVersion: rbac.authorization.k8s.io/v1\n"
		istio = "apiVersion: networking.istio.io/v1\n"
		kube  = "apiVersion: v1\n"
	)
	for _, tt := range []struct {
		name, text string
		unread     string // in Unread of an object that is there
		err        string // no object
	}{
		{"a pod", kube + "kind: Pod\nmetadata: {name: a, namespace: b}\nspec: {hostNetwork: true}\nstatus: {podIP: 10.1.2.3}", "", ""},
		{"without a namespace", kube + "kind: Pod\nmetadata: {name: a}", "", "metadata.namespace"},
		{"a role in a namespace", rbac + "kind: ClusterRole\nmetadata: {name: a, namespace: b}\nrules: []", "", "metadata.namespace"},
		{"a role", rbac + "kind: ClusterRole\nmetadata: {name: 'system:a'}\nrules: [{verbs: [predict], apiGroups: [serving.kserve.io], resources: [inferenceservices]}]", "", ""},
		{"a rule with a condition of a later API", rbac + "kind: Role\nmetadata: {name: a, namespace: b}\nrules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*'], unless: x}]", "", "rules[0].unless: unknown field"},
		{"a binding with one", rbac + "kind: RoleBinding\nmetadata: {name: a, namespace: b}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}\nsubjects: []\nuntil: x", "", "until: unknown field"},
		{"a VirtualService", istio + "kind: VirtualService\nmetadata: {name: a, namespace: b}\nspec: {hosts: [h], http: [{route: [{destination: {host: x}, weight: 100}]}]}", "", ""},
		{"one with a match of a later API", istio + "kind: VirtualService\nmetadata: {name: a, namespace: b}\nspec: {hosts: [h], http: [{match: [{moonPhase: full}]}]}", "moonPhase: unknown field", ""},
		{"one that Istio cannot read", istio + "kind: VirtualService\nmetadata: {name: a, namespace: b}\nspec: {hosts: {h: 1}}", "", "spec.hosts"},
		{"a control character in a text", istio + "kind: VirtualService\nmetadata: {name: a, namespace: b}\nspec: {hosts: [\"h\\x85\\x00\"]}", "", ""},
		{"an InferenceService", "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: a, namespace: b}\nspec: {predictor: {labels: {team: a}, sklearn: {storageUri: 's'}}}", "", ""},
		{"one with several canaries", "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: a, namespace: b}\nspec: {predictor: {sklearn: {storageUri: 's'}}, canary: [{}]}", "spec.canary: unknown field", ""},
		{"a key with a limit of a later API", "apiVersion: apikeys.postern.dev/v1alpha1\nkind: ApiKey\nmetadata: {name: a, namespace: b}\nspec: {id: a, hash: b, from: c}", "spec.from: unknown field", ""},
		{"the mesh's settings of a later Istio", kube + "kind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'warpDrive: {}'}", "data.mesh", ""},
		{"a kind that is not read", kube + "kind: Secret\nmetadata: {name: a, namespace: b}", "", "is not read here"},
		{"no name", kube + "kind: Pod\nmetadata: {namespace: b}", "", "metadata.name"},
		{"a name that none has", kube + "kind: Pod\nmetadata: {name: 'a:b', namespace: b}", "", "metadata.name"},
		{"no kind", "metadata: {name: a}", "", "apiVersion and kind"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v map[string]any
			if err := yaml.Unmarshal([]byte(tt.text), &v); err != nil {
				t.Fatal(err)
			}
			o, err := Live(v)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v %v, want %q", o, err, tt.err)
				}
				return
			}
			if err != nil || o.Value == nil {
				t.Fatalf("got %v %v", o, err)
			}
			if (o.Unread == nil) != (tt.unread == "") || o.Unread != nil && !strings.Contains(o.Unread.Error(), tt.unread) {
				t.Errorf("got unread %v, want %q", o.Unread, tt.unread)
			}
			switch v := o.Value.(type) {
			case *corev1.Pod:
				if !v.Spec.HostNetwork || v.Status.PodIP != "10.1.2.3" {
					t.Errorf("got %+v", v)
				}
			case *networking.VirtualService:
				if len(v.Hosts) != 1 {
					t.Errorf("got %v", v)
				}
			}
		})
	}
}

// TestLiveDepth: a value nested without end is an error.
func TestLiveDepth(t *testing.T) {
	deep := map[string]any{}
	for at, i := deep, 0; i < 2*maxDepth; i++ {
		next := map[string]any{}
		at["x"], at = next, next
	}
	if o, err := Live(deep); err == nil || !strings.Contains(err.Error(), "deep") {
		t.Errorf("got %v %v", o, err)
	}
}
