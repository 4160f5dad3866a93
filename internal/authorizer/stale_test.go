package authorizer

import (
	"testing"
	"time"
)

// TestPodsStale: once it is not known any more who holds an address, pods are nobody
// and told so; all else goes on.
func TestPodsStale(t *testing.T) {
	f := newFixture(t, testConfig())
	known := f.now
	f.Authorizer.podsAt = func() time.Time { return known }
	for _, tt := range []struct {
		name   string
		req    Request
		fresh  string
		stale  string
		status int // when stale
	}{
		{"a pod", ask(8081, podAddr, "POST", openIn, predictPath), Allowed, PodsStale, 503},
		{"an application from its pod", ask(8081, podAddr, "GET", "web.example.com", "/"), Allowed, PodsStale, 503},
		{"a model's own pod", ask(8081, "10.244.0.70", "POST", openIn, predictPath), Allowed, PodsStale, 503},
		{"a sibling of a model that nobody opened", ask(8081, "10.244.0.71", "POST", "unbound.nobody.svc.cluster.local", "/v1"), Sibling, PodsStale, 503},
		{"a pod with a session", ask(8081, podAddr, "POST", openIn, predictPath, adaCookie), Allowed, Allowed, 200},
		{"the gateway itself, without a passport", ask(8081, gwAddr, "POST", openIn, predictPath), CredentialRequired, CredentialRequired, 401},
		{"from outside", ask(8080, outside, "POST", openOut, predictPath), CredentialRequired, CredentialRequired, 401},
		{"a person's page", ask(8080, outside, "GET", dashboard, "/", adaCookie), LoginAllowed, LoginAllowed, 200},
	} {
		known = f.now.Add(-PodsBelieved + time.Millisecond)
		if v := f.decide(t, tt.req); v.Reason != tt.fresh {
			t.Errorf("%s: got %s, want %s", tt.name, v.Reason, tt.fresh)
		}
		known = f.now.Add(-PodsBelieved)
		if v := f.decide(t, tt.req); v.Reason != tt.stale || v.Status != tt.status {
			t.Errorf("%s, stale: got %d %s, want %d %s", tt.name, v.Status, v.Reason, tt.status, tt.stale)
		}
	}
}
