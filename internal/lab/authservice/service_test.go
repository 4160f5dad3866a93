package authservice

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Nobody without a session gets 200, by any method, anywhere but under the
// skipped prefix: OPTIONS neither, with or without a preflight's headers.
func TestNobodyIsLetThrough(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Now: fake.clock.now})
	methods := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"}
	paths := []string{"/", "/v1/models/iris:predict", "/v1/models", "/logout", "/authservice/logout", "/login/oidc", "/login/oidc?code=a&state=b",
		"/healthz", "/ping", "/a?b=/dex/", "/a?x=.css", "//dex/", "/%2fdex"}
	for _, method := range methods {
		for _, path := range paths {
			r := request(method, path)
			r.Header.Set("Origin", "http://localhost:8080")
			r.Header.Set("Access-Control-Request-Method", "POST")
			r.Header.Set("Kubeflow-Userid", "admin@example.com")
			r.Header.Set("Authorization", "Bearer x")
			r.Header.Set("Cookie", sessionCookie+"=x; "+stateCookie+"=y")
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code < 300 || w.Code > 499 {
				t.Errorf("%s %s: got %d", method, path, w.Code)
			}
			for name, values := range w.Header() {
				if strings.Contains(strings.ToLower(name), "userid") || strings.Contains(strings.Join(values, ""), "admin@") {
					t.Errorf("%s %s: answered %s: %q", method, path, name, values)
				}
			}
		}
	}
}

func TestSkippedPrefix(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Settings: kubeflow("SKIP_AUTH_URI", "  /dex /info "), Now: fake.clock.now})
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/dex", 200},
		{"GET", "/dex/", 200},
		{"POST", "/dex/auth/local/login?state=x", 200},
		{"OPTIONS", "/dex/token", 200},
		{"GET", "/dexter", 200}, // a bare prefix, as in the original
		{"GET", "/dex%2fauth", 200},
		{"GET", "/information", 200},
		{"GET", "/%64ex/", 200}, // it is the decoded path that is compared, in the original too
		{"GET", "/de", 302},
		{"GET", "/DEX/", 302},
		{"GET", "/a/dex/", 302},
		{"GET", "/?/dex/", 302},
		{"GET", "/dex/../pipeline", 302},
		{"GET", "/dex/%2e%2e/pipeline", 302},
		{"GET", "/dex%2f..%2fpipeline", 302},
		{"GET", "/dex/./x", 302},
		{"GET", `/dex%5c..%5cpipeline`, 302},
	} {
		w := httptest.NewRecorder()
		r := request(tt.method, tt.path)
		r.Header.Set("Kubeflow-Userid", "admin@example.com")
		s.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s %s: got %d, want %d", tt.method, tt.path, w.Code, tt.status)
		}
		if w.Code == 200 && (len(w.Header()) != 0 || w.Body.Len() != 0) {
			t.Errorf("%s %s: got headers %v, want none", tt.method, tt.path, w.Header())
		}
	}
}

// The callbacks of a login that is fine but for one thing.
func TestCallbackRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(b *browser, q url.Values)
		status int
	}{
		{"nothing", func(*browser, url.Values) {}, 302},
		{"no state", func(_ *browser, q url.Values) { q.Del("state") }, 400},
		{"two states", func(_ *browser, q url.Values) { q.Add("state", q.Get("state")) }, 400},
		{"unknown state", func(_ *browser, q url.Values) { q.Set("state", "x") }, 400},
		{"no code", func(_ *browser, q url.Values) { q.Del("code") }, 403},
		{"two codes", func(_ *browser, q url.Values) { q.Add("code", "x") }, 403},
		{"an error of the provider", func(_ *browser, q url.Values) { q.Del("code"); q.Set("error", "<b>access_denied</b>") }, 403},
		{"no state cookie", func(b *browser, _ url.Values) { b.Jar = nil }, 400},
		{"state of another browser", func(b *browser, _ url.Values) { b.Jar = newBrowser(b.t, b.base).Jar; b.get("/") }, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fake := newFake(t)
			s := newService(t, fake, Config{Now: fake.clock.now})
			b := newBrowser(t, newGateway(t, s, fake))
			q := fake.begin(b, "/page")
			tt.change(b, q)
			r := b.get(callback(q))
			if r.status != tt.status || strings.Contains(r.body, "<b>") {
				t.Errorf("got %d %s, want %d", r.status, r.body, tt.status)
			}
			for _, c := range r.cookies {
				if c.Name == sessionCookie && tt.status != 302 {
					t.Error("a session all the same")
				}
			}
		})
	}
}

// The provider sends browsers back with a GET; anything else is judged like any request.
func TestCallbackTakesAGet(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Now: fake.clock.now})
	b := newBrowser(t, newGateway(t, s, fake))
	for _, method := range []string{"POST", "HEAD", "OPTIONS"} {
		r := b.send(method, callback(fake.begin(b, "/page")), nil, nil)
		if r.status != 302 || !strings.HasPrefix(r.location, "/dex/auth?") || b.cookie(sessionCookie) != "" {
			t.Errorf("%s: got %d to %q", method, r.status, r.location)
		}
	}
}

// A state cookie that this service has not given out is not taken up: whoever
// planted it in a browser would know it.
func TestStateCookieIsOurs(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Now: fake.clock.now})
	other := newService(t, fake, Config{Now: fake.clock.now})
	begin := func(s *Service, value string) string {
		r := request("GET", "/")
		r.Header.Set("Cookie", stateCookie+"="+value)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		got, err := http.ParseSetCookie(w.Header().Get("Set-Cookie"))
		if err != nil || got.Name != stateCookie {
			t.Fatalf("got %v, %v", got, err)
		}
		return got.Value
	}
	ours := begin(s, "")
	if got := begin(s, ours); got != ours {
		t.Error("its own value was not kept")
	}
	for _, planted := range []string{"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", begin(other, ""), ours + "A"} {
		if got := begin(s, planted); got == planted {
			t.Errorf("%q was taken up", planted)
		}
	}
	fake.clock.move(browserLife)
	if got := begin(s, ours); got == ours {
		t.Error("a value outlives its time")
	}
}

// Somebody who saw the state in the URL cannot use it up; the browser that
// began can, once.
func TestStateIsUsedOnceByItsBrowser(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Now: fake.clock.now})
	b := newBrowser(t, newGateway(t, s, fake))
	other := newBrowser(t, b.base)
	other.get("/")
	q := fake.begin(b, "/page")
	if r := other.get(callback(q)); r.status != 400 {
		t.Errorf("the other browser: got %d", r.status)
	}
	r := b.get(callback(q))
	if r.status != 302 || r.location != "/page" {
		t.Errorf("its browser: got %d to %q", r.status, r.location)
	}
	b.Jar.SetCookies(mustURL(t, b.base), []*http.Cookie{{Name: sessionCookie, MaxAge: -1}})
	spelled := url.Values{"code": q["code"], "state": {q.Get("state")[:9] + "\n" + q.Get("state")[9:]}} // base64 skips it
	for _, again := range []url.Values{q, spelled} {
		if r := b.get(callback(again)); r.status != 400 || b.cookie(sessionCookie) != "" {
			t.Errorf("replayed: got %d", r.status)
		}
	}
}

// Of many that replay one callback at once, one gets a session.
func TestReplayAtOnce(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Now: fake.clock.now})
	b := newBrowser(t, newGateway(t, s, fake))
	q := fake.begin(b, "/page")
	state := b.cookie(stateCookie)
	var wg sync.WaitGroup
	var mu sync.Mutex
	sessions := 0
	for range 20 {
		wg.Go(func() {
			r := request("GET", callback(q))
			r.AddCookie(&http.Cookie{Name: stateCookie, Value: state})
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code == http.StatusFound {
				mu.Lock()
				sessions++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if sessions != 1 {
		t.Errorf("got %d sessions", sessions)
	}
}

func TestTimes(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Now: fake.clock.now})
	b := newBrowser(t, newGateway(t, s, fake))
	in := func() bool { return b.get("/x").status == http.StatusOK }

	q := fake.begin(b, "/")
	fake.clock.move(loginLife)
	if r := b.get(callback(q)); r.status != 400 {
		t.Errorf("a login of 20 minutes: got %d", r.status)
	}
	q = fake.begin(b, "/")
	fake.clock.move(loginLife - time.Second)
	if r := b.get(callback(q)); r.status != 302 || !in() {
		t.Errorf("a login of less: got %d", r.status)
	}
	fake.clock.move(sessionLife - time.Second)
	if !in() {
		t.Error("the session ended early")
	}
	fake.clock.move(time.Second) // it was used a second ago: absolute, not idle
	if in() {
		t.Error("the session outlives its day")
	}
}

func TestLoggingInAgainReplacesTheSession(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Now: fake.clock.now})
	b := newBrowser(t, newGateway(t, s, fake))
	one, two := fake.begin(b, "/1"), url.Values(nil)
	nonce, challenge := fake.nonce, fake.challenge
	two = fake.begin(b, "/2") // before the first has ended: another tab
	b.get(callback(two))
	old := b.cookie(sessionCookie)
	fake.nonce, fake.challenge = nonce, challenge
	b.get(callback(one))
	if id := b.cookie(sessionCookie); id == old || id == "" {
		t.Fatal("the session's id is not new")
	}
	script := newBrowser(t, b.base)
	if r := script.send("GET", "/", nil, http.Header{"X-Auth-Token": {old}}); r.status != 302 {
		t.Errorf("the old session: got %d", r.status)
	}
}

// The zero answer, and one that says 200 without having been made by allow, refuse.
func TestOnlyAllowIsAYes(t *testing.T) {
	for _, a := range []answer{{}, {status: 200}, {allowed: true}, {allowed: true, status: 302}, respond(200, "")} {
		w := httptest.NewRecorder()
		a.write(w)
		if w.Code != http.StatusInternalServerError {
			t.Errorf("%+v: got %d", a, w.Code)
		}
	}
	if got := refusalOf(errors.New("a secret")); got.status != 500 || strings.Contains(got.body, "secret") {
		t.Errorf("got %+v", got)
	}
}

func TestSettingsErrors(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"OIDC_PROVIDER", "/dex", `OIDC_PROVIDER: got "/dex"`},
		{"OIDC_PROVIDER", "", "OIDC_PROVIDER: missing"},
		{"OIDC_SCOPES", " ", "OIDC_SCOPES: missing"},
		{"REDIRECT_URL", "", "REDIRECT_URL: missing"},
		{"REDIRECT_URL", "login", "REDIRECT_URL: got"},
		{"REDIRECT_URL", "//evil/x", "REDIRECT_URL: got"},
		{"REDIRECT_URL", "http://localhost:8080", "REDIRECT_URL: want a path"},
		{"REDIRECT_URL", "/login?x=y", "REDIRECT_URL: want a path"},
		{"OIDC_AUTH_URL", "dex/auth", "OIDC_AUTH_URL: got"},
		{"OIDC_AUTH_URL", "javascript:alert(1)", "OIDC_AUTH_URL: got"},
		{"SKIP_AUTH_URI", "/dex info", `SKIP_AUTH_URI: got "info"`},
		{"USERID_CLAIM", "", "USERID_CLAIM: is empty"},
		{"USERID_HEADER", "a b", `USERID_HEADER: got "a b"`},
		{"USERID_HEADER", "", "USERID_HEADER: got"},
		{"USERID_PREFIX", "a\nb", "USERID_PREFIX: has a control character"},
		{"SESSION_MAX_AGE", "60", "SESSION_MAX_AGE: unknown setting"},
		{"oidc_provider", issuer, "oidc_provider: unknown setting"},
	} {
		_, err := New(Config{Settings: kubeflow(tt.name, tt.value), ClientID: "a", ClientSecret: "b"})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s=%q: got %v, want %q", tt.name, tt.value, err, tt.want)
		}
	}
	if _, err := New(Config{Settings: kubeflow(), ClientID: "a"}); err == nil {
		t.Error("no client secret: no error")
	}
}

// TestSettingsOfE236439: the ConfigMap of Kubeflow 1.8.
func TestSettingsOfE236439(t *testing.T) {
	in := map[string]string{"AFTER_LOGOUT_URL": "/", "AUTHSERVICE_URL_PREFIX": "/authservice/", "OIDC_AUTH_URL": "/dex/auth", "OIDC_PROVIDER": issuer,
		"OIDC_SCOPES": "profile email groups", "PORT": `"8080"`, "SKIP_AUTH_URLS": "/dex", "STORE_PATH": "/x", "USERID_CLAIM": "email", "USERID_HEADER": "kubeflow-userid", "USERID_PREFIX": ""}
	s, err := parseSettings(in)
	if err != nil || s.callback != "/authservice/oidc/callback" || s.redirectURL != s.callback || len(s.skip) != 1 || s.skip[0] != "/dex" {
		t.Errorf("got %+v, %v", s, err)
	}
	in["REDIRECT_URL"] = "/login/oidc"
	if s, err = parseSettings(in); err != nil || s.callback != "/login/oidc" {
		t.Errorf("with REDIRECT_URL: got %+v, %v", s, err)
	}
	in["AFTER_LOGOUT_URL"] = "https://elsewhere"
	if _, err = parseSettings(in); err == nil {
		t.Error("another AFTER_LOGOUT_URL is taken")
	}
}

func TestSettingsDefaults(t *testing.T) {
	s, err := parseSettings(map[string]string{"OIDC_PROVIDER": issuer, "OIDC_SCOPES": "openid email", "REDIRECT_URL": "https://kubeflow.example.com/login/oidc"})
	if err != nil {
		t.Fatal(err)
	}
	if s.userHeader != "kubeflow-userid" || s.userClaim != "email" || s.callback != "/login/oidc" || strings.Join(s.scopes, " ") != "openid email" || s.skip != nil {
		t.Errorf("got %+v", s)
	}
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
