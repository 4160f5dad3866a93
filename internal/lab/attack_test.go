package lab

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/lab/network"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/world"
)

// with is the story in Postern's state and one file more. What it adds must not be
// Istio's (Services, Namespaces and gateway workloads included): the committed
// translation would not be of it.
func with(t *testing.T, c Config, more string) Config {
	t.Helper()
	c.Load = func() (*manifest.Set, error) { return storyAnd(more) }
	return c
}

func storyAnd(more string) (*manifest.Set, error) {
	all := fstest.MapFS{"more/more.yaml": {Data: []byte(more)}}
	states := story.States()
	for _, dir := range states[3].Dirs {
		err := fs.WalkDir(story.FS, dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(story.FS, p)
			all[p] = &fstest.MapFile{Data: data}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return manifest.FS(all, append(append([]string{}, states[3].Dirs...), "more")...)
}

func podWith(namespace, name, addr, phase, labels string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {%s}}
spec: {containers: [{name: c, image: curlimages/curl}]}
status: {phase: %s, podIP: "%s"}
`, name, namespace, labels, phase, addr)
}

// A pod that says it lives at 127.0.0.1 would make everybody outside a pod.
func TestAttackAPodAtThisMachinesAddress(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::ffff:127.0.0.1"} {
		t.Run(addr, func(t *testing.T) {
			_, err := Start(context.Background(), with(t, storyConfig(t), podWith("team-b", "lo", addr, "Running", "a: b")))
			if err == nil || !strings.Contains(err.Error(), "status.podIP: got "+addr+", which no pod can have") {
				t.Errorf("got %v, want it refused", err)
			}
		})
	}
}

// Kubernetes gives a finished pod's address to another pod while the
// finished pod's status still names it.
func TestAttackAFinishedPodsAddress(t *testing.T) {
	s := start(t, with(t, storyConfig(t), podWith("team-b", "live", "10.9.9.9", "Running", "a: b")+podWith("team-b", "done", "10.9.9.9", "Succeeded", "a: b")))
	status, body, _ := s.do(t, call{pod: "team-b/live", url: iris + "/v1/models"})
	if status != http.StatusOK {
		t.Errorf("a live pod whose address a finished one had: got %d %s, want 200", status, body)
	}
}

// posternd believes what a check says of an address: a pod that could ask would be
// given anybody's passport.
func TestAttackPosterndAnswersGatewaysOnly(t *testing.T) {
	s := start(t, with(t, storyConfig(t), podWith("team-b", "evil", "10.9.9.8", "Running", "a: b")))
	proxy, err := s.PodProxy("team-b", "evil")
	if err != nil {
		t.Fatal(err)
	}
	victim, err := s.lookupPod("default", "myapp-pod")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := check(proxy, "posternd.postern-system.svc.cluster.local:9000", victim.Address, 8081, "sklearn-iris.kserve-test.svc.cluster.local", "/v1/models")
	if err == nil {
		t.Errorf("another tenant's pod was answered: %v", resp.GetStatus())
	}
}

func check(proxy *url.URL, addr, source string, door uint32, host, path string) (*authv3.CheckResponse, error) {
	peer := func(a string, p uint32) *authv3.AttributeContext_Peer {
		return &authv3.AttributeContext_Peer{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: a, PortSpecifier: &core.SocketAddress_PortValue{PortValue: p}}}}}
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := net.Dial("tcp", proxy.Host)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic %s\r\n\r\n", addr, addr, base64.StdEncoding.EncodeToString([]byte(proxy.User.String())))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
		return c, err
	}))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return authv3.NewAuthorizationClient(conn).Check(context.Background(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: peer(source, 40000), Destination: peer("10.0.0.1", door),
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Host: host, Path: path}},
	}})
}

// Names come to stand in commands to paste.
func TestAttackAPodsNameInACommand(t *testing.T) {
	_, err := Start(context.Background(), with(t, storyConfig(t), podWith("aaa", `"x; touch y #"`, "10.9.9.7", "Running", "a: b")))
	if err == nil || !strings.Contains(err.Error(), `metadata.name: got "x; touch y #"`) {
		t.Errorf("got %v, want it refused", err)
	}
}

// What an outsider, a pod or a tenant's labels could try.
func TestAttacksThatHeld(t *testing.T) {
	var seen http.Header
	c := storyConfig(t)
	c.Observe = func(pod *topology.Pod, r *http.Request) {
		if pod.Labels["serving.kserve.io/inferenceservice"] == "sklearn-iris" {
			seen = r.Header.Clone()
		}
	}
	s := start(t, with(t, c, podWith("team-b", "labelled", "10.9.9.1", "Running", "app: istio-ingressgateway")+
		podWith("team-b", "model", "10.9.9.2", "Running", "serving.kserve.io/inferenceservice: sklearn-iris")))
	forged := http.Header{"Kubeflow-Userid": {"admin"}, "Kubeflow_Userid": {"admin"}, "X-Postern_Passport": {"x"}, "X_Postern_Caller": {"x"}, "X-Auth-Request_Email": {"x"}, "X_Forwarded-User": {"x"},
		"Cookie": {"a=1; authservice_session=x", "b=2,authservice_session=y"}}
	if status, body, _ := s.do(t, call{pod: "default/myapp-pod", url: iris + "/v1/models", header: forged}); status != http.StatusOK {
		t.Fatalf("got %d %s", status, body)
	}
	for name, v := range seen {
		if n := strings.ToLower(strings.ReplaceAll(name, "_", "-")); strings.HasPrefix(n, "kubeflow") || strings.HasPrefix(n, "x-auth-request") || n == "x-forwarded-user" || strings.Contains(strings.Join(v, ""), "session") {
			t.Errorf("reached the model: %s: %s", name, v)
		}
	}
	if got := seen["X-Postern-Caller"]; len(got) != 1 || got[0] != "postern:pod:default:default" {
		t.Errorf("caller: got %q", got)
	}
	replay := http.Header{"X-Postern-Passport": seen["X-Postern-Passport"]}
	outside, local := s.Doors()[0].URL, s.Doors()[1].URL
	for _, tt := range []struct {
		name string
		c    call
		want int
	}{
		{"passport, outside", call{url: outside + "/v1/models", host: "sklearn-iris.kserve-test.example.com", header: replay}, 401},
		{"passport, outside at the inner door", call{url: local + "/v1/models", host: "sklearn-iris.kserve-test.svc.cluster.local", header: replay}, 401},
		{"passport, another model, from a pod", call{pod: "default/myapp-pod", url: "http://fraud.team-b.svc.cluster.local/v1/models", header: replay}, 401},
		{"passport, from a pod with the gateway's labels", call{pod: "team-b/labelled", url: iris + "/v1/models", header: replay}, 401},
		{"passport, from a pod with the model's label in another namespace", call{pod: "team-b/model", url: "http://fraud.team-b.svc.cluster.local/v1/models", header: replay}, 401},
		{"h2c upgrade", call{url: outside + "/v1/models", host: "sklearn-iris.kserve-test.example.com", header: http.Header{"Connection": {"Upgrade, HTTP2-Settings"}, "Upgrade": {"h2c"}, "Http2-Settings": {"AAMAAABk"}}}, 401},
		{"the login's skipped path", call{url: outside + "/dex/v1", host: "sklearn-iris.kserve-test.example.com"}, 401},
		{"a trailing dot", call{url: outside + "/v1/models", host: "sklearn-iris.kserve-test.example.com."}, 302},
		{"upper case and a port", call{url: outside + "/v1/models", host: "SKLEARN-IRIS.kserve-test.example.com:1"}, 404},
	} {
		if status, body, _ := s.do(t, tt.c); status != tt.want {
			t.Errorf("%s: got %d %s, want %d", tt.name, status, body, tt.want)
		}
	}
}

// With a real Envoy a Service's targetPort could name any port at a pod's address,
// where whatever of this machine listens on every address answers.
func TestAttackATargetPortNoPodListensOn(t *testing.T) {
	c := storyConfig(t)
	set, err := c.Load()
	if err != nil {
		t.Fatal(err)
	}
	pods := netip.MustParsePrefix("127.66.0.0/16")
	w, err := world.Build(context.Background(), set, world.Options{Pods: pods, Translate: c.Translate})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{world: w, network: &network.Network{Loopback: pods}}
	const cluster = "outbound|80||orders-api.backend.svc.cluster.local"
	eps, err := w.Topology.Cluster(cluster)
	if err != nil || len(eps) == 0 {
		t.Fatalf("cluster %s: got %v, %v", cluster, eps, err)
	}
	if got := r.opened(cluster); len(got) != 0 {
		t.Errorf("before a pod listens: Envoy is given %v", got)
	}
	if err := r.network.Open(eps[0].Addr); err != nil {
		t.Fatal(err)
	}
	if got := r.opened(cluster); len(got) != 1 || got[0] != eps[0].Addr {
		t.Errorf("when a pod listens: Envoy is given %v, want %v", got, eps[0].Addr)
	}
}

// A page of another port of this machine is of the same site: its form comes with
// the session's cookie. Postern's check passes on where it came from.
func TestAttackLogoutByAnotherOrigin(t *testing.T) {
	s := start(t, storyConfig(t))
	outside := s.Doors()[0].URL
	cookies, err := LogIn(context.Background(), outside, "user@example.com", "12341234")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, site, origin string
		want, after        int
	}{
		{"another site", "cross-site", "http://evil.example.com", 403, 200},
		{"another port", "same-site", "http://localhost:3000", 403, 200},
		{"another port, an old browser", "", "http://localhost:3000", 403, 200},
		{"the dashboard's form", "same-origin", outside, 303, 302},
	} {
		h := sending(cookies)
		h.Set("Origin", tt.origin)
		if tt.site != "" {
			h.Set("Sec-Fetch-Site", tt.site)
		}
		if status, body, _ := s.do(t, call{method: "POST", url: outside + "/authservice/logout", header: h}); status != tt.want {
			t.Errorf("%s: got %d %s, want %d", tt.name, status, body, tt.want)
		}
		if status, _, _ := s.do(t, call{url: outside + "/", header: sending(cookies)}); status != tt.after {
			t.Errorf("%s: the dashboard afterwards: got %d, want %d", tt.name, status, tt.after)
		}
	}
}

// A connection without a request must not stay for ever.
func TestServersEndIdleConnections(t *testing.T) {
	s := start(t, storyConfig(t))
	servers := append([]*http.Server{newHTTPServer(http.NotFoundHandler()).Server}, s.servers...)
	for _, d := range s.Doors() {
		servers = append(servers, d.server.Server)
	}
	for _, server := range servers {
		if server.IdleTimeout <= time.Minute { // our clients' own
			t.Errorf("IdleTimeout: got %s", server.IdleTimeout)
		}
	}
}

// What is not solved: an application that no rule opens stays behind login as it was,
// and gets what it got, the session's cookie included, with which it could act as the
// person. DESIGN.md says so.
func TestResidualAnUnboundApplicationSeesTheSession(t *testing.T) {
	for _, tt := range []struct {
		name  string
		bound bool
		seen  bool
	}{{"bound to people", true, false}, {"unbound", false, true}} {
		t.Run(tt.name, func(t *testing.T) {
			c := storyConfig(t)
			c.Load = func() (*manifest.Set, error) {
				set, err := storyAnd(`
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: people, namespace: backend}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-call}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: user@example.com}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: postern-call}
rules: [{apiGroups: [networking.istio.io], resources: [virtualservices], verbs: [call]}]
`)
				if err != nil || tt.bound {
					return set, err
				}
				var kept []*manifest.Object
				for o := range set.All() {
					if o.Kind != "RoleBinding" || o.Meta.Namespace != "backend" {
						kept = append(kept, o)
					}
				}
				return manifest.New(kept...)
			}
			s := start(t, c)
			outside := s.Doors()[0].URL
			cookies, err := LogIn(context.Background(), outside, "user@example.com", "12341234")
			if err != nil {
				t.Fatal(err)
			}
			status, body, _ := s.do(t, call{url: outside + "/", host: "orders.example.com", header: sending(cookies)})
			if status != http.StatusOK || !strings.Contains(body, "user@example.com") {
				t.Fatalf("got %d %s", status, body)
			}
			if seen := strings.Contains(body, "authservice_session="); seen != tt.seen {
				t.Errorf("the application sees the session: got %v, want %v\n%s", seen, tt.seen, body)
			}
		})
	}
}
