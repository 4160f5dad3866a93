package world_test

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

func build(t *testing.T, state, more string) *world.World {
	t.Helper()
	set, err := manifest.FS(story.FS, "common", state)
	if err != nil {
		t.Fatal(err)
	}
	bundled, err := fs.Sub(story.FS, "translated")
	if err != nil {
		t.Fatal(err)
	}
	added, err := manifest.Bytes("more.yaml", []byte(more))
	if err != nil {
		t.Fatal(err)
	}
	for o := range added.All() {
		set = set.With(o)
	}
	t.Setenv("PATH", t.TempDir()) // no translator
	w, err := world.Build(context.Background(), set, world.Options{Translate: translate.Options{Bundled: bundled, Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestGatewayAt: whose labels are the gateway's does not decide whose the door is.
func TestGatewayAt(t *testing.T) {
	const gateway = "apiVersion: networking.istio.io/v1beta1\nkind: Gateway\nmetadata: {name: g, namespace: kubeflow}\nspec: {selector: {istio: ingressgateway}, servers: [{hosts: [\"*\"], port: {name: http, number: 80, protocol: HTTP}}]}\n"
	mesh := func(namespace, root string) string {
		return "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: " + namespace + "}\ndata: {mesh: \"rootNamespace: " + root + "\"}\n"
	}
	for _, tt := range []struct {
		name, more string
		where      []string
		want       string
	}{
		{"one", "", []string{"gateways"}, "gateways"},
		{"a tenant's before it", "", []string{"aaa", "istio-system", "zzz"}, "istio-system"},
		{"a tenant's and one elsewhere", "", []string{"aaa", "gateways"}, ""},
		{"two of one namespace", "", []string{"gateways", "gateways"}, "gateways"},
		{"another root", mesh("istio-system", "gateways"), []string{"aaa", "gateways"}, "gateways"},
		{"a tenant's ConfigMap says so", mesh("aaa", "aaa") + mesh("istio-system", ""), []string{"aaa", "istio-system"}, "istio-system"},
		{"none", "", nil, ""},
	} {
		set, err := manifest.Bytes("g.yaml", []byte(gateway+tt.more))
		if err != nil {
			t.Fatal(err)
		}
		w := &world.World{Set: set}
		for _, ns := range tt.where {
			w.Gateways = append(w.Gateways, &world.Gateway{Workload: &topology.Workload{Kind: "Deployment", Namespace: ns, Name: "gw", Labels: map[string]string{"istio": "ingressgateway"}}})
		}
		got := ""
		if g := w.GatewayAt("kubeflow/g"); g != nil {
			got = g.Workload.Namespace
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestWithoutEffect(t *testing.T) {
	for _, tt := range []struct {
		state string
		want  []string
	}{
		{"1-login-everywhere", nil},
		{"2-envoyfilter-attempt", []string{`is merged into a route named "sklearn-iris"`, `sets up a filter named "envoy.ext_authz"`}},
		{"4-postern", nil},
	} {
		got := build(t, tt.state, "").WithoutEffect()
		if len(got) != len(tt.want) {
			t.Errorf("%s: got %q, want %q", tt.state, got, tt.want)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], tt.want[i]) {
				t.Errorf("%s: got %q, want %q", tt.state, got[i], tt.want[i])
			}
		}
	}
}

// What Istio does not read needs no translation of its own: a Role or a binding
// leaves the committed one in force.
func TestARoleNeedsNoTranslation(t *testing.T) {
	w := build(t, "4-postern", "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: more, namespace: backend}\nrules: []\n")
	if w.Istio == "" || len(w.Gateways) != 1 || w.RootNamespace() != "istio-system" {
		t.Errorf("got istio %q, %d gateways, root namespace %s", w.Istio, len(w.Gateways), w.RootNamespace())
	}
	if g := w.GatewayAt("kubeflow/kubeflow-gateway"); g == nil || !w.IsGateway(g.Workload) {
		t.Error("no gateway behind kubeflow/kubeflow-gateway")
	}
	if port, ok := w.ListenerOf("kubeflow", "kubeflow-gateway"); !ok || port != 8080 {
		t.Errorf("got port %d, %v, want 8080", port, ok)
	}
}
