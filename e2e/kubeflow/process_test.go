//go:build e2e

package kubeflow

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/lab"
)

// tool is the absolute path of a file in .tools.
func tool(t testing.TB, path ...string) string {
	t.Helper()
	full, err := filepath.Abs(filepath.Join(append([]string{"..", "..", ".tools"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(full); err != nil {
		t.Fatalf("%v (run make tools)", err)
	}
	return full
}

// program builds a package once for all tests.
var program = struct {
	mu   sync.Mutex
	dir  string
	errs map[string]error
}{errs: map[string]error{}}

// built is the path of one of this module's programs.
func built(t testing.TB, name string) string {
	t.Helper()
	program.mu.Lock()
	defer program.mu.Unlock()
	path := filepath.Join(program.dir, name)
	err, known := program.errs[name]
	if !known {
		cmd := exec.Command("go", "build", "-o", path, "postern.dev/postern/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		program.errs[name] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "postern-e2e-")
	if err != nil {
		panic(err)
	}
	program.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// process is a program that runs until it is killed or the test ends.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr *buffer
	ended          chan error
}

func (c *cluster) run(env []string, name string, args ...string) *process {
	c.t.Helper()
	p := &process{stdout: &buffer{}, stderr: &buffer{}, ended: make(chan error, 1), cmd: exec.Command(name, args...)}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		p.ended <- p.cmd.Wait()
		close(p.ended)
	}()
	c.atEnd(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if c.t.Failed() {
			said := p.stderr.String()
			c.t.Logf("the end of what %s said:\n%s", filepath.Base(name), said[max(0, len(said)-3000):])
		}
	})
	return p
}

func (p *process) kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.ended
}

// until waits for a process to say something.
func (p *process) until(t testing.TB, text string) {
	t.Helper()
	for range 400 {
		if strings.Contains(p.stderr.String(), text) {
			return
		}
		select {
		case err := <-p.ended:
			t.Fatalf("ended: %v: %s", err, p.stderr.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("never says %q: %s", text, p.stderr.String())
}

// eventually waits for a condition of another process.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for range 400 {
		if f() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// configure writes posternd's file: the layout's own text with the places of this
// machine in the cluster's.
func (c *cluster) configure(o options) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	keyFile := write(c.t, c.t.TempDir(), "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	config := c.configMap("postern-system", "posternd", "config.yaml")
	config = replace(c.t, config, "/etc/postern-passport/key.pem", keyFile)
	_, rest, _ := strings.Cut(config, "\n    url: ")
	old, _, _ := strings.Cut(rest, "\n")
	u, err := url.Parse(old)
	if err != nil {
		c.t.Fatal(err)
	}
	port, err := netip.ParseAddrPort("0.0.0.0:" + u.Port())
	if err != nil {
		c.t.Fatal(err)
	}
	config = replace(c.t, config, old, "http://"+c.at(u.Hostname(), uint32(port.Port())).String())
	config += fmt.Sprintf("manifests: {pods: %s, dirs: [%q]}\n", pods, c.dir)
	if o.config != nil {
		config = o.config(config)
	}
	c.config = config
}

func replace(t testing.TB, text, old, new string) string {
	t.Helper()
	if strings.Count(text, old) != 1 {
		t.Fatalf("%q occurs %d times in %s", old, strings.Count(text, old), text)
	}
	return strings.Replace(text, old, new, 1)
}

// startDaemons runs posternd on the address of each of its pods.
func (c *cluster) startDaemons(o options) {
	c.t.Helper()
	c.daemons = nil
	for _, pod := range c.workload("postern-system", "posternd").Pods {
		config := replace(c.t, c.config, "grpc: 127.0.0.1:9000", fmt.Sprintf("grpc: %s:9000", pod.Addr))
		config = replace(c.t, config, "http: 0.0.0.0:9001", fmt.Sprintf("http: %s:9001", pod.Addr))
		file := write(c.t, c.t.TempDir(), "config.yaml", config)
		p := c.run(o.env, built(c.t, "posternd"), "--config", file)
		c.daemons = append(c.daemons, p)
	}
	for _, p := range c.daemons {
		p.until(c.t, "the manifests are read and in force")
	}
	// Envoy's connections come up by themselves, with backoff.
	eventually(c.t, "the gateways reach posternd", func() bool {
		for _, host := range []string{"a.example.com", "b.example.com", "c.example.com", "d.example.com"} {
			if c.call(call{path: "/", host: host}).status == http.StatusServiceUnavailable ||
				c.call(call{from: "default/myapp-pod", url: "http://sklearn-iris.kserve-test.svc.cluster.local/v1/models"}).status == http.StatusServiceUnavailable {
				return false
			}
		}
		return true
	})
}

// startLogin runs oauth2-proxy with the release's own flags, environment and file. It
// finds the cluster's names through the proxy that calls as its pod.
func (c *cluster) startLogin() {
	c.t.Helper()
	wl := c.workload("oauth2-proxy", "oauth2-proxy")
	pod := wl.Pods[0]
	container := pod.Containers[0]
	config := c.configMap("oauth2-proxy", "oauth2-proxy-", "oauth2_proxy.cfg")
	// The theme is mounted from a ConfigMap that the release's objects here leave out.
	config = replace(c.t, config, "/custom-theme/kubeflow-logo.svg", write(c.t, c.t.TempDir(), "logo.svg", "<svg/>"))
	file := write(c.t, c.t.TempDir(), "oauth2_proxy.cfg", config)
	var args []string
	for _, a := range container.Args {
		a = strings.Replace(a, "/etc/oauth2_proxy/oauth2_proxy.cfg", file, 1)
		args = append(args, strings.Replace(a, "0.0.0.0:4180", pod.Addr.String()+":4180", 1))
	}
	secrets := map[string]string{"client-id": lab.LoginClient, "client-secret": c.secret, "cookie-secret": rand.Text()[:16]}
	proxy, err := c.lab.PodProxy(pod.Namespace, pod.Name)
	if err != nil {
		c.t.Fatal(err)
	}
	env := []string{"HTTP_PROXY=" + proxy.String(), "NO_PROXY="}
	for _, e := range container.Env {
		env = append(env, e.Name+"="+c.valueOf(e, secrets))
	}
	c.login = c.run(env, tool(c.t, "oauth2-proxy"), args...)
	eventually(c.t, "oauth2-proxy answers", func() bool {
		resp, err := http.Get(fmt.Sprintf("http://%s:4180/ping", pod.Addr))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (c *cluster) valueOf(e corev1.EnvVar, secrets map[string]string) string {
	c.t.Helper()
	switch {
	case e.ValueFrom == nil:
		return e.Value
	case e.ValueFrom.SecretKeyRef != nil:
		v, ok := secrets[e.ValueFrom.SecretKeyRef.Key]
		if !ok {
			c.t.Fatalf("%s: no secret %s", e.Name, e.ValueFrom.SecretKeyRef.Key)
		}
		return v
	case e.ValueFrom.ConfigMapKeyRef != nil:
		for _, o := range []string{e.ValueFrom.ConfigMapKeyRef.Name} {
			obj, ok := c.world.Set.Get("", "ConfigMap", "oauth2-proxy", o)
			if !ok {
				c.t.Fatalf("%s: no ConfigMap %s", e.Name, o)
			}
			return obj.Value.(*corev1.ConfigMap).Data[e.ValueFrom.ConfigMapKeyRef.Key]
		}
	}
	c.t.Fatalf("%s: got a source that is not known here", e.Name)
	return ""
}
