package translate

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// tiny is a translator that needs no module: it answers for the proxy gw.ns, and tells its own build apart by the version's patch.
const tiny = `package main

import "os"

func main() {
	os.Stdout.WriteString(` + "`" + `{"istio":"1.17.5","rejected":[],"proxies":[{"name":"gw.ns","listeners":[],"routes":[],"clusters":[]}]}` + "`" + `)
}
`

// newCheckout makes a checkout with one translator, of line 1.17.
func newCheckout(t *testing.T, source string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"translator/contract/go.mod":      "module postern.dev/postern/translator/contract\n\ngo 1.20\n",
		"translator/contract/contract.go": "package contract\n",
		"translator/istio-1.17/go.mod":    "module postern.dev/postern/translator/istio-1.17\n\ngo 1.20\n",
		"translator/istio-1.17/main.go":   source,
	} {
		write(t, filepath.Join(root, name), text)
	}
	return root
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// newBuildBench is a bench with a checkout in place of a translator, and Go in PATH.
func newBuildBench(t *testing.T, source string) (*bench, *bytes.Buffer) {
	t.Helper()
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("NOT TESTED: no go in PATH")
	}
	// The caches' places, or the build would start with the standard library.
	env, err := exec.Command(goTool, "env", "-json", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	var places map[string]string
	if err := json.Unmarshal(env, &places); err != nil {
		t.Fatal(err)
	}
	for name, place := range places {
		t.Setenv(name, place)
	}
	b := newBench(t, "")
	t.Setenv("PATH", filepath.Dir(goTool)+":/usr/bin:/bin")
	progress := &bytes.Buffer{}
	b.options.Checkout, b.options.Progress = newCheckout(t, source), progress
	return b, progress
}

func builtPrograms(b *bench) []string {
	paths, _ := filepath.Glob(filepath.Join(b.options.Dir, "translators", "*"))
	return paths
}

func TestBuild(t *testing.T) {
	b, progress := newBuildBench(t, tiny)
	b.translate(plain)
	if got := progress.String(); !strings.Contains(got, "istio 1.17: building its translator, once.") || !strings.Contains(got, "built its translator in") {
		t.Errorf("got progress %q, want the beginning and the end of the build", got)
	}
	if got := builtPrograms(b); len(got) != 1 {
		t.Fatalf("got programs %q, want one and no leavings", got)
	}

	progress.Reset()
	b.translate(input(`{"kind":"Another"}`))
	if progress.Len() > 0 {
		t.Errorf("got progress %q, want no second build", progress)
	}

	// A changed source makes the program and its translations stale; one in a test file does not.
	write(t, filepath.Join(b.options.Checkout, "translator/istio-1.17/x_test.go"), "package main\n")
	b.translate(plain)
	if progress.Len() > 0 {
		t.Errorf("got progress %q, want no build for a test file", progress)
	}
	write(t, filepath.Join(b.options.Checkout, "translator/istio-1.17/main.go"), strings.Replace(tiny, "1.17.5", "1.17.6", 1))
	if got := b.translate(plain).Istio; got != "1.17.6" {
		t.Errorf("got istio %s from the cache, want 1.17.6", got)
	}
	write(t, filepath.Join(b.options.Checkout, "translator/contract/contract.go"), "package contract // changed\n")
	progress.Reset()
	b.translate(plain)
	if !strings.Contains(progress.String(), "built") {
		t.Error("got no build after the contract changed, want one")
	}

	// Without the checkout the newest program serves.
	b.options.Checkout = ""
	if got := b.translate(input(`{"kind":"Third"}`)).Istio; got != "1.17.6" {
		t.Errorf("got istio %s without a checkout, want 1.17.6", got)
	}
}

func TestBuildFails(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, b *bench)
		want    string
	}{
		{"compiler's words", func(t *testing.T, b *bench) {
			write(t, filepath.Join(b.options.Checkout, "translator/istio-1.17/main.go"), "package main\n\nfunc main() { undefinedThing() }\n")
		}, "undefined: undefinedThing"},
		{"no go", func(t *testing.T, _ *bench) { t.Setenv("PATH", t.TempDir()) }, "install it from https://go.dev/dl"},
		{"no checkout there", func(t *testing.T, b *bench) { b.options.Checkout = t.TempDir() }, "is no checkout of postern"},
		{"toolchain that does not exist", func(t *testing.T, b *bench) {
			t.Setenv("GOPROXY", "off")
			write(t, filepath.Join(b.options.Checkout, "translator/istio-1.17/go.mod"),
				"// toolchain go1.99.1\nmodule postern.dev/postern/translator/istio-1.17\n\ngo 1.20\n")
		}, "go1.99.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _ := newBuildBench(t, tiny)
			tt.prepare(t, b)
			_, err := Translate(t.Context(), plain, b.options)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if got := builtPrograms(b); len(got) != 0 {
				t.Errorf("got %q left in the cache, want nothing", got)
			}
		})
	}
}

func TestConcurrent(t *testing.T) {
	b, _ := newBuildBench(t, tiny)
	b.options.Progress = nil
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			if _, err := Translate(t.Context(), plain, b.options); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if got := builtPrograms(b); len(got) != 1 {
		t.Errorf("got programs %q, want one", got)
	}
	b.translate(plain)
}

func TestBuildLog(t *testing.T) {
	l := &buildLog{}
	for _, chunk := range []string{"go: downloading istio.io/", "istio v0\nistio.io/istio/pkg", "/log\n# istio.io/x\nx.go:1:2: undefined: y\n", "note: half"} {
		if _, err := l.Write([]byte(chunk)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := l.status(), ", 1 packages compiled, at istio.io/istio/pkg/log"; got != want {
		t.Errorf("got status %q, want %q", got, want)
	}
	if got, want := l.tail(), "# istio.io/x\nx.go:1:2: undefined: y\nnote: half"; got != want {
		t.Errorf("got tail %q, want %q", got, want)
	}
}
