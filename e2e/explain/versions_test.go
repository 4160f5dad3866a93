//go:build e2e

package explain

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/internal/explain"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

const corpus = "../../../shared/corpus"

func sorted(list []string) []string { slices.Sort(list); return list }

// TestLoginIsGone: Kubeflow 1.8's objects under their own Istio ask everybody to
// log in; under one from 1.19 on its EnvoyFilters match nothing, and explain says
// that login is gone and why.
func TestLoginIsGone(t *testing.T) {
	release := filepath.Join(corpus, "v1.8.1-shared")
	if _, err := os.Stat(release); err != nil {
		t.Skipf("NOT TESTED: no corpus at %s (it is not part of the checkout)", corpus)
	}
	for _, tt := range []struct {
		istio    string
		redirect bool
		gone     bool
	}{{"1.17", true, false}, {"newest", false, true}} {
		set, err := manifest.Files([]string{release, filepath.Join(corpus, "derived", "isvc-runtime.yaml")}, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		w, err := world.Build(context.Background(), set, world.Options{Translate: translate.Options{Version: tt.istio, Progress: os.Stderr}})
		if err != nil {
			t.Fatal(err)
		}
		s, err := explain.New(w)
		if err != nil {
			t.Fatal(err)
		}
		a, err := s.Explain(context.Background(), explain.Call{URL: "http://localhost:8080/pipeline"})
		if err != nil {
			t.Fatal(err)
		}
		gone := strings.Contains(strings.Join(a.Why, "\n"), `login is gone: `+filepath.Join(release, "envoyfilters.yaml")+`:4: EnvoyFilter istio-system/authn-filter: spec.configPatches[0] is to insert filter "envoy.filters.http.ext_authz" and is not in force: its match names "envoy.http_connection_manager"`)
		if redirect := a.Outcome == explain.Redirected; redirect != tt.redirect || gone != tt.gone {
			t.Errorf("istio %s: got %s (login is gone: %v), want a redirect: %v, gone: %v; why: %q", tt.istio, a.Outcome, gone, tt.redirect, tt.gone, a.Why)
		}
	}
}
