package authorizer

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/passport"
	"postern.dev/postern/internal/territory"
)

func testLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(&locked{w: w}, nil))
}

type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

const (
	openIn     = "open.models.svc.cluster.local"
	openOut    = "open.models.example.com"
	ownedOut   = "owned.alice.example.com"
	unboundOut = "unbound.nobody.example.com"
	hop2       = "open-predictor.models.svc.cluster.local"
	dashboard  = "localhost:8080"
	adaCookie  = "cookie: authservice_session=ada"
	aliceCook  = "cookie: authservice_session=alice"
)

func TestDecide(t *testing.T) {
	html := "accept: text/html,*/*"
	for _, tt := range []struct {
		name   string
		req    Request
		status int // 200 is allowed
		reason string
		user   string // what the backend gets as kubeflow-userid
	}{
		{"the document's call", ask(8081, podAddr, "POST", openIn, predictPath), 200, Allowed, ""},
		{"from an IPv4-mapped address", ask(8081, "::ffff:"+podAddr, "POST", openIn, predictPath), 200, Allowed, ""},
		{"the same at the other door", ask(8080, podAddr, "POST", openOut, predictPath), 401, CredentialRequired, ""},
		{"the same from outside", ask(8080, outside, "POST", openOut, predictPath), 401, CredentialRequired, ""},
		{"from outside, claiming a pod", ask(8080, outside, "POST", openOut, predictPath, "x-forwarded-for: "+podAddr, "x-real-ip: "+podAddr), 401, CredentialRequired, ""},
		{"from outside at the inner door", ask(8081, outside, "POST", openIn, predictPath), 401, CredentialRequired, ""},
		{"a browser, no redirect", ask(8080, outside, "GET", openOut, predictPath, html), 401, CredentialRequired, ""},
		{"OPTIONS", ask(8080, outside, "OPTIONS", openOut, predictPath), 401, CredentialRequired, ""},
		{"OPTIONS of a preflight", ask(8080, outside, "OPTIONS", openOut, predictPath, "origin: https://x", "access-control-request-method: POST"), 401, CredentialRequired, ""},
		{"the gateway's own address", ask(8081, gwAddr, "POST", openIn, predictPath), 401, CredentialRequired, ""},
		{"an ingress controller's", ask(8081, "10.244.0.40", "POST", openIn, predictPath), 401, CredentialRequired, ""},
		{"a pod in its node's network", ask(8081, "10.244.0.30", "POST", openIn, predictPath), 401, CredentialRequired, ""},
		{"two pods with one address", ask(8081, "10.244.0.50", "POST", openIn, predictPath), 401, CredentialRequired, ""},
		{"another model from a pod", ask(8081, podAddr, "POST", "owned.alice.svc.cluster.local", "/v1/models/owned:predict"), 401, CredentialRequired, ""},
		{"paths do not matter", ask(8081, podAddr, "GET", openIn, "/anything/../else?x=/v1"), 200, Allowed, ""},

		{"a session with a rule", ask(8080, outside, "POST", openOut, predictPath, adaCookie), 200, Allowed, "ada@example.com"},
		{"a session without", ask(8080, outside, "POST", ownedOut, predictPath, adaCookie), 403, NotAllowed, ""},
		{"the owner's", ask(8080, outside, "POST", ownedOut, predictPath, aliceCook), 200, Allowed, "alice@example.com"},
		{"a session from the same page", ask(8080, outside, "POST", ownedOut, predictPath, aliceCook, "origin: http://owned.alice.example.com", "sec-fetch-site: same-origin"), 200, Allowed, "alice@example.com"},
		{"a session from another site's page", ask(8080, outside, "POST", ownedOut, predictPath, aliceCook, "origin: http://evil.example", "sec-fetch-site: cross-site"), 403, credential.CrossSite, ""},
		{"an old browser, another site's page", ask(8080, outside, "POST", ownedOut, predictPath, aliceCook, "origin: http://evil.example"), 403, credential.CrossSite, ""},
		{"an old cookie and a pod", ask(8081, podAddr, "POST", openIn, predictPath, "cookie: authservice_session=old"), 200, Allowed, ""},
		{"an old cookie outside", ask(8080, outside, "POST", openOut, predictPath, "cookie: authservice_session=old", html), 401, CredentialRequired, ""},
		{"a session of a pod's browser: the person counts", ask(8081, podAddr, "POST", openIn, predictPath, aliceCook), 403, NotAllowed, ""},

		{"a bearer token", ask(8081, podAddr, "POST", openIn, predictPath, "authorization: Bearer x"), 401, credential.TokenMalformed, ""},
		{"basic", ask(8080, outside, "POST", ownedOut, predictPath, "authorization: Basic x", aliceCook), 401, credential.UnsupportedCredential, ""},
		{"an API key", ask(8081, podAddr, "POST", openIn, predictPath, "x-api-key: k"), 401, credential.KeyMalformed, ""},
		{"a bad session token", ask(8081, podAddr, "POST", openIn, predictPath, "x-auth-token: k"), 401, credential.InvalidSession, ""},

		{"unbound: nothing", ask(8080, outside, "GET", unboundOut, "/v1", html), 401, LoginRequired, ""},
		{"unbound: a pod", ask(8081, podAddr, "POST", "unbound.nobody.svc.cluster.local", "/v1"), 401, LoginRequired, ""},
		{"unbound: a session", ask(8080, outside, "POST", unboundOut, "/v1", adaCookie), 200, LoginAllowed, "ada@example.com"},
		{"unbound: a path that the login skips", ask(8080, outside, "POST", unboundOut, "/dex/x"), 401, LoginRequired, ""},

		{"the backend's application from its pod", ask(8081, podAddr, "GET", "web.example.com", "/"), 200, Allowed, ""},
		{"from another team's pod", ask(8081, teamAddr, "GET", "web.example.com", "/"), 401, CredentialRequired, ""},
		{"from outside by a program", ask(8080, outside, "GET", "web.example.com", "/"), 401, CredentialRequired, ""},
		{"from outside by a browser", ask(8080, outside, "GET", "web.example.com", "/", html), 302, LoginRefused, ""},
		{"by a browser with an old cookie", ask(8080, outside, "GET", "web.example.com", "/", html, "cookie: authservice_session=old"), 302, LoginRefused, ""},
		{"by a browser that posts", ask(8080, outside, "POST", "web.example.com", "/", html), 401, CredentialRequired, ""},
		{"by a browser, a path that the login skips", ask(8080, outside, "GET", "web.example.com", "/dex/x", html), 401, CredentialRequired, ""},
		{"by a browser with a token", ask(8080, outside, "GET", "web.example.com", "/", html, "authorization: Bearer x"), 401, credential.TokenMalformed, ""},
		{"a person without a rule", ask(8080, outside, "GET", "web.example.com", "/", html, adaCookie), 403, NotAllowed, ""},
		{"an unbound application is the login's", ask(8080, outside, "GET", "free.example.com", "/"), 302, LoginRefused, ""},
		{"with a session", ask(8080, outside, "GET", "free.example.com", "/", adaCookie), 200, LoginAllowed, "ada@example.com"},

		{"the dashboard", ask(8080, outside, "GET", dashboard, "/", html), 302, LoginRefused, ""},
		{"logged in", ask(8080, outside, "GET", dashboard, "/", html, adaCookie), 200, LoginAllowed, "ada@example.com"},
		{"the dashboard from a pod", ask(8081, podAddr, "GET", dashboard, "/"), 302, LoginRefused, ""},
		{"Dex's own pages", ask(8080, outside, "GET", dashboard, "/dex/auth"), 200, LoginAllowed, ""},
		{"a model's path on Kubeflow's host", ask(8080, outside, "POST", dashboard, predictPath), 302, LoginRefused, ""},
		{"two that claim one host", ask(8080, outside, "GET", "twin.example.com", "/", adaCookie), 403, territory.AmbiguousHost, ""},
		{"an unknown door", ask(8443, podAddr, "GET", openIn, "/", adaCookie), 503, territory.UnknownDoor, ""},
		{"CONNECT", ask(8080, outside, "CONNECT", dashboard, "/"), 400, Unrepresentable, ""},
		{"a websocket", ask(8081, podAddr, "GET", openIn, predictPath, "upgrade: websocket", "connection: keep-alive, Upgrade"), 200, Allowed, ""},
		{"a websocket that takes the caller's name away", ask(8081, podAddr, "GET", openIn, predictPath, "upgrade: websocket", "connection: Upgrade, X-Postern_Caller"), 400, Unrepresentable, ""},
		{"a websocket that takes the person's name away", ask(8080, outside, "GET", dashboard, "/", "upgrade: websocket", "connection: Upgrade,kubeflow-userid ", adaCookie), 400, Unrepresentable, ""},
		{"no path", ask(8080, outside, "GET", dashboard, "x"), 400, Unrepresentable, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, testConfig())
			forged := []string{"kubeflow-userid", "kubeflow_userid", "kubeflow-groups", "x-auth-request-email", "x_forwarded_user", "x-postern-caller"}
			for _, name := range forged {
				tt.req.Headers[name] = []string{"victim@example.com"}
			}
			v := f.decide(t, tt.req)
			if v.Status != tt.status || v.Reason != tt.reason || v.Allow != (tt.status == 200) {
				t.Fatalf("got %t %d %s (%s), want %d %s", v.Allow, v.Status, v.Reason, v.Message, tt.status, tt.reason)
			}
			if !v.Allow {
				checkRefusal(t, tt.req, v)
				return
			}
			out := forwarded(tt.req, v)
			if got := strings.Join(out["kubeflow-userid"], ","); got != tt.user {
				t.Errorf("the backend gets kubeflow-userid %q, want %q", got, tt.user)
			}
			for name, values := range out {
				if slices.Contains(values, "victim@example.com") {
					t.Errorf("the client's own %s reaches the backend", name)
				}
			}
		})
	}
}

// checkRefusal: JSON and never a page, but for the login's own answer.
func checkRefusal(t *testing.T, req Request, v Verdict) {
	t.Helper()
	if v.Reason == LoginRefused {
		if len(headerOf(v.Headers, "location")) != 1 || len(headerOf(v.Headers, "set-cookie")) != 2 || string(v.Body) != "go" {
			t.Errorf("the login's answer did not pass whole: %v %q", v.Headers, v.Body)
		}
		return
	}
	var body refusal
	if err := json.Unmarshal(v.Body, &body); err != nil || body.Error != v.Reason || body.Message == "" {
		t.Errorf("got body %q %v", v.Body, err)
	}
	if got := headerOf(v.Headers, "content-type"); !slices.Equal(got, []string{"application/json"}) {
		t.Errorf("got content-type %v", got)
	}
	if got := headerOf(v.Headers, "cache-control"); !slices.Equal(got, []string{"no-store"}) {
		t.Errorf("got cache-control %v", got)
	}
	if got := headerOf(v.Headers, "www-authenticate"); (len(got) == 1) != (v.Status == 401) {
		t.Errorf("got www-authenticate %v with %d", got, v.Status)
	}
	if len(headerOf(v.Headers, "location")) > 0 {
		t.Error("a redirect")
	}
}

// TestSecondHop walks a call through the gateway twice.
func TestSecondHop(t *testing.T) {
	f := newFixture(t, testConfig())
	for _, tt := range []struct {
		name  string
		first Request
		user  string
	}{
		{"a pod", ask(8081, podAddr, "POST", openIn, predictPath, "x-postern-passport: forged"), "postern:pod:default:default"},
		{"a person", ask(8080, outside, "POST", openOut, predictPath, adaCookie), "ada@example.com"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := f.decide(t, tt.first)
			if !v.Allow {
				t.Fatalf("first hop: %s", v.Reason)
			}
			next := ask(8081, gwAddr, "POST", hop2, predictPath)
			next.Headers = forwarded(tt.first, v)
			hop := next.Headers["x-postern-passport"][0]
			v2 := f.decide(t, next)
			if !v2.Allow || v2.How != ByPassport || v2.Caller.User != tt.user || !v2.Caller.Equal(v.Caller) {
				t.Fatalf("second hop: %t %s %+v", v2.Allow, v2.Reason, v2.Caller)
			}
			out := forwarded(next, v2)
			next.Headers = out
			if got := out["x-postern-passport"]; len(got) != 1 || got[0] == hop {
				t.Errorf("got passports %v, want one, and not the hop's", got)
			} else if v := f.decide(t, next); v.Allow || v.Reason != passport.WrongAudience {
				t.Errorf("the model's passport at the second hop: %t %s", v.Allow, v.Reason)
			}
			if got := out["x-postern-caller"]; !slices.Equal(got, []string{tt.user}) {
				t.Errorf("got caller %v", got)
			}
			if got, want := len(out["kubeflow-userid"]), v.Caller.Kind == access.Person; (got == 1) != want {
				t.Errorf("got kubeflow-userid %v", out["kubeflow-userid"])
			}
		})
	}
}

func TestSecondHopUnbound(t *testing.T) {
	f := newFixture(t, testConfig())
	first := ask(8080, outside, "POST", unboundOut, "/v1", adaCookie)
	next := ask(8081, gwAddr, "POST", "unbound-predictor.nobody.svc.cluster.local", "/v1")
	next.Headers = forwarded(first, f.decide(t, first))
	if v := f.decide(t, next); !v.Allow || v.Caller.User != "ada@example.com" {
		t.Errorf("got %t %s", v.Allow, v.Reason)
	}
}

// TestPassportReplay: a passport counts on the gateway's second hop, for its
// model, for a minute.
func TestPassportReplay(t *testing.T) {
	f := newFixture(t, testConfig())
	first := ask(8080, outside, "POST", openOut, predictPath, adaCookie)
	token := "x-postern-passport: " + forwarded(first, f.decide(t, first))["x-postern-passport"][0]
	for _, tt := range []struct {
		name   string
		req    Request
		after  time.Duration
		status int
		reason string
	}{
		{"the second hop", ask(8081, gwAddr, "POST", hop2, predictPath, token), 0, 200, Allowed},
		{"from outside", ask(8080, outside, "POST", openOut, predictPath, token), 0, 401, CredentialRequired},
		{"from outside at the inner door", ask(8081, outside, "POST", hop2, predictPath, token), 0, 401, CredentialRequired},
		{"from the gateway at the outer door", ask(8080, gwAddr, "POST", openOut, predictPath, token), 0, 401, CredentialRequired},
		{"from a pod: the pod counts", ask(8081, podAddr, "POST", hop2, predictPath, token), 0, 200, Allowed},
		{"for another model", ask(8081, gwAddr, "POST", "owned-predictor.alice.svc.cluster.local", "/", token), 0, 401, passport.WrongAudience},
		{"for an application", ask(8081, gwAddr, "GET", "web.example.com", "/", token, "accept: text/html"), 0, 401, passport.WrongAudience},
		{"after a minute", ask(8081, gwAddr, "POST", hop2, predictPath, token), time.Minute, 401, passport.Expired},
		{"twice", ask(8081, gwAddr, "POST", hop2, predictPath, token, token), 0, 401, passport.Malformed},
		{"not a passport", ask(8081, gwAddr, "POST", hop2, predictPath, "x-postern-passport: x"), 0, 401, passport.Malformed},
		{"a session on the second hop", ask(8081, gwAddr, "POST", hop2, predictPath, adaCookie), 0, 401, CredentialRequired},
		{"people's", ask(8080, outside, "GET", dashboard, "/", token), 0, 302, LoginRefused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.now = noon.Add(tt.after)
			v := f.decide(t, tt.req)
			if v.Status != tt.status || v.Reason != tt.reason {
				t.Fatalf("got %d %s (%s), want %d %s", v.Status, v.Reason, v.Message, tt.status, tt.reason)
			}
			if tt.name == "from a pod: the pod counts" && v.Caller.User != "postern:pod:default:default" {
				t.Errorf("got %s", v.Caller.User)
			}
		})
	}
	f.now = noon
	// RBAC is judged again: what has been taken away is gone at once.
	without := newSnapshot(t, testConfig())
	without.Rules = &access.Rules{}
	f.Swap(without)
	req := ask(8081, gwAddr, "POST", hop2, predictPath, token)
	if v := f.decide(t, req); v.Reason != LoginAllowed {
		t.Errorf("no rules at all: got %s, want what a session may", v.Reason)
	}
}

// TestForwardedHeaders: what a model gets to see.
func TestForwardedHeaders(t *testing.T) {
	f := newFixture(t, testConfig())
	req := ask(8080, outside, "POST", openOut, predictPath,
		"cookie: theirs=1; authservice_session=ada; _oauth2_proxy_1=x; oauth2_proxy_kubeflow=y; oidc_state_csrf=z; more=2",
		"content-type: application/json", "accept: */*", "traceparent: t", "X-Custom: c",
		"Kubeflow-UserId: eve", "Kubeflow_Userid: eve", "kubeflow-groups: g", "KUBEFLOW_GROUPS: g", "x-user-email: e", "X_User-Groups: g",
		"x-auth-request-user: e", "x_auth_request_email: e", "X-Auth-Request-Access-Token: t", "x-forwarded-user: e", "x-forwarded_email: e", "x-forwarded-groups: g",
		"x-postern-caller: e", "x_postern_caller: e", "x-postern-passport: p", "x-postern_anything: e", "X-Auth_Token: s", "x_api_key: s",
	)
	v := f.decide(t, req)
	if !v.Allow {
		t.Fatal(v.Reason)
	}
	got := forwarded(req, v)
	token := got["x-postern-passport"]
	delete(got, "x-postern-passport")
	want := credential.Headers{
		"cookie": {"theirs=1; more=2"}, "content-type": {"application/json"}, "accept": {"*/*"}, "traceparent": {"t"}, "x-custom": {"c"},
		"kubeflow-userid": {"ada@example.com"}, "x-postern-caller": {"ada@example.com"},
	}
	if len(token) != 1 {
		t.Errorf("got passports %v", token)
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s reaches the model", name)
		}
	}
	for name, values := range want {
		if !slices.Equal(got[name], values) {
			t.Errorf("%s: got %v, want %v", name, got[name], values)
		}
	}
	for _, name := range []string{"authorization", "x-api-key", "x-auth-token", "kubeflow-groups"} {
		if !slices.Contains(v.Remove, name) {
			t.Errorf("%s is not removed unless the check shows it", name)
		}
	}
	for _, h := range v.Set {
		if slices.Contains(v.Remove, h.Name) {
			t.Errorf("%s is set and removed: Envoy removes last", h.Name)
		}
	}
	req = ask(8080, outside, "POST", openOut, predictPath, adaCookie)
	if out := forwarded(req, f.decide(t, req)); len(out["cookie"]) > 0 {
		t.Errorf("got cookies %v, want none", out["cookie"])
	}
}

// TestPeopleAsked: the login gets what Envoy's own HTTP ext_authz would send.
func TestPanicRefuses(t *testing.T) {
	f := newFixture(t, testConfig())
	f.login.reply = func(*http.Request) *http.Response { panic("boom") }
	for _, r := range []Request{ask(8080, outside, "GET", dashboard, "/"), ask(8080, outside, "POST", openOut, "/", adaCookie)} {
		v := f.decide(t, r)
		if v.Allow || v.Status != 503 {
			t.Errorf("got %t %d %s", v.Allow, v.Status, v.Reason)
		}
		if strings.Contains(string(v.Body), "boom") {
			t.Error("the client sees the cause")
		}
	}
	if !strings.Contains(f.log.String(), "boom") {
		t.Error("the log does not see the cause")
	}
}

func TestMissingFields(t *testing.T) {
	f := newFixture(t, testConfig())
	good := ask(8081, podAddr, "POST", openIn, "/")
	for name, change := range map[string]func(*Request){
		"nothing at all": func(r *Request) { *r = Request{} },
		"method":         func(r *Request) { r.Method = "" },
		"host":           func(r *Request) { r.Host = "" },
		"path":           func(r *Request) { r.Path = "" },
		"source":         func(r *Request) { r.Source = netip.Addr{} },
		"door":           func(r *Request) { r.Door = 0 },
	} {
		r := good
		change(&r)
		if v := f.decide(t, r); v.Allow || v.Status != 503 {
			t.Errorf("without %s: got %t %d %s", name, v.Allow, v.Status, v.Reason)
		}
	}
	good.Headers = nil
	if v := f.decide(t, good); !v.Allow {
		t.Errorf("without headers: got %s", v.Reason)
	}
	empty, err := New(Config{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if v := empty.Decide(t.Context(), good); v.Allow {
		t.Error("the zero configuration allows")
	}
}

// randomRequest is any request: what matters to a judgement often, anything
// else sometimes.
// TestModelsNeverRedirect: whatever the method and the headers, a model answers
// neither with a redirect nor with a page, and Set and Remove never meet.
// TestNothingAllowsByItself: with a login that lets nobody in and no rules, no
// method, path or header gets an allow.
func TestGRPCRefusalIsText(t *testing.T) {
	f := newFixture(t, testConfig())
	for ct, text := range map[string]bool{"application/grpc": true, "application/grpc+proto": true, "application/grpc-web": false, "application/json": false} {
		v := f.decide(t, ask(8080, outside, "POST", openOut, "/inference.GRPCInferenceService/ModelInfer", "content-type: "+ct))
		if v.Status != 401 || strings.HasPrefix(string(v.Body), "{") == text {
			t.Errorf("%s: got %d %q", ct, v.Status, v.Body)
		}
	}
}

// TestLogHoldsNoSecret looks for what went in as a secret.
