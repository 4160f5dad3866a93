//go:build e2e

package live

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

const adminToken = "admin-of-the-test"

// control is etcd and kube-apiserver.
type control struct {
	dir   string
	url   string
	etcd  *process
	api   *process
	start func() // kube-apiserver again, at the same address
	http  *http.Client
	audit string
}

// process is a program that this test started.
type process struct {
	cmd   *exec.Cmd
	said  *output
	ended chan struct{}
}

// output is a buffer that a process writes and a test reads.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// run starts a program, and kills it when the test ends.
func run(t testing.TB, program string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), said: &output{}, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() { p.signal(syscall.SIGCONT); p.kill() })
	return p
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) } // ended already

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// tool is a program that `make cluster-tools` builds.
func tool(t testing.TB, name string) string {
	t.Helper()
	file, err := filepath.Abs(filepath.Join("..", "..", ".tools", "cluster", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%v: make cluster-tools", err)
	}
	return file
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func write(t testing.TB, file, text string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// newControl starts both, and waits until they answer.
func newControl(t testing.TB) *control {
	t.Helper()
	c := &control{dir: t.TempDir()}
	client, peer, port := freePort(t), freePort(t), freePort(t)
	store := "http://127.0.0.1:" + client
	c.etcd = run(t, tool(t, "etcd"), "--data-dir", filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", store, "--advertise-client-urls", store,
		"--listen-peer-urls", "http://127.0.0.1:"+peer, "--initial-advertise-peer-urls", "http://127.0.0.1:"+peer, "--initial-cluster", "default=http://127.0.0.1:"+peer)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signing := write(t, filepath.Join(c.dir, "sa.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	tokens := write(t, filepath.Join(c.dir, "tokens"), adminToken+",admin,1,system:masters\n")
	policy := write(t, filepath.Join(c.dir, "audit.yaml"), "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n  users: [\""+account+"\"]\n- level: None\n")
	c.audit = filepath.Join(c.dir, "audit.log")
	c.url = "https://127.0.0.1:" + port
	c.start = func() {
		c.api = run(t, tool(t, "kube-apiserver"), "--etcd-servers", store, "--bind-address", "127.0.0.1", "--secure-port", port,
			"--cert-dir", filepath.Join(c.dir, "cert"), "--authorization-mode", "RBAC", "--token-auth-file", tokens,
			"--service-account-issuer", "https://kubernetes.default.svc.cluster.local", "--service-account-key-file", signing, "--service-account-signing-key-file", signing,
			"--service-cluster-ip-range", "10.96.0.0/16", "--disable-admission-plugins", "ServiceAccount", "--endpoint-reconciler-type", "none",
			"--audit-policy-file", policy, "--audit-log-path", c.audit, "--v", "0")
	}
	c.start()
	c.http = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // our own process, on loopback
	c.until(t)
	return c
}

// until waits for the API server.
func (c *control) until(t testing.TB) {
	t.Helper()
	eventually(t, "the API server is ready", func() bool {
		select {
		case <-c.api.ended:
			t.Fatalf("the API server ended: %s", c.api.said.String())
		default:
		}
		_, status := c.call(t, http.MethodGet, "/readyz", adminToken, nil)
		return status == http.StatusOK
	})
}

// call asks the API server.
func (c *control) call(t testing.TB, method, path, token string, body []byte) (map[string]any, int) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, c.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, 0
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	var out map[string]any
	_ = json.Unmarshal(raw, &out) // /readyz is no JSON
	return out, resp.StatusCode
}

// plurals are the resources of the kinds that the tests create.
var plurals = map[string]string{
	"InferenceGraph": "inferencegraphs", "InferenceService": "inferenceservices", "VirtualService": "virtualservices", "Gateway": "gateways",
	"ApiKey": "apikeys", "Pod": "pods", "Service": "services", "ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps", "Namespace": "namespaces",
	"Role": "roles", "RoleBinding": "rolebindings", "ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings",
	"CustomResourceDefinition": "customresourcedefinitions",
}

// path is where an object lives.
func path(t testing.TB, apiVersion, kind, namespace, name string) string {
	t.Helper()
	plural := plurals[kind]
	if plural == "" {
		t.Fatalf("no resource for kind %s", kind)
	}
	p := "/apis/" + apiVersion
	if !strings.Contains(apiVersion, "/") {
		p = "/api/" + apiVersion
	}
	if namespace != "" {
		p += "/namespaces/" + namespace
	}
	p += "/" + plural
	if name != "" {
		p += "/" + name
	}
	return p
}

// apply creates objects, each a YAML document, or puts them in the place of those of
// their names. A pod's status is set too.
func (c *control) apply(t testing.TB, text string) {
	t.Helper()
	for doc := range strings.SplitSeq(text, "\n---") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v in %s", err, doc)
		}
		if len(o) > 0 {
			c.put(t, o)
		}
	}
}

func (c *control) put(t testing.TB, o map[string]any) {
	t.Helper()
	meta, _ := o["metadata"].(map[string]any)
	namespace, _ := meta["namespace"].(string)
	apiVersion, kind, name := fmt.Sprint(o["apiVersion"]), fmt.Sprint(o["kind"]), fmt.Sprint(meta["name"])
	status := o["status"]
	delete(o, "status")
	body, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	out, code := c.call(t, http.MethodPost, path(t, apiVersion, kind, namespace, ""), adminToken, body)
	if code == http.StatusConflict {
		out, code = c.call(t, http.MethodPatch, path(t, apiVersion, kind, namespace, name), adminToken, body)
	}
	if code/100 != 2 {
		t.Fatalf("%s %s/%s: got %d %v", kind, namespace, name, code, out["message"])
	}
	if kind != "Pod" || status == nil {
		return
	}
	body, err = json.Marshal(map[string]any{"status": status})
	if err != nil {
		t.Fatal(err)
	}
	if out, code := c.call(t, http.MethodPatch, path(t, apiVersion, kind, namespace, name)+"/status", adminToken, body); code/100 != 2 {
		t.Fatalf("status of pod %s/%s: got %d %v", namespace, name, code, out["message"])
	}
}

// change merges into an object.
func (c *control) change(t testing.TB, apiVersion, kind, namespace, name, patch string) {
	t.Helper()
	if out, code := c.call(t, http.MethodPatch, path(t, apiVersion, kind, namespace, name), adminToken, []byte(patch)); code/100 != 2 {
		t.Fatalf("change %s %s/%s: got %d %v", kind, namespace, name, code, out["message"])
	}
}

// remove deletes an object at once.
func (c *control) remove(t testing.TB, apiVersion, kind, namespace, name string) {
	t.Helper()
	out, code := c.call(t, http.MethodDelete, path(t, apiVersion, kind, namespace, name)+"?gracePeriodSeconds=0", adminToken, nil)
	if code/100 != 2 {
		t.Fatalf("delete %s %s/%s: got %d %v", kind, namespace, name, code, out["message"])
	}
}

// token is one of a ServiceAccount, by the API server itself.
func (c *control) token(t testing.TB, namespace, name string) string {
	t.Helper()
	out, code := c.call(t, http.MethodPost, path(t, "v1", "ServiceAccount", namespace, name)+"/token", adminToken,
		[]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":7200}}`))
	status, _ := out["status"].(map[string]any)
	token, _ := status["token"].(string)
	if code/100 != 2 || token == "" {
		t.Fatalf("token: got %d %v", code, out)
	}
	return token
}

// kubeconfig is a file that reaches the API server as a ServiceAccount.
func (c *control) kubeconfig(t testing.TB, token string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "kubeconfig"), `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "`+c.url+`", certificate-authority: "`+filepath.Join(c.dir, "cert", "apiserver.crt")+`"}}]
users: [{name: u, user: {token: "`+token+`"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`)
}

// eventually waits for what happens within a minute.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(50 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}
