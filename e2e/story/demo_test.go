//go:build e2e

package story

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/lab"
	"postern.dev/postern/internal/lab/demo"
	"postern.dev/postern/internal/lab/serving"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
)

// tool is a program that make tools puts into .tools.
func tool(t *testing.T, path string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join("..", "..", ".tools", path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%v (run make tools)", err)
	}
	return p
}

func config(t *testing.T, s story.State, envoy string) lab.Config {
	t.Helper()
	translated, err := fs.Sub(story.FS, "translated")
	if err != nil {
		t.Fatal(err)
	}
	models, remove, err := lab.BundledModels(story.FS, "models", "gs://kfserving-examples/models")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	return lab.Config{
		Load:      func() (*manifest.Set, error) { return manifest.FS(story.FS, s.Dirs...) },
		Translate: translate.Options{Bundled: translated},
		Storage:   serving.Storage{Mappings: []serving.Mapping{models}},
		Envoy:     envoy,
	}
}

// TestBothGatewaysAnswerAlike runs the whole table in our gateway and in a real
// Envoy with the same translation.
func TestBothGatewaysAnswerAlike(t *testing.T) {
	tables := map[string]demo.Table{}
	for name, envoy := range map[string]string{"ours": "", "envoy": tool(t, "envoy/bin/envoy")} {
		var states []demo.State
		for _, s := range story.States() {
			states = append(states, demo.State{Title: s.Title, Config: config(t, s, envoy)})
		}
		table, err := demo.Run(context.Background(), states, io.Discard)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !table.OK() {
			t.Errorf("%s: not the story's table: %+v", name, table.Rows)
		}
		tables[name] = table
	}
	for i, row := range tables["ours"].Rows {
		for j, cell := range row.Got {
			if other := tables["envoy"].Rows[i].Got[j]; cell != other {
				t.Errorf("%s, %s: ours %s, Envoy %s", row.Name, tables["ours"].States[j], cell, other)
			}
		}
	}
}
