package deploy

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestKustomizations: kubectl apply -k of a directory applies each of its files, but
// for what is to go.
func TestKustomizations(t *testing.T) {
	for _, dir := range []string{"base", "authservice", "oauth2-proxy", "networkpolicies"} {
		data, err := os.ReadFile(filepath.Join(dir, "Kustomization"))
		if err != nil {
			t.Fatal(err)
		}
		var k struct {
			APIVersion, Kind string
			Resources        []string
		}
		if err := yaml.UnmarshalStrict(data, &k); err != nil {
			t.Fatal(err)
		}
		byHand := map[string]bool{"removed.yaml": true, "require-jwt.yaml": true} // in README.md's order
		files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			name := filepath.Base(f)
			if listed := slices.Contains(k.Resources, name); listed == byHand[name] {
				t.Errorf("%s: listed %t", f, listed)
			}
		}
		for _, r := range k.Resources {
			if _, err := os.Stat(filepath.Join(dir, r)); err != nil {
				t.Error(err)
			}
		}
	}
}
