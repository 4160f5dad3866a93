package authorizer

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/passport"
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

// TestConfiguredNames: the headers in which this login names a caller, and the ones that
// backends read here, count as the known ones do.
func TestConfiguredNames(t *testing.T) {
	cfg := testConfig()
	cfg.Login.Delegate.ResponseHeaders = []string{"x-login-who", "x-login-teams"}
	cfg.Login.Delegate.UserHeader, cfg.Login.Delegate.GroupsHeader = "X-Login-Who", "X-Login-Teams"
	cfg.Identity = Identity{UserHeader: "x-app-who", GroupsHeader: "x-app-teams"}
	f := newFixture(t, cfg)
	for name, goes := range map[string]bool{
		"x-login-who": true, "x_login_who": true, "x-login_teams": true, "x-app-who": true, "x_app_teams": true, "x-login-whom": false, "x-app-team": false,
	} {
		req := ask(8081, podAddr, "POST", openIn, predictPath, name+": eve")
		if v := f.decide(t, req); !v.Allow || (len(forwarded(req, v)[name]) == 0) != goes {
			t.Errorf("%s: got %s %v", name, v.Reason, forwarded(req, v))
		}
	}
	req := ask(8080, outside, "GET", dashboard, "/dex/x")
	if v := f.decide(t, req); !v.Allow || !slices.Contains(v.Remove, passportHeader) || !slices.Contains(v.Remove, "x-login-who") {
		t.Errorf("people's: got %s, and removed is %v, which a check need not show", v.Reason, v.Remove)
	}
}

// TestEachSecretHeader: what holds a credential reaches no model, used or not; people's
// pages get what they got.
func TestEachSecretHeader(t *testing.T) {
	cfg := testConfig()
	cfg.Login.Delegate.RequestHeaders = []string{"cookie", "X-Login-Token", "origin", "sec-fetch-site"}
	f := newFixture(t, cfg)
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
	given := forwarded(second, s.decide(t, second))[passportHeader][0]
	token := "authorization: Bearer " + s.person("ada@example.com")
	const sibling = "10.244.0.70"
	for _, tt := range []struct {
		name, from string
		headers    []string
		how, user  string
	}{
		{"a passport, a token, a session, a pod", sibling, []string{"x-postern-passport: " + given, token, aliceCook}, ByPassport, "eve@example.com"},
		{"a token, a session, a pod", sibling, []string{token, aliceCook}, ByToken, "ada@example.com"},
		{"a key as token, a session, a pod", sibling, []string{"authorization: Bearer " + key, aliceCook}, ByKey, "postern:key:team:robot"},
		{"x-api-key, a session, a pod", sibling, []string{"x-api-key: " + key, aliceCook}, ByKey, "postern:key:team:robot"},
		{"a session, a pod", sibling, []string{adaCookie}, BySession, "ada@example.com"},
		{"an old session, a pod", sibling, []string{"cookie: authservice_session=old"}, ByPod, "postern:pod:models:default"},
		{"a pod", sibling, nil, ByPod, "postern:pod:models:default"},
		{"nothing", "10.244.0.50", nil, ByAnonymous, "system:anonymous"},
		{"a passport that does not count here, a key", podAddr, []string{"x-postern-passport: " + given, "x-api-key: " + key}, ByKey, "postern:key:team:robot"},
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

// TestPassportOfAPodUnbound: a passport made while a rule opened the model to pods opens
// nothing once no rule is left: only a person's is the login's word.
func TestPassportOfAPodUnbound(t *testing.T) {
	f := newFixture(t, testConfig())
	hop := func(first Request) Request {
		next := ask(8081, gwAddr, "POST", hop2, predictPath)
		next.Headers = forwarded(first, f.decide(t, first))
		return next
	}
	pod, person := hop(ask(8081, podAddr, "POST", openIn, predictPath)), hop(ask(8080, outside, "POST", openOut, predictPath, adaCookie))
	snap := newSnapshot(t, testConfig())
	snap.Rules = &access.Rules{}
	f.Swap(snap)
	if v := f.decide(t, pod); v.Reason != LoginRequired {
		t.Errorf("a pod's: got %s", v.Reason)
	}
	if v := f.decide(t, person); v.Reason != LoginAllowed {
		t.Errorf("a person's: got %s", v.Reason)
	}
}

// TestPassportEndsWithTheFirst: the second hop's passport, and what is made of it for the
// model, end a minute after the first hop's judgement, not a second later.
func TestPassportEndsWithTheFirst(t *testing.T) {
	f := newFixture(t, testConfig())
	first := ask(8080, outside, "POST", openOut, predictPath, adaCookie)
	second := ask(8081, gwAddr, "POST", hop2, predictPath)
	second.Headers = forwarded(first, f.decide(t, first))
	f.now = noon.Add(59 * time.Second)
	v := f.decide(t, second)
	if !v.Allow {
		t.Fatalf("after 59 s: %s", v.Reason)
	}
	sibling := ask(8081, "10.244.0.70", "POST", openIn, predictPath, "x-postern-passport: "+forwarded(second, v)[passportHeader][0])
	if v := f.decide(t, sibling); v.How != ByPassport {
		t.Errorf("the model's, after 59 s: got %s", v.Reason)
	}
	f.now = noon.Add(60 * time.Second)
	for name, r := range map[string]Request{"the hop's": second, "the model's": sibling} {
		if v := f.decide(t, r); v.Reason != passport.Expired || v.Status != 401 {
			t.Errorf("%s, after 60 s: got %d %s", name, v.Status, v.Reason)
		}
	}
}

// TestGroupsHeader: where the login names groups, a person's reach the model, without
// Kubernetes' own; a program's and a client's do not.
func TestGroupsHeader(t *testing.T) {
	cfg := testConfig()
	cfg.Login.Delegate.ResponseHeaders = []string{"kubeflow-userid", "kubeflow-groups"}
	cfg.Login.Delegate.GroupsHeader = "kubeflow-groups"
	f := newFixture(t, cfg)
	f.login.reply = func(r *http.Request) *http.Response {
		return response(200, http.Header{"Kubeflow-Userid": {"ada@example.com"}, "Kubeflow-Groups": {"team, lab"}}, "")
	}
	for want, req := range map[string]Request{
		"team,lab": ask(8080, outside, "POST", openOut, predictPath, adaCookie, "kubeflow-groups: admins"),
		"":         ask(8081, podAddr, "POST", openIn, predictPath, "kubeflow-groups: admins"),
	} {
		v := f.decide(t, req)
		if got := strings.Join(forwarded(req, v)["kubeflow-groups"], "|"); !v.Allow || got != want {
			t.Errorf("%s: got %q, want %q", v.Reason, got, want)
		}
	}
}

// TestApplicationIsNoModel: what is an application's and not a model's, and the calls
// that the login never hears of.
func TestApplicationIsNoModel(t *testing.T) {
	html := "accept: text/html"
	for _, tt := range []struct {
		name   string
		req    Request
		status int
		reason string
	}{
		{"a browser", ask(8080, outside, "GET", "web.example.com", "/", html), 302, LoginRefused},
		{"a browser that asks for the head alone", ask(8080, outside, "HEAD", "web.example.com", "/", html), 302, LoginRefused},
		{"a pod that takes pages", ask(8081, teamAddr, "GET", "web.example.com", "/", html), 401, CredentialRequired},
		{"the gateway itself", ask(8081, gwAddr, "GET", "web.example.com", "/", html), 401, CredentialRequired},
		{"another site's link, with a session", ask(8080, outside, "GET", "web.example.com", "/", html, adaCookie, "sec-fetch-site: cross-site"), 403, NotAllowed},
		{"the same at a model", ask(8080, outside, "GET", openOut, "/", html, adaCookie, "sec-fetch-site: cross-site"), 403, credential.CrossSite},
		{"a sibling's site", ask(8080, outside, "GET", openOut, "/", html, adaCookie, "sec-fetch-site: same-site"), 403, credential.CrossSite},
		{"typed by the person", ask(8080, outside, "GET", openOut, "/", html, adaCookie, "sec-fetch-site: none"), 403, credential.CrossSite},
		{"the same origin", ask(8080, outside, "GET", openOut, "/", html, adaCookie, "sec-fetch-site: same-origin"), 200, Allowed},
		{"no browser", ask(8080, outside, "GET", openOut, "/", adaCookie), 200, Allowed},
	} {
		f := newFixture(t, testConfig())
		if v := f.decide(t, tt.req); v.Status != tt.status || v.Reason != tt.reason {
			t.Errorf("%s: got %d %s, want %d %s", tt.name, v.Status, v.Reason, tt.status, tt.reason)
		}
	}
	f := newFixture(t, testConfig())
	f.login.err = errors.New("connection refused")
	if v := f.decide(t, ask(8080, outside, "GET", "web.example.com", "/", html)); v.Status != 503 || v.Reason != LoginUnavailable {
		t.Errorf("the login is away: got %d %s", v.Status, v.Reason)
	}
}

// TestBorrowedName: a session, or a token whose names stand without a prefix, names
// nobody of an issuer that has one.
func TestBorrowedName(t *testing.T) {
	cfg := newShop(t).cfg
	cfg.Tokens.Issuers = append(slices.Clone(cfg.Tokens.Issuers), Issuer{Issuer: "https://git.example.com", Audiences: []string{"postern"}, Keys: cfg.Tokens.Issuers[0].Keys, Username: Name{Prefix: "git:"}})
	f := newFixture(t, cfg)
	for cookie, want := range map[string]string{"git:ada": credential.ReservedName, "git.ada": NotAllowed} {
		if v := f.decide(t, ask(8080, outside, "POST", openOut, predictPath, "cookie: authservice_session="+cookie)); v.Reason != want {
			t.Errorf("%s: got %s, want %s", cookie, v.Reason, want)
		}
	}
}

// TestKeyNeverAsked: the login is asked about a token for a model behind login, never
// about an API key of Postern's, nor where it does not see Authorization.
func TestKeyNeverAsked(t *testing.T) {
	s := newShop(t)
	key, object := s.key("team", "robot", "")
	s.swap(object)
	for _, tt := range []struct {
		name, header string
		asked        int
		reason       string
	}{
		{"a token", "authorization: Bearer a.b.c", 1, credential.TokenMalformed},
		{"a key", "authorization: Bearer " + key, 0, LoginRequired},
		{"a bad key", "authorization: Bearer " + key[:20], 0, credential.KeyMalformed},
		{"a key in its own header", "x-api-key: " + key, 0, LoginRequired},
		{"Basic", "authorization: Basic eDp5", 0, credential.UnsupportedCredential},
	} {
		before := s.login.count()
		v := s.decide(t, ask(8080, outside, "POST", unboundOut, predictPath, tt.header))
		if asked := s.login.count() - before; v.Reason != tt.reason || asked != tt.asked {
			t.Errorf("%s: got %s and %d questions, want %s and %d", tt.name, v.Reason, asked, tt.reason, tt.asked)
		}
	}
	cfg := testConfig()
	cfg.Login.Delegate.RequestHeaders = []string{"cookie"}
	f := newFixture(t, cfg)
	if v := f.decide(t, ask(8080, outside, "POST", unboundOut, predictPath, "authorization: Bearer a.b.c")); v.Reason != credential.TokenMalformed || f.login.count() != 0 {
		t.Errorf("a login that does not see Authorization: got %s and %d questions", v.Reason, f.login.count())
	}
}
