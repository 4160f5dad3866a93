package authorizer

import (
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/internal/credential"
)

// TestEachIdentityHeader: each header that names a caller is gone in every spelling, at
// a model and at people's pages; one letter away it is somebody's own.
func TestEachIdentityHeader(t *testing.T) {
	names := []string{
		"kubeflow-userid", "kubeflow-groups", "x-user-email", "x-user-groups", "x-auth-request-user", "x-auth-request-email", "x-auth-request-groups", "x-auth-request-",
		"x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-forwarded-preferred-username", "x-forwarded-access-token",
		"x-postern-caller", "x-postern-passport", "x-postern-", "x-postern-anything", "x-mine", "x-many-1",
	}
	stay := []string{
		"kubeflow-useri", "kubeflow-userids", "kubeflow-group", "x-user-emails", "x-user-group", "x-auth-request", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-users",
		"x-forwarded-access-tokens", "x-postern", "xx-postern-caller", "x-mine-1", "x-many", "kubeflowuserid",
	}
	cfg := testConfig()
	cfg.Identity.Headers = []string{"X-Mine", "x-many-*"}
	f := newFixture(t, cfg)
	for _, req := range []Request{
		ask(8081, podAddr, "POST", openIn, predictPath), ask(8080, outside, "POST", openOut, predictPath, adaCookie), ask(8080, outside, "GET", dashboard, "/", adaCookie),
	} {
		for _, name := range slices.Concat(names, stay) {
			for _, spelled := range []string{name, strings.ReplaceAll(name, "-", "_"), strings.Replace(name, "-", "_", 1)} {
				r := req
				r.Headers = credential.Headers{"cookie": req.Headers["cookie"], spelled: {"eve"}}
				v := f.decide(t, r)
				if !v.Allow {
					t.Fatalf("%s: %s", req.Host, v.Reason)
				}
				if got := slices.Contains(forwarded(r, v)[spelled], "eve"); got != slices.Contains(stay, name) {
					t.Errorf("%s: %s: reached the backend: %t", req.Host, spelled, got)
				}
			}
		}
	}
}

// TestEachSecretHeader: what holds a credential reaches no model, used or not; people's
// pages get what they got.
func TestEachSecretHeader(t *testing.T) {
	cfg := testConfig()
	cfg.Login.Delegate.RequestHeaders = []string{"cookie", "x-auth-token", "X-Login-Token", "origin", "sec-fetch-site"}
	f := newFixture(t, cfg)
	f.login.reply = nil
	for name, goes := range map[string]bool{
		"x_auth_token": true, "x_api_key": true, "x-login_token": true, "x-authorization": false, "x-api-keys": false, "x-login-tokens": false, "origin": false, "sec-fetch-site": false,
	} {
		req := ask(8081, podAddr, "POST", openIn, predictPath, name+": s")
		v := f.decide(t, req)
		if !v.Allow || (len(forwarded(req, v)[name]) == 0) != goes {
			t.Errorf("%s: got %s %v", name, v.Reason, forwarded(req, v))
		}
		req = ask(8080, outside, "GET", dashboard, "/", adaCookie, name+": s")
		if v := f.decide(t, req); !v.Allow || len(forwarded(req, v)[name]) != 1 {
			t.Errorf("people's, %s: got %s %v", name, v.Reason, forwarded(req, v))
		}
	}
	v := f.decide(t, ask(8081, podAddr, "POST", openIn, predictPath))
	for _, name := range []string{"authorization", "x-api-key", "x-auth-token", "x-login-token"} {
		if !slices.Contains(v.Remove, name) {
			t.Errorf("%s is not removed unless the check shows it", name)
		}
	}
}

// TestEachCookie: the login's and Postern's cookies reach no model, used or not.
func TestEachCookie(t *testing.T) {
	cfg := testConfig()
	cfg.Login.Delegate.Cookies = []string{"mine", "many*"}
	f := newFixture(t, cfg)
	for cookie, goes := range map[string]bool{
		"authservice_session": true, "authservice_session_1": true, "oidc_state_csrf": true, "oidc_state_csrf_2": true, "_oauth2_proxy": true, "_oauth2_proxy_0": true, "_oauth2_proxy_csrf": true,
		"oauth2_proxy_kubeflow": true, "oauth2_proxy_kubeflow_1": true, "postern": true, "postern_x": true, "__Host-postern": true, "__Host-postern-x": true, "mine": true, "many": true, "many-1": true,
		"authservice": false, "Authservice_session": false, "xauthservice_session": false, "oidc_state": false, "oauth2_proxy": false, "x_oauth2_proxy": false, "x-postern": false, "__Host-x": false, "mine1": false, "man": false,
	} {
		req := ask(8081, podAddr, "POST", openIn, predictPath, "cookie: a=1; "+cookie+"=old; b=2")
		want := "a=1; " + cookie + "=old; b=2"
		if goes {
			want = "a=1; b=2"
		}
		v := f.decide(t, req)
		if got := forwarded(req, v)["cookie"]; !v.Allow || !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %s %v, want %q", cookie, v.Reason, got, want)
		}
	}
}

// TestOrder: of several credentials the first of the design's order counts, and taking
// it away leaves the next.
func TestOrder(t *testing.T) {
	s := newShop(t)
	key, object := s.key("team", "robot", "")
	s.swap(object)
	first := ask(8080, outside, "POST", openOut, predictPath, "authorization: Bearer "+s.person("eve@example.com", "ops"))
	second := ask(8081, gwAddr, "POST", hop2, predictPath)
	second.Headers = forwarded(first, s.decide(t, first))
	passport := forwarded(second, s.decide(t, second))[passportHeader][0]
	token := "authorization: Bearer " + s.person("ada@example.com")
	const sibling = "10.244.0.70"
	for _, tt := range []struct {
		name, from string
		headers    []string
		how, user  string
	}{
		{"a passport, a token, a session, a pod", sibling, []string{"x-postern-passport: " + passport, token, aliceCook}, ByPassport, "eve@example.com"},
		{"a token, a session, a pod", sibling, []string{token, aliceCook}, ByToken, "ada@example.com"},
		{"a key as token, a session, a pod", sibling, []string{"authorization: Bearer " + key, aliceCook}, ByKey, "postern:key:team:robot"},
		{"x-api-key, a session, a pod", sibling, []string{"x-api-key: " + key, aliceCook}, ByKey, "postern:key:team:robot"},
		{"a session, a pod", sibling, []string{adaCookie}, BySession, "ada@example.com"},
		{"an old session, a pod", sibling, []string{"cookie: authservice_session=old"}, ByPod, "postern:pod:models:default"},
		{"a pod", sibling, nil, ByPod, "postern:pod:models:default"},
		{"nothing", "10.244.0.50", nil, ByAnonymous, "system:anonymous"},
		{"a passport that does not count here, a key", podAddr, []string{"x-postern-passport: " + passport, "x-api-key: " + key}, ByKey, "postern:key:team:robot"},
	} {
		v := s.decide(t, ask(8081, tt.from, "POST", openIn, predictPath, tt.headers...))
		if v.How != tt.how || v.Caller.User != tt.user {
			t.Errorf("%s: got %s by %q (%s), want %s by %q", tt.name, v.Caller.User, v.How, v.Reason, tt.user, tt.how)
		}
	}
}

// TestMetadataOfAKey: rate limiters and access logs are told the key by its id.
func TestMetadataOfAKey(t *testing.T) {
	s := newShop(t)
	key, object := s.key("team", "robot", "")
	s.swap(object)
	for host, verdict := range map[string]string{openOut: "allow", ownedOut: "refuse"} {
		out := Response(s.decide(t, ask(8080, outside, "POST", host, predictPath, "x-api-key: "+key)))
		said := out.GetDynamicMetadata().GetFields()["postern"].GetStructValue().AsMap()
		if said["verdict"] != verdict || said["caller"] != "postern:key:team:robot" || said["credential"] == "" || !strings.Contains(key, said["credential"].(string)) || len(said["credential"].(string)) > 16 {
			t.Errorf("%s: got %v", host, said)
		}
	}
}

// TestInsecurePort: where anybody may reach the port for checks, an address is nobody's,
// but a gateway's second hop goes on by its passport.
func TestInsecurePort(t *testing.T) {
	for _, insecure := range []bool{false, true} {
		cfg := testConfig()
		cfg.Insecure = insecure
		f := newFixture(t, cfg)
		if v := f.decide(t, ask(8081, podAddr, "POST", openIn, predictPath)); v.Allow == insecure {
			t.Errorf("insecure %t: a pod: got %s", insecure, v.Reason)
		}
		first := ask(8080, outside, "POST", openOut, predictPath, adaCookie)
		next := ask(8081, gwAddr, "POST", hop2, predictPath)
		next.Headers = forwarded(first, f.decide(t, first))
		if v := f.decide(t, next); v.How != ByPassport {
			t.Errorf("insecure %t: the second hop: got %s %s", insecure, v.How, v.Reason)
		}
	}
}
