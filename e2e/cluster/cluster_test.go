//go:build e2e

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// root is the checkout.
const root = "../.."

func tool(name string) string { return filepath.Join(root, ".tools", "cluster", name) }

// stateDir is the state folder of the cluster that the tests use.
var stateDir string

// TestMain brings the cluster up for all tests, and down again whatever they do. With CLUSTER_STATE the tests use
// one that runs already (its state folder), which must be as it was when it came up.
func TestMain(m *testing.M) {
	if onlyLayouts() {
		os.Exit(m.Run()) // each brings up its own
	}
	os.Exit(withCluster(m))
}

func withCluster(m *testing.M) (code int) {
	state := os.Getenv("CLUSTER_STATE")
	if state == "" {
		var err error
		if state, err = os.MkdirTemp("", "postern-cluster-test-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(state)
		for name := range doors { // another cluster may run beside it
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			doors[name] = l.Addr().String()
			l.Close()
		}
		flags := upFlags()
		if flags != nil { // the story's cluster starts the stand-in by itself, a layout's is told of it as of a real one
			program := state + "-net-istio"
			self, err := filepath.Abs(tool("cluster"))
			if err == nil {
				err = os.WriteFile(program, []byte("#!/bin/sh\nexec "+self+" net-istio\n"), 0o755)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer os.Remove(program)
			flags = append(flags, "--net-istio", program)
		}
		others := leftovers() // of another cluster, the story's beside a layout's
		up := exec.Command(tool("cluster"), slices.Concat([]string{"up", "--state", state, "--root", root}, flags, doorFlags())...)
		up.Stderr = os.Stderr
		out, err := up.StdoutPipe()
		if err == nil {
			err = up.Start()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() {
			// The hardest end of all: nothing of it may outlive that either.
			_ = up.Process.Kill()
			_ = up.Wait()
			var left []string
			for range 50 {
				left = slices.DeleteFunc(leftovers(), func(p string) bool { return slices.Contains(others, p) })
				if len(left) == 0 {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			fmt.Fprintln(os.Stderr, "still running after kill -9:", left)
			code = 1
		}()
		var said bytes.Buffer
		buffer := make([]byte, 4096)
		for !strings.Contains(said.String(), upMessage) {
			n, err := out.Read(buffer)
			os.Stdout.Write(buffer[:n])
			said.Write(buffer[:n])
			if err != nil {
				fmt.Fprintln(os.Stderr, "the cluster did not come up")
				return 1
			}
		}
		go func() { _, _ = io.Copy(io.Discard, out) }()
	}
	gateway, err := os.ReadFile(filepath.Join(state, "gateway"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	doors["gateway"], stateDir = string(gateway), state
	defer func() { _ = os.RemoveAll(script.dir) }()
	os.Setenv("KUBECONFIG", filepath.Join(state, "kubeconfig"))
	return m.Run()
}

// leftovers are the processes of a cluster: in a PID namespace below this one, of a program that was built for it.
// Mounts, devices and packet filters are of its namespaces and end with the last of them.
func leftovers() []string {
	built, err := filepath.EvalSymlinks(filepath.Join(root, ".tools"))
	if err != nil {
		return []string{err.Error()}
	}
	if built, err = filepath.Abs(built); err != nil {
		return []string{err.Error()}
	}
	var out []string
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		exe, err := os.Readlink(filepath.Join(p, "exe"))
		if err != nil || !strings.HasPrefix(exe, filepath.Join(built, "cluster")+"/") {
			continue
		}
		status, _ := os.ReadFile(filepath.Join(p, "status"))
		for line := range strings.Lines(string(status)) {
			if strings.HasPrefix(line, "NSpid:") && len(strings.Fields(line)) > 2 {
				out = append(out, p+" "+exe)
			}
		}
	}
	return out
}

// kubectl is the output of a kubectl command that must succeed.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryKubectl(args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// tryKubectl is a command's standard output. What else it says is in the error, if there is one.
func tryKubectl(args ...string) (string, error) {
	var out, said bytes.Buffer
	cmd := exec.Command(tool("kubectl"), args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, said.String())
	}
	return out.String(), err
}

func eventually(t *testing.T, what string, limit time.Duration, check func() error) {
	t.Helper()
	end := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// answer is what a caller got.
type answer struct {
	status   int
	location string
	body     string
}

const input = `{"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}`

// want says what a call must have got, once the gateway has the configuration.
func want(t *testing.T, what string, status int, contains string, call func() answer) {
	t.Helper()
	eventually(t, what, 2*time.Minute, func() error {
		got := call()
		if got.status != status || !strings.Contains(got.location+" "+got.body, contains) {
			return fmt.Errorf("got %d %s %.300s, want %d with %q", got.status, got.location, got.body, status, contains)
		}
		return nil
	})
}

// fromPod calls a URL with curl in the document's pod.
func fromPod(t *testing.T, url string, args ...string) answer {
	t.Helper()
	curl := append([]string{"exec", "myapp-pod", "--", "curl", "--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code} %header{location}", url}, args...)
	out, err := tryKubectl(curl...)
	if err != nil {
		return answer{body: out + err.Error()}
	}
	i := strings.LastIndexByte(out, '\n')
	a := answer{body: strings.TrimSpace(out[:i])}
	if _, err := fmt.Sscanf(out[i+1:], "%d %s", &a.status, &a.location); err != nil && a.status == 0 {
		t.Fatalf("curl said %q", out)
	}
	return a
}

// fromOutside calls the gateway from this machine, with headers as name, value, ...
func fromOutside(t *testing.T, host, path, body string, headers ...string) answer {
	t.Helper()
	method, reader := "GET", io.Reader(nil)
	if body != "" {
		method, reader = "POST", strings.NewReader(body)
	}
	r, err := http.NewRequest(method, "http://"+doors["gateway"]+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	got, err := client.Do(r)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer got.Body.Close()
	text, err := io.ReadAll(io.LimitReader(got.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return answer{status: got.StatusCode, location: got.Header.Get("Location"), body: strings.TrimSpace(string(text))}
}
