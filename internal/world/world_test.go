package world_test

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/manifest"
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
