package authorizer

import (
	"net/http"
	"slices"
	"testing"
)

// TestSkip: what the gateway never asked the login about goes on unasked, without
// headers that name a caller; near misses are asked about, and a model's rule is not
// left to the gateway's other policies.
func TestSkip(t *testing.T) {
	cfg := testConfig()
	cfg.Login.Delegate.Skip = Skip{Doors: []uint16{8080}, Headers: []string{"Authorization"}, Paths: []string{"/dex/*", "/oauth2/callback"}}
	f := newFixture(t, cfg)
	forged := []string{"kubeflow-userid: eve", "x-postern-caller: eve", "X_Auth-Request_Email: eve", "x-postern-passport: x"}
	for _, tt := range []struct {
		name   string
		req    Request
		reason string
	}{
		{"a bearer token at the dashboard", ask(8080, outside, "GET", dashboard, "/", append(forged, "authorization: Bearer a.b.c")...), LoginSkipped},
		{"basic", ask(8080, outside, "GET", dashboard, "/", "authorization: Basic eDp5"), LoginSkipped},
		{"under a prefix", ask(8080, outside, "GET", dashboard, "/dex/auth?x=1", forged...), LoginSkipped},
		{"exactly", ask(8080, outside, "GET", dashboard, "/oauth2/callback?code=1"), LoginSkipped},
		{"an application without a rule", ask(8080, outside, "GET", "free.example.com", "/", "authorization: Bearer a.b.c"), LoginSkipped},
		{"the prefix alone", ask(8080, outside, "GET", dashboard, "/dex"), LoginAllowed},
		{"longer than an exact one", ask(8080, outside, "GET", dashboard, "/oauth2/callback/x"), LoginRefused},
		{"in the query", ask(8080, outside, "GET", dashboard, "/x?/dex/"), LoginRefused},
		{"in the middle", ask(8080, outside, "GET", dashboard, "/x/dex/y"), LoginRefused},
		{"another header", ask(8080, outside, "GET", dashboard, "/", "x-authorization: Bearer a.b.c"), LoginRefused},
		{"at a door without such policies", ask(8081, podAddr, "GET", dashboard, "/", "authorization: Bearer a.b.c"), LoginRefused},
		{"an API key", ask(8080, outside, "GET", dashboard, "/dex/x", "x-api-key: postern_x"), WrongDoor},
		{"a model with a rule", ask(8080, outside, "POST", openOut, "/dex/x"), CredentialRequired},
		{"a model without one", ask(8080, outside, "POST", "unbound.nobody.example.com", "/dex/x"), LoginRequired},
		{"an application with a rule", ask(8080, outside, "POST", "private.example.com", "/dex/x"), CredentialRequired},
	} {
		v := f.decide(t, tt.req)
		if v.Reason != tt.reason || v.Allow != (tt.reason == LoginSkipped || tt.reason == LoginAllowed) {
			t.Errorf("%s: got %s, want %s", tt.name, v.Reason, tt.reason)
		}
		if v.Reason != LoginSkipped {
			continue
		}
		for name, values := range forwarded(tt.req, v) {
			if slices.Contains(values, "eve") || name == passportHeader || name == callerHeader {
				t.Errorf("%s: reached the backend: %s", tt.name, name)
			}
		}
	}
}

// TestRefusalHeaders: as Istio's headersToDownstreamOnDeny, which Envoy widens by
// location and www-authenticate.
func TestRefusalHeaders(t *testing.T) {
	for _, tt := range []struct {
		list []string
		want []string
	}{
		{nil, []string{"location", "set-cookie", "set-cookie"}},
		{[]string{"Set-Cookie"}, []string{"location", "set-cookie", "set-cookie"}},
		{[]string{"content-type"}, []string{"location"}},
	} {
		cfg := testConfig()
		cfg.Login.Delegate.RefusalHeaders = tt.list
		v := newFixture(t, cfg).decide(t, ask(8080, outside, "GET", dashboard, "/"))
		var got []string
		for _, h := range v.Headers {
			got = append(got, h.Name)
		}
		if v.Status != 302 || !slices.Equal(got, tt.want) {
			t.Errorf("%v: got %d %v, want 302 %v", tt.list, v.Status, got, tt.want)
		}
	}
}

// TestPersonsHeader: the login names people in a header of its own, backends read
// kubeflow-userid (Kubeflow since 1.9).
func TestPersonsHeader(t *testing.T) {
	cfg := testConfig()
	cfg.Login.Delegate.ResponseHeaders = []string{"x-auth-request-email"}
	cfg.Login.Delegate.UserHeader = "x-auth-request-email"
	cfg.Identity = Identity{UserHeader: "kubeflow-userid"}
	f := newFixture(t, cfg)
	f.login.reply = func(*http.Request) *http.Response {
		return response(200, http.Header{"X-Auth-Request-Email": {"ada@example.com"}}, "")
	}
	req := ask(8080, outside, "POST", openOut, predictPath, adaCookie, "kubeflow-userid: eve")
	got := forwarded(req, f.decide(t, req))
	if !slices.Equal(got["kubeflow-userid"], []string{"ada@example.com"}) || len(got["x-auth-request-email"]) > 0 {
		t.Errorf("the model got %v", got)
	}
}
