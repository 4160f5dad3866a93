//go:build e2e

package sidecar

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// base is a workload with a sidecar: port 8012 is declared HTTP, 9001 TCP, and
// others are not declared.
const base = `
apiVersion: v1
kind: Namespace
metadata: {name: app, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: model, namespace: app}
spec: {selector: {app: model}, ports: [{name: http, port: 80, targetPort: queue-port}, {name: tcp-data, port: 9000, targetPort: 9001}]}
---
apiVersion: v1
kind: Pod
metadata: {name: model, namespace: app, labels: {app: model}}
spec: {serviceAccountName: model, containers: [{name: queue, ports: [{name: queue-port, containerPort: 8012}]}]}
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: gateway, namespace: istio-system}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: gateway, namespace: istio-system}
spec: {selector: {matchLabels: {istio: ingressgateway}}, template: {metadata: {labels: {istio: ingressgateway}}, spec: {containers: [{name: istio-proxy}]}}}
---
`

// policies are Kubeflow's kind: nobody, but the gateway for the owner, the own
// namespace, probes, and a token's bearer.
const policies = `
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: global-deny-all, namespace: istio-system}
spec: {}
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: owner, namespace: app}
spec:
  rules:
  - from: [{source: {principals: [cluster.local/ns/istio-system/sa/gateway]}}]
    when: [{key: 'request.headers[kubeflow-userid]', values: [user@example.com]}]
  - when: [{key: source.namespace, values: [app]}]
  - to: [{operation: {paths: [/healthz]}}]
  - from: [{source: {remoteIpBlocks: [192.0.2.0/24]}}]
    to: [{operation: {paths: [/remote], ports: ["8012"]}}]
  - from: [{source: {ipBlocks: [192.0.2.0/24]}}]
    to: [{operation: {paths: [/direct], ports: ["8012"]}}]
  - from: [{source: {requestPrincipals: [postern/*]}}]
    to: [{operation: {ports: ["8012"]}}]
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: app}
spec: {action: DENY, rules: [{to: [{operation: {paths: ['/admin*'], ports: ["8012"]}}]}]}
---
apiVersion: security.istio.io/v1beta1
kind: RequestAuthentication
metadata: {name: passport, namespace: app}
spec: {jwtRules: [{issuer: postern, fromHeaders: [{name: x-postern-passport}], jwks: 'KEYS'}]}
---
`

// passport is a token that the policies' RequestAuthentication takes, and its key
// set.
func passport(t *testing.T) (token, keys string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "one", Algorithm: "RS256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: "one"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte(fmt.Sprintf(`{"iss":"postern","sub":"somebody","exp":%d}`, time.Now().Add(time.Hour).Unix())))
	if err != nil {
		t.Fatal(err)
	}
	if token, err = signed.CompactSerialize(); err != nil {
		t.Fatal(err)
	}
	return token, string(set)
}

func mtls(mode, more string) string {
	return "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: mtls, namespace: app}\nspec: {" + more + "mtls: {mode: " + mode + "}}\n---\n"
}

var ports = []uint16{8012, 9001, 7777}

// TestSidecars compares, request by request, what a real Envoy does with what
// Istio makes for a pod's sidecar and what the engine says.
func TestSidecars(t *testing.T) {
	a := newAuthority(t)
	own := a.issue(t, "spiffe://cluster.local/ns/app/sa/model")
	token, keys := passport(t)
	for i, line := range lines() {
		for j, tt := range []struct{ name, objects string }{
			{"no policy", ""},
			{"policies", policies},
			{"strict", policies + mtls("STRICT", "")},
			{"strict but for a port", mtls("STRICT", "selector: {matchLabels: {app: model}}, portLevelMtls: {8012: {mode: PERMISSIVE}}, ")},
			{"no mutual TLS", policies + mtls("DISABLE", "")},
		} {
			t.Run(line+" "+tt.name, func(t *testing.T) {
				proxy := sidecar(t, line, strings.ReplaceAll(tt.objects, "KEYS", keys))
				e := start(t, proxy.Resources, ports, netip.AddrFrom4([4]byte{127, 69, byte(i + 1), byte(j + 1)}), a, own)
				compareAll(t, e, proxy.Proxy, clients(t, a), requests(token))
			})
		}
	}
}

// lines are those to compare: the newest, or those of POSTERN_LINES. Of 1.17
// upstream Envoy lacks the filter that principals come from.
func lines() []string {
	if text := os.Getenv("POSTERN_LINES"); text != "" {
		return strings.Fields(text)
	}
	return []string{"newest"}
}

func sidecar(t *testing.T, line, objects string) *world.Gateway {
	t.Helper()
	set, err := manifest.Bytes("sidecar.yaml", []byte(base+objects))
	if err != nil {
		t.Fatal(err)
	}
	w, err := world.Build(context.Background(), set, world.Options{Translate: translate.Options{Version: line, Progress: os.Stderr}})
	if err != nil {
		t.Fatal(err)
	}
	pod, ok := w.Topology.Pod("app", "model")
	if !ok || w.Injected(pod) == "" {
		t.Fatalf("got pod %v, %v, want one with a sidecar", pod, ok)
	}
	g, err := w.Sidecar(context.Background(), pod)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// client is how somebody connects.
type client struct {
	name string
	as   *identity // nil: no certificate
	alpn []string  // nil: plaintext
}

func clients(t *testing.T, a *authority) []client {
	t.Helper()
	id := func(uri string) *identity { i := a.issue(t, uri); return &i }
	mesh := []string{"istio-http/1.1", "istio", "http/1.1"} // the filter istio.alpn's for HTTP/1.1
	gateway := id("spiffe://cluster.local/ns/istio-system/sa/gateway")
	return []client{
		{"plaintext", nil, nil},
		{"the gateway", gateway, mesh},
		{"a sibling", id("spiffe://cluster.local/ns/app/sa/other"), mesh},
		{"a stranger", id("spiffe://cluster.local/ns/team-b/sa/default"), []string{"istio-peer-exchange", "istio"}},
		{"another mesh", id("spiffe://elsewhere/ns/app/sa/other"), mesh},
		{"no certificate", nil, mesh},
		{"TLS of its own", gateway, []string{"http/1.1"}},
	}
}

// request is one, and the same for the engine.
type request struct {
	method, path string
	headers      envoy.Headers
}

func requests(token string) []request {
	owner := envoy.Header{Name: "kubeflow-userid", Value: "user@example.com"}
	return []request{
		{"GET", "/", nil},
		{"POST", "/v1/models/m:predict", envoy.Headers{owner, {Name: "content-length", Value: "0"}}},
		{"GET", "/", envoy.Headers{{Name: "kubeflow-userid", Value: "other@example.com"}}},
		{"GET", "/healthz", nil},
		{"GET", "/admin/x", envoy.Headers{owner}},
		{"GET", "/x/../admin", envoy.Headers{owner}},
		{"GET", "/healthz", envoy.Headers{{Name: "x-postern-passport", Value: "nonsense"}}},
		{"GET", "/", envoy.Headers{{Name: "x-postern-passport", Value: token}}},
		{"GET", "/healthz", envoy.Headers{{Name: "x-forwarded-for", Value: "1.2.3.4"}, {Name: "x-forwarded-proto", Value: "https"}, {Name: "x-request-id", Value: "one"},
			{Name: "x-forwarded-client-cert", Value: "By=spiffe://a;URI=spiffe://b"}, {Name: "x-envoy-decorator-operation", Value: "op"}, {Name: "x-envoy-attempt-count", Value: "1"},
			{Name: "x-envoy-original-host", Value: "a"}, {Name: "x-envoy-expected-rq-timeout-ms", Value: "5"}, {Name: "x-envoy-external-address", Value: "1.2.3.4"}, {Name: "x-envoy-internal", Value: "true"},
			{Name: "x-envoy-upstream-rq-timeout-ms", Value: "9"}, {Name: "x-envoy-retry-on", Value: "5xx"}, {Name: "x-envoy-original-path", Value: "/a"}, {Name: "x-envoy-peer-metadata", Value: "a"},
			{Name: "x-envoy-downstream-service-cluster", Value: "c"}, {Name: "x-envoy-downstream-service-node", Value: "n"},
			{Name: "x-envoy-retriable-header-names", Value: "a"}, {Name: "x-envoy-retry-grpc-on", Value: "a"}, {Name: "x-envoy-max-retries", Value: "1"}, {Name: "x-envoy-upstream-alt-stat-name", Value: "a"},
			{Name: "x-envoy-upstream-rq-per-try-timeout-ms", Value: "1"}, {Name: "x-envoy-upstream-rq-timeout-alt-response", Value: "1"}, {Name: "x-envoy-ip-tags", Value: "a"}, {Name: "x-envoy-original-url", Value: "a"},
			{Name: "x-envoy-retriable-status-codes", Value: "503"}, {Name: "x-envoy-hedge-on-per-try-timeout", Value: "true"}, {Name: "x-envoy-force-trace", Value: "1"}, {Name: "x-forwarded-host", Value: "h"}, {Name: "x-forwarded-port", Value: "99"}}},
		{"GET", "/remote", envoy.Headers{{Name: "x-forwarded-for", Value: "192.0.2.7"}}},
		{"GET", "/remote", envoy.Headers{{Name: "x-forwarded-for", Value: "192.0.2.7, 10.0.0.1"}}},
		{"GET", "/remote", envoy.Headers{{Name: "x-forwarded-for", Value: "10.0.0.1,192.0.2.7 "}}},
		{"GET", "/remote", envoy.Headers{{Name: "x-forwarded-for", Value: "192.0.2.7:80"}}},
		{"GET", "/remote", nil},
		{"GET", "/direct", envoy.Headers{{Name: "x-forwarded-for", Value: "192.0.2.7"}}},
		{"OPTIONS", "/healthz", envoy.Headers{{Name: "origin", Value: "http://a"}, {Name: "access-control-request-method", Value: "GET"}}},
	}
}

func (r request) raw() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: model.app\r\n", r.method, r.path)
	for _, h := range r.headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h.Name, h.Value)
	}
	return b.String() + "\r\n"
}

func compareAll(t *testing.T, e *real, proxy *envoy.Proxy, from []client, all []request) {
	t.Helper()
	seenKinds := map[envoy.Kind]int{}
	for _, c := range from {
		for _, port := range ports {
			for _, r := range all {
				o := engine(e, proxy, c, port, r)
				seenKinds[o.Kind]++
				if diff := differ(e.send(t, c.as, c.alpn, port, r.raw()), o); diff != "" {
					t.Errorf("%s at %d: %s %s %v: %s", c.name, port, r.method, r.path, r.headers, diff)
				}
			}
		}
	}
	t.Logf("compared %v", seenKinds)
	if seenKinds[envoy.Unknown] > 0 {
		t.Errorf("got %d unknown answers, want none", seenKinds[envoy.Unknown])
	}
}

func engine(e *real, proxy *envoy.Proxy, c client, port uint16, r request) envoy.Outcome {
	req := envoy.Request{Source: netip.MustParseAddrPort("127.0.0.1:1"), Destination: netip.AddrPortFrom(e.addr, port), Protocol: "HTTP/1.1",
		Method: r.method, Authority: "model.app", Path: r.path}
	for _, h := range r.headers {
		req.Headers.Add(h.Name, h.Value)
	}
	if c.alpn != nil {
		req.TLS = &envoy.TLS{ALPN: c.alpn, Local: e.own.uri}
		if c.as != nil {
			req.TLS.Peer, req.TLS.PeerHash = c.as.uri, c.as.hash
		}
	}
	return proxy.Evaluate(req, envoy.Env{RequestID: "made-up", Now: time.Now()}, nil)
}

// differ says where Envoy and the engine differ, "" for nowhere.
func differ(g got, o envoy.Outcome) string {
	cluster, app, _ := strings.Cut(g.app, "\n")
	switch o.Kind {
	case envoy.Forward:
		if cluster != o.Cluster {
			return fmt.Sprintf("engine: forwarded to %s; Envoy: %d %q, %q", o.Cluster, g.status, g.body, cluster)
		}
		if o.Route == nil { // a connection, passed on as it is
			return ""
		}
		head := o.Request.Method + " " + o.Request.Path + "\r\nhost: " + o.Request.Authority + "\r\n"
		for _, h := range o.Request.Headers {
			head += h.Name + ": " + h.Value + "\r\n"
		}
		_, want, _ := strings.Cut(seen(cluster, head), "\n")
		if a, b := steady(app), steady(want); a != b {
			return fmt.Sprintf("the application got\n%s\nthe engine says\n%s", a, b)
		}
	case envoy.Local:
		if g.status != o.Status || g.body != o.Body || cluster != "" {
			return fmt.Sprintf("engine: %d %q %s; Envoy: %d %q %s", o.Status, o.Body, o.Reason, g.status, g.body, cluster)
		}
	case envoy.Closed:
		if g.status != 0 || cluster != "" {
			return fmt.Sprintf("engine: closed, %s; Envoy: %d %q %s", o.Reason, g.status, g.body, cluster)
		}
	default:
		return "the engine cannot tell: " + o.Reason
	}
	return ""
}

// steady takes the id out that Envoy makes up.
func steady(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if value, ok := strings.CutPrefix(l, "x-request-id: "); ok && value != "one" {
			lines[i] = "x-request-id: (made up)"
		}
	}
	return strings.Join(lines, "\n")
}
