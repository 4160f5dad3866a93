package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// program is a translator. Its identity says which one made a translation; it is known for a program that is not built yet, and empty if
// there is none and none can be built.
type program struct {
	path     string // empty: to be built
	identity string
}

// pinnedToolchain is the comment above a translator's module line. Go's own toolchain line is only a minimum, and old Go refuses it.
var pinnedToolchain = regexp.MustCompile(`(?m)^// toolchain (go1\.[0-9.]+)$`)

// find looks for the program where it may lie: beside the running program, in PATH, and among those built earlier.
func (w *workshop) find() program {
	name := w.programName()
	if self, err := os.Executable(); err == nil {
		if self, err = filepath.EvalSymlinks(self); err == nil {
			if p, err := exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
				return program{p, identify(p)}
			}
		}
	}
	if p, err := exec.LookPath(name); err == nil {
		return program{p, identify(p)}
	}
	if w.checkout == "" {
		return w.newestBuilt()
	}
	hash, err := w.sourceHash()
	if err != nil {
		return program{} // build says what is wrong
	}
	built := program{path: w.builtPath(hash), identity: "source " + hash}
	if _, err := exec.LookPath(built.path); err != nil {
		built.path = ""
	}
	return built
}

func (w *workshop) programName() string {
	return "postern-translator-istio-" + w.line + executableSuffix()
}

func executableSuffix() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}

// builtPath is where a program built from source with this hash lies; empty without a cache directory.
func (w *workshop) builtPath(hash string) string {
	if w.dir == "" {
		return ""
	}
	return filepath.Join(w.dir, "translators", "postern-translator-istio-"+w.line+"-"+hash+executableSuffix())
}

// newestBuilt is the program built last, for use without a checkout.
func (w *workshop) newestBuilt() program {
	var newest program
	var at int64
	paths, _ := filepath.Glob(w.builtPath("????????????????"))
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil || info.ModTime().UnixNano() < at {
			continue
		}
		base := strings.TrimSuffix(filepath.Base(p), executableSuffix())
		at, newest = info.ModTime().UnixNano(), program{p, "source " + base[strings.LastIndex(base, "-")+1:]}
	}
	return newest
}

// identify tells a program that was not built here from the one that replaces it, without reading its 60 MB.
func identify(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("file %s %d %d", path, info.Size(), info.ModTime().UnixNano())
}

// sourceHash covers all that a program is built from: the translator's and the contract's source, the modules, the platform.
func (w *workshop) sourceHash() (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.GOOS, runtime.GOARCH)
	for _, dir := range []string{"contract", "istio-" + w.line} {
		names, err := filepath.Glob(filepath.Join(w.checkout, "translator", dir, "*"))
		if err != nil {
			return "", err
		}
		slices.Sort(names)
		for _, name := range names {
			base := filepath.Base(name)
			if strings.HasSuffix(base, "_test.go") || !strings.HasSuffix(base, ".go") && base != "go.mod" && base != "go.sum" {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				return "", err
			}
			fmt.Fprintln(h, dir, base, len(b))
			h.Write(b)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// toolchain is the Go version a translator is pinned to; empty if any will do.
func (w *workshop) toolchain() (string, error) {
	b, err := os.ReadFile(filepath.Join(w.sourceDir(), "go.mod"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("no translator for istio %s in %s", w.line, w.checkout)
	}
	if err != nil {
		return "", err
	}
	if m := pinnedToolchain.FindSubmatch(b); m != nil {
		return string(m[1]), nil
	}
	return "", nil
}

func (w *workshop) sourceDir() string {
	return filepath.Join(w.checkout, "translator", "istio-"+w.line)
}
