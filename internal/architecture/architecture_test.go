// Package architecture holds the rules of the code's layout as tests.
package architecture

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "postern.dev/postern"

// order is DESIGN.md's list of packages: a package imports only what stands
// above it.
var order = []string{
	"internal/manifest", "internal/translate", "internal/kserve", "internal/envoy", "internal/envoy/envoytest", "internal/topology", "internal/sklearn",
	"internal/apikey", "internal/keyset", "internal/access", "internal/passport", "internal/credential", "internal/territory", "internal/authorizer",
	"internal/snapshot", "internal/trace", "internal/cluster", "internal/daemon", "cmd/posternd", "examples/story", "deploy", "internal/world", "internal/explain",
	"internal/lab/network", "internal/lab/control", "internal/lab/podproxy", "internal/lab/gateway", "internal/lab/realenvoy",
	"internal/lab/idp", "internal/lab/authservice", "internal/lab/serving", "internal/lab/dashboard", "internal/lab", "internal/lab/demo",
	"internal/cli", "cmd/postern",
}

// pure are the cores: no clock of their own, no network, no logger, no file.
var pure = []string{"internal/envoy", "internal/access", "internal/kserve", "internal/topology", "internal/territory"}

var impure = []string{"net", "net/http", "context", "log", "log/slog", "os", "os/exec", "math/rand", "crypto/rand"}

// only says who alone may import a module, directly.
var only = map[string]string{
	"github.com/dexidp/dex":     "internal/lab/idp",
	"github.com/spf13/cobra":    "internal/cli",
	"github.com/fsnotify":       "internal/lab",
	"istio.io/istio":            "nobody: translators are modules of their own",
	"k8s.io/client-go":          "internal/cluster",
	"github.com/coreos/go-oidc": "internal/lab/authservice",
	"github.com/prometheus":     "internal/daemon",
	"go.opentelemetry.io":       "internal/trace",
}

type pkg struct {
	ImportPath string
	Dir        string
	Imports    []string
	Deps       []string
	Module     *struct{ Path, Version string }
	Standard   bool
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Imports,Deps,Module,Standard"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestArrowsPointDown(t *testing.T) {
	for _, p := range list(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if strings.HasPrefix(name, "e2e/") || name == "internal/architecture" {
			continue
		}
		at := slices.Index(order, name)
		if at < 0 {
			t.Errorf("%s is not in the list of packages: give it a place in DESIGN.md and here", name)
			continue
		}
		for _, i := range p.Imports {
			local, ours := strings.CutPrefix(i, module+"/")
			if ours && slices.Index(order, local) >= at {
				t.Errorf("%s imports %s, which stands below it", name, local)
			}
			if slices.Contains(pure, name) && slices.Contains(impure, i) {
				t.Errorf("%s imports %s: this package is pure", name, i)
			}
			for prefix, who := range only {
				if strings.HasPrefix(i, prefix) && name != who {
					t.Errorf("%s imports %s: %s alone may", name, i, who)
				}
			}
		}
	}
}

// unwanted says what a program does not link, as the beginning of a package's path.
var unwanted = map[string][]string{
	"cmd/postern": {"istio.io/istio/"},
	// What judges in a cluster builds no translator, opens no profile, holds no login of
	// its own and links no typed client of all of Kubernetes.
	"cmd/posternd": {
		"istio.io/istio/", "github.com/dexidp/", "github.com/spf13/cobra", "k8s.io/client-go/kubernetes/", "k8s.io/client-go/informers/", "net/http/pprof",
		module + "/internal/translate", module + "/internal/envoy", module + "/internal/world", module + "/internal/lab", module + "/internal/cli", module + "/examples/",
	},
}

// runners are the packages of posternd that may start programs. client-go links the
// one for kubeconfigs that name a program; internal/cluster refuses these.
var runners = []string{"k8s.io/client-go/plugin/pkg/client/auth/exec"}

// TestRunsNoProgram: what judges in a cluster starts nothing.
func TestRunsNoProgram(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/posternd") {
		if slices.Contains(p.Imports, "os/exec") && !p.Standard && !slices.Contains(runners, p.ImportPath) {
			t.Errorf("%s imports os/exec", p.ImportPath)
		}
	}
}

// TestDependencies compares the modules linked into each program with its reviewed
// list. POSTERN_UPDATE=1 writes it; read the difference.
func TestDependencies(t *testing.T) {
	for program, not := range unwanted {
		seen := map[string]bool{}
		for _, p := range list(t, "-deps", "./"+program) {
			if p.Module != nil && p.Module.Path != module {
				seen[p.Module.Path] = true
			}
			for _, prefix := range not {
				if strings.HasPrefix(p.ImportPath+"/", strings.TrimSuffix(prefix, "/")+"/") {
					t.Errorf("%s links %s", program, p.ImportPath)
				}
			}
		}
		compareModules(t, program, slices.Sorted(maps.Keys(seen)))
	}
}

func compareModules(t *testing.T, program string, modules []string) {
	t.Helper()
	got := strings.Join(modules, "\n") + "\n"
	file := filepath.Join("..", "..", program, "modules.txt")
	if os.Getenv("POSTERN_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the modules linked into %s are not those of %s: got\n%s", program, file, got)
	}
}

// TestPackageComments wants one package comment in each directory.
func TestPackageComments(t *testing.T) {
	root := filepath.Join("..", "..")
	comments := map[string]int{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.Dir(path)
		if f.Doc != nil && !(strings.HasSuffix(f.Name.Name, "_test") || strings.HasSuffix(path, "_test.go") && hasSource(dir)) {
			comments[dir]++
		} else if _, ok := comments[dir]; !ok {
			comments[dir] = 0
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, n := range comments {
		if n != 1 {
			t.Errorf("%s: got %d package comments, want 1", dir, n)
		}
	}
}

func hasSource(dir string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	return slices.ContainsFunc(files, func(f string) bool { return !strings.HasSuffix(f, "_test.go") })
}
