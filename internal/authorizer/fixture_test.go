package authorizer

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/passport"
	"postern.dev/postern/internal/territory"
)

// cluster is the story in small: a model opened to pods, a model of another
// tenant that is bound to its owner, one that is bound to nobody; the backend
// team's application likewise; Kubeflow's dashboard for everything else.
const cluster = `
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: kubeflow-gateway, namespace: kubeflow}
spec: {selector: {istio: ingressgateway}, servers: [{hosts: ["*"], port: {name: http, number: 80, protocol: HTTP}}]}
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: knative-local-gateway, namespace: knative-serving}
spec: {selector: {istio: ingressgateway}, servers: [{hosts: ["*"], port: {name: http, number: 8081, protocol: HTTP}}]}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: centraldashboard, namespace: kubeflow}
spec: {gateways: [kubeflow-gateway], hosts: ["*"], http: [{route: [{destination: {host: centraldashboard.kubeflow.svc.cluster.local}}]}]}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: open, namespace: models}
spec: {predictor: {sklearn: {}}}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: owned, namespace: alice}
spec: {predictor: {sklearn: {}}}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: unbound, namespace: nobody}
spec: {predictor: {sklearn: {}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: backend}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: web, namespace: backend}
spec: {gateways: [kubeflow/kubeflow-gateway, knative-serving/knative-local-gateway], hosts: [web.example.com], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: private, namespace: backend}
spec: {gateways: [kubeflow/kubeflow-gateway], hosts: [private.example.com], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: tools}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: free, namespace: tools}
spec: {gateways: [kubeflow/kubeflow-gateway], hosts: [free.example.com], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: twin, namespace: backend}
spec: {gateways: [kubeflow/kubeflow-gateway], hosts: [twin.example.com], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: twin, namespace: tools}
spec: {gateways: [kubeflow/kubeflow-gateway], hosts: [twin.example.com], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: postern-open-model}
rules:
- {apiGroups: [serving.kserve.io], resources: [inferenceservices, inferencegraphs], verbs: [predict-unproven]}
- {apiGroups: [networking.istio.io], resources: [virtualservices], verbs: [call-unproven]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: postern-model-caller}
rules:
- {apiGroups: [serving.kserve.io], resources: [inferenceservices, inferencegraphs], verbs: [predict]}
- {apiGroups: [networking.istio.io], resources: [virtualservices], verbs: [call]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: in-cluster, namespace: models}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-open-model}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "postern:pods"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: ada, namespace: models}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-model-caller}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ada@example.com}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: owner, namespace: alice}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-model-caller}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: alice@example.com}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: in-cluster, namespace: backend}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-open-model}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "postern:pods:default"}]
`

const modelVS = `
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  gateways: [knative-serving/knative-local-gateway, mesh, kubeflow/kubeflow-gateway]
  hosts: [NAME.NAMESPACE.svc.cluster.local, NAME.NAMESPACE.example.com]
  http:
  - headers: {request: {set: {Host: NAME-predictor.NAMESPACE.svc.cluster.local}}}
    route: [{destination: {host: knative-local-gateway.istio-system.svc.cluster.local, port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: NAME-predictor-ingress, namespace: NAMESPACE}
spec:
  gateways: [knative-serving/knative-local-gateway]
  hosts: [NAME-predictor.NAMESPACE.svc.cluster.local]
  http:
  - route: [{destination: {host: NAME-predictor-00001.NAMESPACE.svc.cluster.local, port: {number: 80}}}]
`

func derive(s *manifest.Set) ([]*manifest.Object, error) {
	var out []*manifest.Object
	for o := range manifest.Of[*manifest.InferenceService](s) {
		made, err := manifest.Bytes("derived", []byte(strings.NewReplacer("NAMESPACE", o.Meta.Namespace, "NAME", o.Meta.Name).Replace(modelVS)))
		if err != nil {
			return nil, err
		}
		for d := range made.All() {
			d.Derived = o.String()
			out = append(out, d)
		}
	}
	return out, nil
}

// fakeLogin stands for authservice: cookie authservice_session=NAME is NAME's
// session, /dex is not looked at, everybody else is sent to Dex.
type fakeLogin struct {
	mu    sync.Mutex
	asked []*http.Request
	err   error
	reply func(*http.Request) *http.Response // when set, instead
}

func (f *fakeLogin) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r)
	if f.err != nil {
		return nil, f.err
	}
	if f.reply != nil {
		return f.reply(r), nil
	}
	if strings.HasPrefix(r.URL.RequestURI(), "/dex") {
		return response(200, nil, ""), nil
	}
	for _, c := range r.Cookies() {
		if c.Name == "authservice_session" && c.Value != "old" {
			return response(200, http.Header{"Kubeflow-Userid": {c.Value + "@example.com"}}, ""), nil
		}
	}
	return response(302, http.Header{"Location": {"/dex/auth?state=x"}, "Set-Cookie": {"oidc_state_csrf=1", "b=2"}}, "go"), nil
}

func (f *fakeLogin) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

func response(status int, h http.Header, body string) *http.Response {
	if h == nil {
		h = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

const (
	podAddr  = "10.244.0.10"
	teamAddr = "10.244.0.11"
	gwAddr   = "10.244.0.20"
	outside  = "203.0.113.7"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

type fixture struct {
	*Authorizer
	login *fakeLogin
	log   *bytes.Buffer
	now   time.Time
}

func testConfig() Config {
	return Config{
		Doors: []Door{
			{Gateway: "kubeflow/kubeflow-gateway", Port: 8080},
			{Gateway: "knative-serving/knative-local-gateway", Port: 8081, InCluster: true},
		},
		Routing: Derived,
	}
}

func newFixture(t testing.TB, cfg Config) *fixture {
	t.Helper()
	f := &fixture{login: &fakeLogin{}, log: &bytes.Buffer{}, now: noon}
	keys, err := passport.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(cfg, Options{
		HTTPClient: &http.Client{Transport: f.login}, Keys: keys, Now: func() time.Time { return f.now }, Log: testLog(f.log),
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Authorizer = a
	a.Swap(newSnapshot(t, cfg))
	return f
}

func newSnapshot(t testing.TB, cfg Config, more ...string) *Snapshot {
	t.Helper()
	set, err := manifest.Bytes("cluster.yaml", []byte(strings.Join(append([]string{cluster}, more...), "\n---\n")))
	if err != nil {
		t.Fatal(err)
	}
	derived, err := derive(set)
	if err != nil {
		t.Fatal(err)
	}
	set = set.With(derived...)
	rules, err := access.Compile(set)
	if err != nil {
		t.Fatal(err)
	}
	m, err := territory.Compile(set, cfg.Territory(derive))
	if err != nil {
		t.Fatal(err)
	}
	pod := func(ns, name, addr string, labels map[string]string) credential.Pod {
		return credential.Pod{Namespace: ns, Name: name, Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Labels: labels}
	}
	host := pod("default", "host", "10.244.0.30", nil)
	host.HostNetwork = true
	return &Snapshot{Rules: rules, Map: m, APIKeys: credential.NewAPIKeys(set), Accounts: credential.NewAccounts(set), Pods: credential.NewPods([]credential.Pod{
		pod("default", "myapp-pod", podAddr, nil),
		pod("team", "other-pod", teamAddr, nil),
		{Namespace: "team", Name: "robot-1", UID: "pod-1", ServiceAccount: "robot", Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.60")}},
		pod("models", "open-transformer", "10.244.0.70", map[string]string{credential.ModelLabel: "open"}),
		pod("nobody", "unbound-transformer", "10.244.0.71", map[string]string{credential.ModelLabel: "unbound"}),
		pod("alice", "false-transformer", "10.244.0.72", map[string]string{credential.ModelLabel: "open"}),
		pod("istio-system", "istio-ingressgateway-1", gwAddr, map[string]string{"istio": "ingressgateway"}),
		pod("ingress", "nginx", "10.244.0.40", map[string]string{"app.kubernetes.io/name": "ingress-nginx"}),
		pod("default", "a", "10.244.0.50", nil), pod("default", "b", "10.244.0.50", nil),
		host,
	}, cfg.PodRules())}
}

// ask is a request; headers are "name: value".
func ask(door uint16, source, method, host, path string, headers ...string) Request {
	r := Request{Door: door, Source: netip.MustParseAddr(source), Method: method, Host: host, Headers: credential.Headers{}}
	r.Path = path
	if i := strings.IndexByte(path, '?'); i >= 0 {
		r.Path, r.Query = path[:i], path[i:]
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		name = strings.ToLower(name)
		r.Headers[name] = append(r.Headers[name], strings.TrimSpace(value))
	}
	return r
}

const predictPath = "/v1/models/open:predict"

func (f *fixture) decide(t testing.TB, r Request) Verdict {
	t.Helper()
	return f.Decide(context.Background(), r)
}

// forwarded is the request that Envoy sends on: first it sets, then it removes.
func forwarded(r Request, v Verdict) credential.Headers {
	out := credential.Headers{}
	for name, values := range r.Headers {
		out[name] = slices.Clone(values)
	}
	for _, h := range v.Set {
		out[h.Name] = []string{h.Value}
	}
	for _, name := range v.Remove {
		delete(out, name)
	}
	return out
}

func headerOf(list []Header, name string) (values []string) {
	for _, h := range list {
		if strings.EqualFold(h.Name, name) {
			values = append(values, h.Value)
		}
	}
	return values
}
