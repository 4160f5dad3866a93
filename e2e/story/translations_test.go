//go:build e2e

// Package story tests the bundled story with the real parts: Istio's own
// translators, a real Envoy, a browser.
package story

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// TestTranslations translates every state anew and compares it with what is
// committed; POSTERN_UPDATE=1 writes it instead.
func TestTranslations(t *testing.T) {
	base, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	options := translate.Options{Dir: filepath.Join(base, "postern"), Progress: os.Stderr}
	var line string
	var sidecars []translate.Pair
	for _, s := range story.States() {
		t.Run(s.Name, func(t *testing.T) {
			set, err := manifest.FS(story.FS, s.Dirs...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := world.Bundle(context.Background(), set, options)
			if err != nil {
				t.Fatal(err)
			}
			committed(t, s.Name, got)
			own, more, err := world.Sidecars(context.Background(), set, options)
			if err != nil || line != "" && own != line {
				t.Fatalf("got sidecars of line %s after %s: %v", own, line, err)
			}
			line, sidecars = own, append(sidecars, more...)
		})
	}
	got, err := translate.BundleAll(line, sidecars)
	if err != nil {
		t.Fatal(err)
	}
	committed(t, "sidecars", got)
}

// committed compares with the file of that name, or writes it.
func committed(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("..", "..", "examples", "story", "translated", name+".json")
	if os.Getenv("POSTERN_UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what Istio makes of the manifests today; run make translations and look at the difference", file)
	}
}
