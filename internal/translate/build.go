package translate

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// tick is how often something that takes long says so.
const tick = 2 * time.Second

// build builds the line's translator from the checkout and keeps it.
func (w *workshop) build(ctx context.Context) (program, error) {
	name := w.programName()
	if w.checkout == "" {
		return program{}, fmt.Errorf("%s is neither beside this program nor in PATH nor in %s, "+
			"and there is no checkout of postern to build it from: run this in a checkout, or put %s in PATH",
			name, filepath.Join(w.dir, "translators"), name)
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		return program{}, fmt.Errorf("%s must be built, and that needs go, which is not in PATH: "+
			"install it from https://go.dev/dl, or put %s in PATH", name, name)
	}
	if w.dir == "" {
		return program{}, fmt.Errorf("%s must be built, and there is no cache directory to keep it in: set HOME or XDG_CACHE_HOME", name)
	}
	toolchain, err := w.toolchain()
	if err != nil {
		return program{}, err
	}
	hash, err := w.sourceHash()
	if err != nil {
		return program{}, err
	}
	path := w.builtPath(hash)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return program{}, err
	}
	// Built under a name of its own, then renamed: another process may be building the same.
	temp, err := os.MkdirTemp(filepath.Dir(path), ".build-*")
	if err != nil {
		return program{}, err
	}
	defer os.RemoveAll(temp)
	if err := w.compile(ctx, goTool, toolchain, filepath.Join(temp, name)); err != nil {
		return program{}, err
	}
	if err := os.Rename(filepath.Join(temp, name), path); err != nil {
		return program{}, err
	}
	return program{path, "source " + hash}, nil
}

// compile runs go build. It downloads modules and, for an old line, a Go toolchain.
func (w *workshop) compile(ctx context.Context, goTool, toolchain, output string) error {
	cmd := exec.CommandContext(ctx, goTool, "build", "-v", "-buildvcs=false", "-ldflags", "-s -w", "-o", output, ".")
	cmd.Dir = w.sourceDir()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	if toolchain != "" {
		cmd.Env = append(cmd.Env, "GOTOOLCHAIN="+toolchain)
	}
	log := &buildLog{}
	cmd.Stdout, cmd.Stderr = log, log
	stopGently(cmd)
	w.sayf("building its translator, once. The first build downloads modules and takes several minutes")
	start := time.Now()
	if err := w.wait(cmd, "building", log.status); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("building the translator of istio %s in %s: %w\n%s", w.line, cmd.Dir, err, log.tail())
	}
	w.sayf("built its translator in %s", time.Since(start).Round(time.Second))
	return nil
}

// stopGently lets go build remove its temporary files when the context ends.
func stopGently(cmd *exec.Cmd) {
	cmd.WaitDelay = 10 * time.Second
	if runtime.GOOS != "windows" {
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	}
}

// wait runs a command and says every two seconds what it is at.
func (w *workshop) wait(cmd *exec.Cmd, doing string, status func() string) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ticker.C:
			w.sayf("%s, %s%s", doing, time.Since(start).Round(time.Second), status())
		}
	}
}

// buildLog reads what go build -v says: the packages it compiles, what it downloads, and errors, which are all that is kept.
type buildLog struct {
	mu       sync.Mutex
	rest     []byte // an unfinished line
	packages int
	last     string
	kept     []string
}

// keptLines bounds what a failed build shows.
const keptLines = 60

func (l *buildLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, b...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		l.line(strings.TrimSpace(string(l.rest[:i])))
		l.rest = l.rest[i+1:]
	}
}

func (l *buildLog) line(s string) {
	downloading, isDownload := strings.CutPrefix(s, "go: downloading ")
	switch {
	case s == "":
	case isDownload:
		l.last = "downloading " + downloading
	case !strings.ContainsAny(s, " :"):
		l.packages++
		l.last = s
	default:
		l.kept = append(l.kept, s)
		if len(l.kept) > keptLines {
			l.kept = l.kept[1:]
		}
	}
}

// status is how far the build is: what the last line said.
func (l *buildLog) status() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == "" {
		return ""
	}
	return fmt.Sprintf(", %d packages compiled, at %s", l.packages, l.last)
}

func (l *buildLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(append(l.kept, string(l.rest)), "\n")
}
