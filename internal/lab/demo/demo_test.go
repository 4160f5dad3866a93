package demo_test

import (
	"context"
	"io"
	"io/fs"
	"testing"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/lab"
	"postern.dev/postern/internal/lab/demo"
	"postern.dev/postern/internal/lab/serving"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
)

// states are the bundled story's, with the committed translations and no
// translator to fall back to.
func states(t *testing.T) []demo.State {
	t.Helper()
	t.Setenv("PATH", t.TempDir()) // no translator and no Go to build one
	translated, err := fs.Sub(story.FS, "translated")
	if err != nil {
		t.Fatal(err)
	}
	models, remove, err := lab.BundledModels(story.FS, "models", "gs://kfserving-examples/models")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	var out []demo.State
	for _, s := range story.States() {
		out = append(out, demo.State{Title: s.Title, Config: lab.Config{
			Load:      func() (*manifest.Set, error) { return manifest.FS(story.FS, s.Dirs...) },
			Translate: translate.Options{Bundled: translated, Dir: t.TempDir()},
			Storage:   serving.Storage{Mappings: []serving.Mapping{models}},
		}})
	}
	return out
}

// The whole table is the story's, in this process and with the committed
// translations alone.
func TestEveryCellIsTheStorys(t *testing.T) {
	table, err := demo.Run(context.Background(), states(t), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table.Rows {
		for _, i := range r.Wrong() {
			t.Errorf("%s, %s: got %s, want %s", r.Name, table.States[i], r.Got[i], r.Want[i])
		}
	}
	if len(table.Rows) != 7 || len(table.States) != 4 {
		t.Errorf("got %d rows and %d states, want 7 and 4", len(table.Rows), len(table.States))
	}
	if why := table.Why["EnvoyFilter attempt"]; len(why) != 2 {
		t.Errorf("got %q, want both reasons why the attempt changes nothing", why)
	}
}

// An answer that is not the story's must be noticed: with Postern where the login
// everywhere should be, the table is wrong.
func TestAWrongAnswerIsNoticed(t *testing.T) {
	table, err := demo.Run(context.Background(), states(t)[3:], io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if table.OK() {
		t.Error("the table of a wrong order is said to be right")
	}
}
