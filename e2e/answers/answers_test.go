//go:build e2e

package answers

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/apikey"
	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/territory"
)

const (
	paged = "paged.alice.example.com"
	app   = "https://app.example.com"
)

// cluster is one model whose host an application of the same tenant shares, and a
// rule for its namespace's keys.
const cluster = `
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: kubeflow-gateway, namespace: kubeflow}
spec: {selector: {istio: ingressgateway}, servers: [{hosts: ["*"], port: {name: http, number: 80, protocol: HTTP}}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: inferenceservice-config, namespace: kubeflow}
data:
  ingress: '{"ingressGateway": "kubeflow/kubeflow-gateway", "localGateway": "knative-serving/knative-local-gateway", "localGatewayService": "knative-local-gateway.istio-system.svc.cluster.local"}'
---
apiVersion: v1
kind: ConfigMap
metadata: {name: config-domain, namespace: knative-serving}
data: {example.com: ""}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: paged, namespace: alice, annotations: {postern.dev/allowed-origins: "https://app.example.com"}}
spec: {predictor: {sklearn: {}}}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: alone, namespace: alice}
spec: {predictor: {sklearn: {}}}
---
apiVersion: v1
kind: Service
metadata: {name: mixed, namespace: alice}
spec: {selector: {app: mixed}, ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: mixed, namespace: alice}
spec: {gateways: [kubeflow/kubeflow-gateway], hosts: [paged.alice.example.com], http: [{match: [{uri: {prefix: /app/}}], route: [{destination: {host: mixed}}]}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: postern-model-caller}
rules: [{apiGroups: [serving.kserve.io], resources: [inferenceservices], verbs: [predict]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: keys, namespace: alice}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-model-caller}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "postern:keys:alice"}]
---
apiVersion: apikeys.postern.dev/v1alpha1
kind: ApiKey
metadata: {name: robot, namespace: alice}
spec: {id: %q, hash: %q}
`

// start makes an authorizer for that cluster and a key for it.
func start(t *testing.T, door uint16) (a *authorizer.Authorizer, key string) {
	t.Helper()
	key, spec, err := apikey.New(rand.Reader, "alice", "robot")
	if err != nil {
		t.Fatal(err)
	}
	set, err := manifest.Bytes("cluster.yaml", fmt.Appendf(nil, cluster, spec.ID, spec.Hash))
	if err != nil {
		t.Fatal(err)
	}
	derived, err := kserve.Derive(set)
	if err != nil {
		t.Fatal(err)
	}
	set = set.With(derived...)
	cfg := authorizer.Config{
		Doors: []authorizer.Door{{Gateway: "kubeflow/kubeflow-gateway", Port: door}}, Routing: authorizer.Derived,
		Tokens: authorizer.Tokens{Issuers: []authorizer.Issuer{{Issuer: "https://dex.example.com", Audiences: []string{"postern"}}}},
	}
	if a, err = authorizer.New(cfg, authorizer.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	s := &authorizer.Snapshot{Pods: credential.NewPods(nil, cfg.PodRules()), APIKeys: credential.NewAPIKeys(set)}
	if s.Rules, err = access.Compile(set); err != nil {
		t.Fatal(err)
	}
	if s.Map, err = territory.Compile(set, cfg.Territory(kserve.Derive)); err != nil {
		t.Fatal(err)
	}
	a.Swap(s)
	return a, key
}

// envoyConfig is one listener with ext_authz in front of everything.
const envoyConfig = `{
"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
"static_resources": {
 "listeners": [{"address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}, "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
  "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "x",
  "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "model"}}]}]},
  "http_filters": [
   {"name": "envoy.filters.http.ext_authz", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", "transport_api_version": "V3",
    "grpc_service": {"envoy_grpc": {"cluster_name": "posternd"}, "timeout": "2s"}, "status_on_error": {"code": "ServiceUnavailable"}}},
   {"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}],
 "clusters": [
  {"name": "model", "load_assignment": {"cluster_name": "model", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}}}]}]}},
  {"name": "posternd", "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}},
   "load_assignment": {"cluster_name": "posternd", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}}}]}]}}]}}`

func port(t *testing.T, addr string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return port(t, l.Addr().String())
}

// TestAnswersThroughEnvoy: what Postern answers by itself, and what it adds to a
// model's answer, as a client behind a real Envoy sees it.
func TestAnswersThroughEnvoy(t *testing.T) {
	program, err := filepath.Abs("../../.tools/envoy/bin/envoy")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: make tools puts it there", err)
	}
	reached := 0
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached++
		for _, name := range []string{"Authorization", "X-Api-Key", "Kubeflow-Userid"} {
			if r.Header.Get(name) != "" {
				t.Errorf("%s reaches the model", name)
			}
		}
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Vary", "Accept")
		w.Header().Set("Content-Security-Policy", "default-src 'self'")
		fmt.Fprint(w, r.Header.Get("X-Postern-Caller"))
	}))
	defer model.Close()

	door := uint16(freePort(t))
	a, text := start(t, door)
	srv := authorizer.NewServer(a)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		srv.Stop()
		<-served
	}()
	config := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(config, fmt.Appendf(nil, envoyConfig, door, port(t, model.Listener.Addr().String()), port(t, l.Addr().String())), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	send := func(method, path, host string, headers ...string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("http://127.0.0.1:%d%s", door, path), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", door)); err == nil {
			c.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	want := func(name string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}

	resp, body := send("OPTIONS", "/v1", paged, "Origin: "+app, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: Authorization")
	if resp.StatusCode != 204 || body != "" || reached != 0 {
		t.Errorf("preflight: got %d %q", resp.StatusCode, body)
	}
	want("preflight", resp.Header["Access-Control-Allow-Origin"], app)
	want("preflight", resp.Header["Access-Control-Allow-Headers"], "authorization")

	resp, body = send("GET", "/.well-known/oauth-protected-resource", "alone.alice.example.com")
	if resp.StatusCode != 200 || !strings.Contains(body, `"authorization_servers":["https://dex.example.com"]`) || reached != 0 {
		t.Errorf("metadata: got %d %s", resp.StatusCode, body)
	}
	want("metadata", resp.Header["Content-Type"], "application/json")

	resp, body = send("POST", "/v1", paged, "Origin: "+app)
	if resp.StatusCode != 401 || reached != 0 {
		t.Errorf("nothing shown: got %d %s", resp.StatusCode, body)
	}
	want("nothing shown", resp.Header["Access-Control-Allow-Origin"], app)
	resp, body = send("POST", "/v1", paged, "Origin: "+app, "Authorization: Bearer "+text[:len(text)-1]+"x")
	if resp.StatusCode != 401 || !strings.Contains(body, credential.KeyMalformed) || strings.Contains(body, text[30:60]) {
		t.Errorf("a mistyped key: got %d %s", resp.StatusCode, body)
	}

	resp, body = send("POST", "/v1", paged, "Origin: "+app, "Authorization: Bearer "+text, "Kubeflow-Userid: eve")
	if resp.StatusCode != 200 || body != "postern:key:alice:robot" || reached != 1 {
		t.Errorf("a key: got %d %s", resp.StatusCode, body)
	}
	want("a key", resp.Header["Access-Control-Allow-Origin"], app)
	want("a key", resp.Header["Vary"], "Accept,Origin")
	want("a key", resp.Header["Content-Security-Policy"], "default-src 'self'", "sandbox")
	want("a key", resp.Header["X-Content-Type-Options"], "nosniff")

	if resp, _ = send("GET", "/", paged, "x-api-key: "+text, "x-original-method: OPTIONS", "Origin: https://evil.example"); resp.StatusCode != 200 {
		t.Errorf("x-api-key: got %d", resp.StatusCode)
	}
	want("another origin: the model's own word", resp.Header["Access-Control-Allow-Origin"], "*")
}
