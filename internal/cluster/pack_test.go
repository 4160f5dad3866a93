package cluster

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
)

// TestPack: what was packed means the same when it is unpacked, of each kind that is
// watched, in the story, in Kubeflow's releases and in what the controllers make.
func TestPack(t *testing.T) {
	dirs, err := filepath.Glob("../../e2e/kubeflow/testdata/[v2]*")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	story := []string{"../../examples/story/common", "../../examples/story/4-postern"}
	seen := map[string]int{}
	for _, names := range append(slices.Collect(slices.Chunk(dirs, 1)), story) {
		set, err := manifest.FilesOfCluster(names)
		if err != nil {
			t.Fatal(err)
		}
		derived, err := kserve.Derive(set)
		if err != nil {
			t.Fatal(err)
		}
		for o := range set.With(derived...).All() {
			for _, k := range kinds(Settings{}.withDefaults()) {
				if k.of == o.Group()+"/"+o.Kind && (k.name == "" || k.name == o.Meta.Name) {
					repack(t, k, o)
					seen[k.of]++
				}
			}
		}
	}
	repack(t, kind{of: podKind, keep: []string{"spec", "status"}}, objects(t, aPod)[0])
	for _, o := range objects(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r, namespace: a}
rules: [{apiGroups: [serving.kserve.io], resources: [inferenceservices], verbs: [predict], resourceNames: [m, "n"]}, {nonResourceURLs: [/x], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: b}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: c}
subjects: [{kind: ServiceAccount, name: s, namespace: a}, {apiGroup: rbac.authorization.k8s.io, kind: Group, name: "postern:pods"}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: s, namespace: a}
---
apiVersion: apikeys.postern.dev/v1alpha1
kind: ApiKey
metadata: {name: k, namespace: a}
spec: {id: "0123456789abcdefghjk", hash: "00", expires: "2027-01-02T03:04:05Z", owner: me, disabled: true}
`) {
		for _, k := range kinds(Settings{}.withDefaults()) {
			if k.of == o.Group()+"/"+o.Kind {
				repack(t, k, o)
				seen[k.of]++
			}
		}
	}
	for _, k := range kinds(Settings{}.withDefaults()) {
		if k.of != "serving.kserve.io/InferenceGraph" && k.of != podKind && seen[k.of] == 0 {
			t.Errorf("%s: none seen", k)
		}
	}
}

// TestUnpackable: an object that cannot be encoded stays as it is.
func TestUnpackable(t *testing.T) {
	o := &manifest.Object{Kind: "VirtualService", Value: &networking.VirtualService{Hosts: []string{"\xff"}}}
	if p := pack(o); p.whole != o {
		t.Errorf("got %+v", p)
	}
}

func objects(t *testing.T, text string) []*manifest.Object {
	t.Helper()
	set, err := manifest.Bytes("f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(set.All())
}

func repack(t *testing.T, k kind, from *manifest.Object) {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(from.JSON); err != nil {
		t.Fatal(err)
	}
	if from.Meta.Namespace != "" {
		u.SetNamespace(from.Meta.Namespace)
	}
	u.SetUID("a-uid")
	u.SetLabels(map[string]string{"a": "b"})
	now := metav1.Now().Rfc3339Copy()
	u.SetDeletionTimestamp(&now)
	want, err := manifest.Live(k.strip(u.Object))
	if err != nil {
		t.Fatal(err)
	}
	p := pack(want)
	if (p.whole != nil) != strings.HasPrefix(want.Kind, "Inference") {
		t.Errorf("%s: packed: %t", want, p.whole == nil)
	}
	got, err := p.object()
	if err != nil {
		t.Fatal(err)
	}
	same := equality.Semantic.DeepEqual(got.Value, want.Value)
	if v, ok := want.Value.(proto.Message); ok {
		same = proto.Equal(got.Value.(proto.Message), v)
	}
	if !same || !equality.Semantic.DeepEqual(got.Meta, want.Meta) || got.APIVersion != want.APIVersion || got.Kind != want.Kind ||
		reflect.TypeOf(got.Value) != reflect.TypeOf(want.Value) || got.Unread != want.Unread {
		t.Errorf("%s %s: got %+v, want %+v", want, reflect.TypeOf(want.Value), got, want)
	}
}
