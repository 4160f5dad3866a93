//go:build e2e

package sidecar

import (
	"crypto/rand"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
	postern "postern.dev/postern/internal/passport"
)

// acceptance is the rule for a model's sidecar: the passport that posternd gives at the
// gateway, for this model, and nothing else. The keys are inline, never jwksUri: while
// istiod cannot fetch keys it trusts a key whose private half is public (CVE-2026-31837).
const acceptance = `
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: global-deny-all, namespace: istio-system}
spec: {}
---
apiVersion: security.istio.io/v1beta1
kind: RequestAuthentication
metadata: {name: postern, namespace: app}
spec:
  selector: {matchLabels: {app: model}}
  jwtRules:
  - {issuer: postern, audiences: [app/inferenceservices/model], fromHeaders: [{name: x-postern-passport}], forwardOriginalToken: true, jwks: 'KEYS'}
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: postern, namespace: app}
spec:
  selector: {matchLabels: {app: model}}
  rules:
  - from: [{source: {requestPrincipals: [postern/*]}}]
    when: [{key: 'request.auth.audiences', values: [app/inferenceservices/model]}]
---
`

// TestPassport: Envoy's jwt_authn and RBAC, as Istio makes them of that rule, take the
// passports of package passport for this model, until they expire, and no others; the
// caller's identity survives however many hops without mutual TLS to name him.
func TestPassport(t *testing.T) {
	a := newAuthority(t)
	own := a.issue(t, "spiffe://cluster.local/ns/app/sa/model")
	keys, err := postern.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	others, err := postern.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	robot := access.Caller{User: "postern:key:app:robot", Groups: []string{"postern:keys:app"}, Proven: true, Kind: access.Key}
	mint := func(k *postern.Keys, name string, hop bool, at time.Time) string {
		t.Helper()
		text, err := k.Mint(robot, postern.Audience{Resource: access.Model("app", name), Hop: hop}, at)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	now := time.Now()
	good := mint(keys, "model", false, now)
	graph, err := keys.Mint(robot, postern.Audience{Resource: access.Graph("app", "model")}, now)
	if err != nil {
		t.Fatal(err)
	}
	// A key that has been rotated in is known to the sidecar only once its rule says so.
	published := string(keys.JWKS())
	for i, line := range lines() {
		proxy := sidecar(t, line, strings.ReplaceAll(acceptance, "KEYS", published))
		e := start(t, proxy.Resources, ports, netip.AddrFrom4([4]byte{127, 71, byte(i + 1), 1}), a, own)
		for _, tt := range []struct {
			name, header string
			status       int
		}{
			{"its own", "x-postern-passport: " + good, 200},
			{"none", "x-other: x", 403},
			{"another model's", "x-postern-passport: " + mint(keys, "other", false, now), 403},
			{"a graph's of the same name", "x-postern-passport: " + graph, 403},
			{"the gateway's second hop's", "x-postern-passport: " + mint(keys, "model", true, now), 403},
			// 60 s, and the 60 s of tolerance that Envoy has and Istio leaves (clock_skew_seconds).
			{"of a minute and a half ago", "x-postern-passport: " + mint(keys, "model", false, now.Add(-90*time.Second)), 200},
			{"of three minutes ago", "x-postern-passport: " + mint(keys, "model", false, now.Add(-3*time.Minute)), 401},
			{"another's keys", "x-postern-passport: " + mint(others, "model", false, now), 401},
			{"cut", "x-postern-passport: " + good[:len(good)-10], 401},
			{"nonsense", "x-postern-passport: x", 401},
			{"in another header", "authorization: Bearer " + good, 403},
			{"the names without the passport", "x-postern-caller: postern:key:app:robot", 403},
		} {
			for _, c := range clients(t, a)[:4] {
				got := e.send(t, c.as, c.alpn, 8012, "GET /v1/models HTTP/1.1\r\nHost: model.app\r\n"+tt.header+"\r\n\r\n")
				if got.status != tt.status || (got.app != "") != (tt.status == 200) {
					t.Errorf("istio %s: %s, %s: got %d %s, want %d", line, c.name, tt.name, got.status, got.body, tt.status)
				}
			}
		}
	}
}
