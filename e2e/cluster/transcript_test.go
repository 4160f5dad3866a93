//go:build e2e

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/creack/pty"
)

// finished is true when the whole of TestDocument ran, none of it left out by -run.
var finished bool

// transcript is what the tests ran, as the walkthrough shows it: blocks of commands and their output, by name.
type transcript struct {
	blocks map[string]string
	order  []string
	dir    string // where commands run: files of their own, beside the checkout's
}

var script = &transcript{blocks: map[string]string{}}

// chapter begins a block. Commands of sh are recorded in it until the next one.
func chapter(t *testing.T, name string) {
	t.Helper()
	if script.dir == "" {
		script.dir = scratch(t)
	}
	if _, ok := script.blocks[name]; ok {
		t.Fatalf("chapter %q twice", name)
	}
	script.blocks[name] = ""
	script.order = append(script.order, name)
}

// scratch is the reader's folder: the checkout's files, and postern built from it.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-walkthrough-")
	if err != nil {
		t.Fatal(err)
	}
	checkout, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"deploy", "examples", "e2e"} {
		if err := os.Symlink(filepath.Join(checkout, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "bin", "postern"), "./cmd/postern")
	build.Dir = checkout
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/postern: %v\n%s", err, out)
	}
	return dir
}

// shell is a command of the reader's, not started.
func shell(command string) *exec.Cmd {
	built, err := filepath.Abs(filepath.Join(root, ".tools", "cluster"))
	if err != nil {
		panic(err)
	}
	cmd := exec.Command("sh", "-c", strings.ReplaceAll(command, gatewayShown, doors["gateway"]))
	cmd.Dir = script.dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(script.dir, "bin")+":"+built+":"+os.Getenv("PATH"), "TERM=dumb")
	return cmd
}

// gatewayShown is where make cluster has the gateway, and the walkthrough's reader.
const gatewayShown = "127.0.0.1:18080"

// sh runs a command and records it with all it says. It may fail: what it says is the result.
func sh(t *testing.T, command string, contains ...string) string {
	t.Helper()
	out, _ := shell(command).CombinedOutput()
	for _, c := range contains {
		if !strings.Contains(string(out), c) {
			t.Errorf("$ %s\n%s\nwant %q in it", command, out, c)
		}
	}
	record(command, string(out))
	return string(out)
}

// shWant runs a command until it says what is wanted, and records the last time: a configuration takes a second or
// two to reach the gateway.
func shWant(t *testing.T, command string, contains ...string) string {
	t.Helper()
	var out []byte
	eventually(t, command, 2*time.Minute, func() error {
		out, _ = shell(command).CombinedOutput()
		for _, c := range contains {
			if !strings.Contains(string(out), c) {
				return fmt.Errorf("got %.2000s, want %q in it", out, c)
			}
		}
		return nil
	})
	record(command, string(out))
	return string(out)
}

func record(command, output string) {
	if len(script.order) == 0 {
		return
	}
	name := script.order[len(script.order)-1]
	script.blocks[name] += "$ " + command + "\n" + steady(command, output)
}

// session types lines into a command on a terminal of its own, each when the prompt is there, and records what the
// terminal showed. It is the command's exit code.
func session(t *testing.T, command, prompt string, lines ...string) int {
	t.Helper()
	cmd := shell(command)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 400})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	var mu sync.Mutex
	var shown bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 4096)
		for {
			n, err := terminal.Read(buffer)
			mu.Lock()
			shown.Write(buffer[:n])
			mu.Unlock()
			if err != nil { // EIO at the end
				return
			}
		}
	}()
	seen := 0
	for _, line := range lines {
		eventually(t, "a prompt", time.Minute, func() error {
			mu.Lock()
			defer mu.Unlock()
			if text := shown.String(); len(text) <= seen || !strings.HasSuffix(text, prompt) {
				return fmt.Errorf("the terminal shows %q", text)
			}
			seen = shown.Len()
			return nil
		})
		if _, err := io.WriteString(terminal, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	_ = cmd.Wait()
	record(command, strings.ReplaceAll(shown.String(), "\r\n", "\n"))
	return cmd.ProcessState.ExitCode()
}

// varies is what differs from run to run and says nothing.
var varies = []struct {
	of *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`(?m)^(Waiting for .*|date: .*|x-envoy-upstream-service-time: .*|server: .*|.*deprecated.*)\n`), ""},
	{regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]`), ""},
	{regexp.MustCompile(`\beyJ[\w-]+\.[\w-]+\.[\w-]+`), "eyJ..."},
	{regexp.MustCompile(`"cookie":"[^"]*"`), `"cookie":"..."`},
	{regexp.MustCompile(`postern_[a-z0-9_]{20,}`), "postern_..."},
	{regexp.MustCompile(`\b10(\.\d+){3}\b`), "10.x.x.x"},
	{regexp.MustCompile(`/dex/auth\?[^\s"]*`), "/dex/auth?..."},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`(resourceVersion: )"\d+"`), `$1"..."`},
	{regexp.MustCompile(`-[0-9a-f]{7,10}-[a-z0-9]{5}\b`), "-..."},
	{regexp.MustCompile(`\n{3,}`), "\n\n"},
}

// steady is output without what differs from run to run.
func steady(command, output string) string {
	out := strings.ReplaceAll(output, "\r", "")
	out = strings.ReplaceAll(strings.ReplaceAll(out, doors["gateway"], gatewayShown), script.dir+"/", "")
	for _, v := range varies {
		out = v.of.ReplaceAllString(out, v.by)
	}
	if strings.HasPrefix(command, "kubectl get") && !strings.Contains(command, "-o ") {
		out = aligned(age.ReplaceAllString(out, "AGE"))
	}
	var b strings.Builder
	for line := range strings.Lines(out) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return strings.TrimLeft(b.String(), "\n")
}

var age = regexp.MustCompile(`(?m)\b\d+[smhd](\d+[smhd])?$`)

var columns = regexp.MustCompile(` {2,}`)

// aligned is a table of kubectl's whose widths do not depend on what was taken out.
func aligned(table string) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for line := range strings.Lines(table) {
		fmt.Fprintln(w, columns.ReplaceAllString(strings.TrimRight(line, " \n"), "\t"))
	}
	_ = w.Flush() // a buffer takes it
	return b.String()
}
