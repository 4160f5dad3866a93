//go:build e2e

package serving_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const root = "../.."

// tool is the absolute path of a file in .tools, or the end of the test with a hint.
func tool(t *testing.T, path ...string) string {
	t.Helper()
	full, err := filepath.Abs(filepath.Join(append([]string{root, ".tools"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(full); err != nil {
		t.Fatalf("%v: run make tools (or e2e/serving/setup.sh)", err)
	}
	return full
}

// freePorts gives n ports of 127.0.0.1 that nobody listens on.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// startServer runs a command until the test ends and waits until url answers 200.
func startServer(t *testing.T, url string, env []string, name string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), append(env, "PYTHONDONTWRITEBYTECODE=1", "no_proxy=*")...)
	cmd.Dir = t.TempDir()
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that its children end with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // waited for in the cleanup
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
		if t.Failed() {
			text := log.String()
			t.Logf("the end of what %s said:\n%s", filepath.Base(name), text[max(0, len(text)-4000):])
		}
	})
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		res, err := http.Get(url)
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-ended:
			t.Fatalf("%s ended before it answered", name)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s did not answer %s within 90 s: %v", name, url, err)
		}
	}
}

// startKServe runs KServe's sklearnserver over a folder with a model; it gives its URL.
func startKServe(t *testing.T, name, dir string) string {
	t.Helper()
	noted, err := os.ReadFile(tool(t, "kserve", "source"))
	if err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(strings.TrimSpace(string(noted)), "python")
	script, err := filepath.Abs("kserve_server.py")
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", freePorts(t, 1)[0])
	startServer(t, url+"/v2/health/ready",
		[]string{"PYTHONPATH=" + filepath.Join(python, "sklearnserver") + ":" + filepath.Join(python, "storage")},
		tool(t, "kserve", "bin", "python"), script,
		"--model_name="+name, "--model_dir="+dir, "--http_port="+url[strings.LastIndexByte(url, ':')+1:], "--enable_grpc=false")
	return url
}

// startMLServer runs MLServer with a model file; it gives its URL.
func startMLServer(t *testing.T, name, file string) string {
	t.Helper()
	dir, ports := t.TempDir(), freePorts(t, 3)
	settings := map[string]any{"host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2], "parallel_workers": 0}
	model := map[string]any{"name": name, "implementation": "mlserver_sklearn.SKLearnModel", "parameters": map[string]string{"uri": file}}
	for path, value := range map[string]any{"settings.json": settings, "model-settings.json": model} {
		raw, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	startServer(t, url+"/v2/models/"+name+"/ready", nil, tool(t, "mlserver", "bin", "python"), tool(t, "mlserver", "bin", "mlserver"), "start", dir)
	return url
}
