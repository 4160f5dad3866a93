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
	for _, s := range story.States() {
		t.Run(s.Name, func(t *testing.T) {
			set, err := manifest.FS(story.FS, s.Dirs...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := world.Bundle(context.Background(), set, translate.Options{Dir: filepath.Join(base, "postern"), Progress: os.Stderr})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("..", "..", "examples", "story", "translated", s.Name+".json")
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
		})
	}
}
