//go:build e2e

package kubeflow

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/passport"
)

// attacked is a release with the tenants' objects; passport stands where one of them
// sends a passport.
func attacked(t *testing.T, release, passport string, o options) *cluster {
	t.Helper()
	text, err := os.ReadFile("testdata/attacks.yaml")
	if err != nil {
		t.Fatal(err)
	}
	o.more += strings.Replace(string(text), "PASSPORT", passport, 1)
	return start(t, release, o)
}

// reached tells whether an attack's target got anything.
func (c *cluster) reached(t *testing.T, name, target string, f func()) {
	t.Helper()
	before := c.backends.count(target)
	f()
	if n := c.backends.count(target) - before; n > 0 {
		t.Errorf("%s: %s was reached", name, target)
	}
}

// reason is posternd's newest word about the path / of a host.
func (c *cluster) reason(host string) string {
	out, at := "", ""
	for _, d := range c.decisions() {
		if when, _ := d["time"].(string); d["host"] == host && d["path"] == "/" && when > at {
			out, _ = d["reason"].(string)
			at = when
		}
	}
	return out
}

// TestTenantsRoutes: routes that a tenant may write, in every release. In his own
// namespace he has opened everything to everybody: what is refused is not refused for
// want of a rule.
func TestTenantsRoutes(t *testing.T) {
	each(t, func(t *testing.T, release string) {
		c := attacked(t, release, "none", options{more: machines(t, release) + "\n---\n"})
		b := c.browser()
		b.login()
		var session []string
		for _, cookie := range b.jar.Cookies(b.at) {
			session = append(session, cookie.Name+"="+cookie.Value)
		}
		person := "cookie: " + strings.Join(session, "; ")
		token := "authorization: Bearer " + c.token()
		anybody := "accept: */*"
		key := "x-api-key: " + c.keys["team-b/robot"]
		type expected struct{ name, host, reason string }
		var reasons []expected
		for _, tt := range []struct {
			name, host string
			with       []string // each one call's header
			target     string   // what must not be reached
			reason     string   // posternd's, for the last call
		}{
			{"x-forwarded-host and Kubeflow's Lua", "lua.team-b.example.com", []string{anybody, key, "x-forwarded-host: lua", person}, "kubeflow/ml-pipeline", "ambiguous_route"},
			{"a claim of a token and jwt_authn", "claim.team-b.example.com", []string{anybody, key, token, person}, "kubeflow/ml-pipeline", "ambiguous_route"},
			{"two objects that claim one host", "victim.kserve-test.example.com", []string{anybody, "x-api-key: " + c.keys["kserve-test/robot"], key, person}, "team-b/mallory", "ambiguous_host"},
			{"a forged owner reference", "owned.team-b.example.com", []string{anybody, key}, "kubeflow/ml-pipeline", "wrong_door"},
			{"an application that leads into Kubeflow", "tunnel.example.com", []string{anybody, key}, "kubeflow/ml-pipeline", "wrong_door"},
			{"the second hop by a route of people's", "jump.example.com", []string{anybody, key, person}, "kserve-test/llm", ""},
		} {
			c.reached(t, tt.name, tt.target, func() {
				for _, line := range tt.with {
					got := c.call(call{host: tt.host, path: "/", header: headers(line, "kubeflow-userid: user@example.com")})
					if got.status == http.StatusOK {
						t.Errorf("%s: %.20s: got %s", tt.name, line, got)
					}
				}
			})
			if tt.reason != "" {
				reasons = append(reasons, expected{tt.name, tt.host, tt.reason})
			}
		}
		// Near misses: the tenant's own model next door, and the victim's neighbour.
		if got := c.call(call{host: "fraud.team-b.example.com", path: "/v1"}); got.status != http.StatusOK {
			t.Errorf("the tenant's other model, which he opened: got %s", got)
		}
		if got := c.call(call{from: "default/myapp-pod", url: llm + "/v1"}); got.status != http.StatusOK {
			t.Errorf("a model beside the victim: got %s", got)
		}
		// A person at jump passes the first hop, as behind login today; the second one asks for a passport.
		hop := "credential_required"
		if !shared(release) {
			hop = "passport_required" // the login put the person's token into the request
		}
		reasons = append(reasons, expected{"the second hop", "llm-predictor.kserve-test.svc.cluster.local", hop})
		for _, e := range reasons { // posternd's lines come a moment later
			eventually(t, "posternd says why of "+e.host, func() bool { return c.reason(e.host) != "" })
			if got := c.reason(e.host); got != e.reason {
				t.Errorf("%s: the reason is %s, want %s", e.name, got, e.reason)
			}
		}
	})
}

// TestPassports: one that a model was given counts for nothing anywhere else.
func TestPassports(t *testing.T) {
	oldAndNew(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		if got := c.call(call{host: llmOut, path: "/v1", header: headers("x-api-key: " + c.keys["kserve-test/robot"])}); got.status != http.StatusOK {
			t.Fatalf("got %s", got)
		}
		taken := c.backends.last("kserve-test/llm").Get("X-Postern-Passport")
		keys := c.passportKeys()
		robot := access.Caller{User: "postern:key:kserve-test:robot", Proven: true, Kind: access.Key}
		mint := func(a passport.Audience, at time.Time) string {
			t.Helper()
			text, err := keys.Mint(robot, a, at)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		model := access.Model("kserve-test", "llm")
		hop := mint(passport.Audience{Resource: model, Hop: true}, time.Now())
		old := mint(passport.Audience{Resource: model}, time.Now().Add(-2*time.Minute))
		c.stop()

		for _, text := range []string{taken, hop, old} {
			replay := attacked(t, release, text, options{})
			for name, k := range map[string]call{
				"outside":                                    {host: llmOut, path: "/v1"},
				"outside, at another model":                  {host: "unbound.backend.example.com", path: "/v1"},
				"outside, with the cluster's name":           {host: "llm-predictor.kserve-test.svc.cluster.local", path: "/v1"},
				"a pod at another model":                     {from: "default/myapp-pod", url: "http://unbound.backend.svc.cluster.local/v1"},
				"a pod with the gateway's labels":            {from: "team-b/labelled", url: llm + "/v1"},
				"a pod with the model's label, elsewhere":    {from: "team-b/impostor", url: "http://unbound.backend.svc.cluster.local/v1"},
				"the ingress controller":                     {from: "ingress/ingress-nginx-controller", url: llm + "/v1"},
				"by a VirtualService that sets it":           {host: "replay.example.com", path: "/v1"},
				"by a VirtualService that sets it, a person": {host: "replay.example.com", path: "/v1", header: headers("cookie: " + replay.session())},
			} {
				if k.header == nil {
					k.header = headers("x-postern-passport: " + text)
				}
				if got := replay.call(k); got.status == http.StatusOK {
					t.Errorf("%s: got %s", name, got)
				}
			}
			replay.stop()
		}
	})
}

// passportKeys are those that posternd signs with.
func (c *cluster) passportKeys() *passport.Keys {
	c.t.Helper()
	_, rest, _ := strings.Cut(c.config, "keyFiles: [")
	file, _, _ := strings.Cut(rest, "]")
	data, err := os.ReadFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	keys := &passport.Keys{}
	if err := keys.Use(data, nil); err != nil {
		c.t.Fatal(err)
	}
	return keys
}

// session are the cookies of a person who is logged in.
func (c *cluster) session() string {
	c.t.Helper()
	b := c.browser()
	b.login()
	var out []string
	for _, cookie := range b.jar.Cookies(b.at) {
		out = append(out, cookie.Name+"="+cookie.Value)
	}
	return strings.Join(out, "; ")
}

// TestAddresses: a call that another passes on is nobody's.
func TestAddresses(t *testing.T) {
	oldAndNew(t, func(t *testing.T, release string) {
		c := attacked(t, release, "none", options{})
		for _, tt := range []struct {
			name string
			k    call
			want int
		}{
			{"a pod", call{from: "default/myapp-pod", url: llm + "/v1"}, 200},
			{"an ingress controller at the inner door", call{from: "ingress/ingress-nginx-controller", url: llm + "/v1"}, 401},
			{"an ingress controller at the outer door", call{from: "ingress/ingress-nginx-controller", url: "http://istio-ingressgateway.istio-system.svc.cluster.local/v1", host: llmOut}, 401},
			{"a pod at the outer door", call{from: "default/myapp-pod", url: "http://istio-ingressgateway.istio-system.svc.cluster.local/v1", host: llmOut}, 401},
			{"a tenant's pod with the gateway's labels", call{from: "team-b/labelled", url: llm + "/v1"}, 401},
			{"outside at the outer door, as a pod by header", call{host: llmOut, path: "/v1", header: headers("x-forwarded-for: "+c.pod("default/myapp-pod").Addr.String(), "x-envoy-external-address: "+c.pod("default/myapp-pod").Addr.String(), "forwarded: for="+c.pod("default/myapp-pod").Addr.String())}, 401},
			{"outside, the inner door's name", call{host: "llm.kserve-test.svc.cluster.local", path: "/v1"}, 0},
		} {
			got := c.call(tt.k)
			if got.status != tt.want && tt.want != 0 || tt.want == 0 && got.status == http.StatusOK {
				t.Errorf("%s: got %s, want %d", tt.name, got, tt.want)
			}
		}
	})
}

// TestServiceEntry: one named like posternd's host, and other kinds that posternd does
// not read, do not stop it. What Istio makes of the name is package deploy's affair
// (provider.yaml); the translators read no ServiceEntry, so no Envoy here has met one.
func TestServiceEntry(t *testing.T) {
	c := start(t, "26.03", options{unread: `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: posternd, namespace: team-b}
spec: {hosts: [posternd.postern-system.svc.cluster.local], ports: [{number: 9000, name: grpc, protocol: GRPC}], resolution: STATIC, endpoints: [{address: 127.0.0.1}]}
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: x, namespace: team-b}
spec: {url: "oci://example.com/x"}
`})
	for _, p := range c.daemons {
		p.until(t, "1 of networking.istio.io/v1 ServiceEntry: not read")
	}
	if got := c.call(call{from: "default/myapp-pod", url: llm + "/v1"}); got.status != http.StatusOK {
		t.Errorf("got %s", got)
	}
}

// TestSharedHost: a model's page on a host that serves Kubeflow too cannot act as the
// dashboard: it is in a sandbox, whatever it says itself.
func TestSharedHost(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Security-Policy", "sandbox allow-scripts allow-same-origin")
		_, _ = w.Write([]byte("<script>fetch('/pipeline/apis/v1beta1/experiments')</script>"))
	})
	c := start(t, "26.03", options{serve: map[string]http.Handler{"kserve-test/llm": page}})
	got := c.call(call{host: "example.com", path: "/serving/kserve-test/llm/page", header: headers("x-api-key: " + c.keys["kserve-test/robot"])})
	if csp := got.header.Values("Content-Security-Policy"); got.status != 200 || !slices.Contains(csp, "sandbox") || // browsers enforce each
		got.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("got %s with %q, want it in a sandbox", got, got.header.Values("Content-Security-Policy"))
	}
	// A person's session is not used by such a page's requests, nor by another site's.
	for name, more := range map[string][]string{"a sandboxed page": {"origin: null", "sec-fetch-site: cross-site"}, "another site": {"origin: https://evil.example.net"}, "the same site": {"sec-fetch-site: same-site"}} {
		got := c.call(call{host: "example.com", path: "/serving/kserve-test/llm/page", header: headers(append(more, "cookie: "+c.session())...)})
		if got.status != http.StatusForbidden {
			t.Errorf("%s with a session: got %s, want 403", name, got)
		}
	}
	// What the model says is its own page's affair on its own host.
	own := c.call(call{host: llmOut, path: "/page", header: headers("x-api-key: " + c.keys["kserve-test/robot"])})
	if csp := own.header.Values("Content-Security-Policy"); slices.Contains(csp, "sandbox") || len(csp) != 1 {
		t.Errorf("on its own host: got %q", csp)
	}
}
