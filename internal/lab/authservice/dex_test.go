package authservice

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// toDex follows the redirects from a page to Dex's password form and returns
// the form's address.
func (b *browser) toDex(page string) string {
	b.t.Helper()
	at := page
	r := b.get(page)
	for hops := 0; r.status == http.StatusFound && hops < 5; hops++ {
		if !strings.HasPrefix(r.location, "/dex/auth") {
			b.t.Fatalf("%s: sent to %q, want Dex", at, r.location)
		}
		at = r.location
		r = b.get(at)
	}
	if r.status != http.StatusOK || !strings.Contains(r.body, `name="password"`) {
		b.t.Fatalf("%s: got %d, want Dex's form:\n%s", at, r.status, r.body)
	}
	return at
}

// logIn fills in Dex's form; the answer sends to the callback.
func (b *browser) logIn(form, password string) reply {
	b.t.Helper()
	return b.send("POST", form, url.Values{"login": {"user@example.com"}, "password": {password}}, nil)
}

// Everything from the first page to the last logout, with the real Dex,
// Kubeflow's relative addresses and a cookie jar.
func TestBrowserLogin(t *testing.T) {
	var log logBuffer
	dex := realDex(t)
	s := newService(t, dex, Config{Logger: log.logger()})
	b := newBrowser(t, newGateway(t, s, dex))
	const page = "/pipeline/?tab=runs&q=a%2Fb"

	first := b.get(page)
	checkRedirect(t, first)
	form := b.toDex(page)
	if r := b.logIn(form, "wrong"); r.status != http.StatusUnauthorized || !strings.Contains(r.body, "Invalid Email Address and password") {
		t.Fatalf("wrong password: got %d\n%s", r.status, r.body)
	}
	if r := b.get(page); r.status != http.StatusFound {
		t.Fatalf("after a wrong password: got %d", r.status)
	}
	back := b.logIn(form, "12341234")
	if back.status != http.StatusSeeOther || !strings.HasPrefix(back.location, "/login/oidc?") {
		t.Fatalf("Dex: got %d to %q", back.status, back.location)
	}
	done := b.get(back.location)
	if done.status != http.StatusFound || done.location != page {
		t.Fatalf("callback: got %d to %q, want 302 to %q\n%s", done.status, done.location, page, done.body)
	}
	checkSessionCookie(t, done)

	want := page + ` saw ["user@example.com"]`
	if r := b.get(page); r.status != http.StatusOK || r.body != want {
		t.Errorf("logged in: got %d %s, want %s", r.status, r.body, want)
	}
	forged := http.Header{"Kubeflow-Userid": {"admin@example.com"}}
	if r := b.send("GET", page, nil, forged); r.body != want {
		t.Errorf("forged header with a session: got %s", r.body)
	}
	checkToken(t, b, page, want)

	session := b.cookie(sessionCookie)
	if r := b.send("POST", "/logout", url.Values{}, nil); r.status != http.StatusSeeOther || r.location != "/" {
		t.Errorf("logout: got %d to %q", r.status, r.location)
	}
	if got := b.cookie(sessionCookie); got != "" {
		t.Error("the cookie outlives the logout")
	}
	stolen := http.Header{"Cookie": {sessionCookie + "=" + session}}
	if r := newBrowser(t, b.base).send("GET", page, nil, stolen); r.status != http.StatusFound {
		t.Errorf("the session outlives the logout: got %d", r.status)
	}
	for name, secret := range map[string]string{"session": session, "callback": strings.TrimPrefix(back.location, "/login/oidc"), "client secret": clientSecret} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has the %s", name)
		}
	}
}

// checkRedirect holds the first redirect to the flow that is meant.
func checkRedirect(t *testing.T, r reply) {
	t.Helper()
	u, err := url.Parse(r.location)
	if err != nil || r.status != http.StatusFound || u.Host != "" || u.Path != "/dex/auth" {
		t.Fatalf("got %d to %q, want 302 to /dex/auth", r.status, r.location)
	}
	q := u.Query()
	for name, want := range map[string]string{
		"client_id": clientID, "redirect_uri": "/login/oidc", "response_type": "code",
		"scope": "profile email groups openid", "code_challenge_method": "S256",
	} {
		if got := q.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"nonce", "code_challenge"} {
		if len(q.Get(name)) != 43 { // 256 bits
			t.Errorf("%s: got %q", name, q.Get(name))
		}
	}
	if len(r.cookies) != 1 || r.cookies[0].Name != stateCookie || r.cookies[0].MaxAge != 1200 {
		t.Errorf("got cookies %v", r.cookies)
	}
	if state := q.Get("state"); len(state) < 43 || strings.Contains(state, q.Get("nonce")) || strings.Contains(r.location, r.cookies[0].Value) {
		t.Errorf("the state tells what it holds: %q", r.location)
	}
	if got := r.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control: got %q", got)
	}
}

func checkSessionCookie(t *testing.T, r reply) {
	t.Helper()
	// The state's stays: this browser has begun other logins.
	if len(r.cookies) != 1 || r.cookies[0].Name != sessionCookie {
		t.Fatalf("got cookies %v, want a session's", r.cookies)
	}
	c := r.cookies[0]
	if len(c.Value) != 43 || !c.HttpOnly || c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 86400 {
		t.Errorf("got %v", c)
	}
}

// checkToken: a script sends the session's id as X-Auth-Token; as a bearer
// token it is nothing (28c59ef does not look at Authorization).
func checkToken(t *testing.T, b *browser, page, want string) {
	t.Helper()
	id := b.cookie(sessionCookie)
	script := newBrowser(t, b.base)
	for _, tt := range []struct {
		header http.Header
		status int
	}{
		{http.Header{"X-Auth-Token": {id}}, 200},
		{http.Header{"X-Auth-Token": {id}, "Kubeflow-Userid": {"admin@example.com"}}, 200},
		{http.Header{"X-Auth-Token": {id + "A"}}, 302},
		{http.Header{"X-Auth-Token": {id[1:]}}, 302},
		{http.Header{"X-Auth-Token": {""}}, 302},
		{http.Header{"Authorization": {"Bearer " + id}}, 302},
		{http.Header{"Cookie": {sessionCookie + "=stale"}, "X-Auth-Token": {id}}, 302}, // the cookie is first
	} {
		r := script.send("GET", page, nil, tt.header)
		if r.status != tt.status || (r.status == 200 && r.body != want) {
			t.Errorf("%v: got %d %s, want %d", tt.header, r.status, r.body, tt.status)
		}
		script.Jar = nil
	}
}

// A person with two tabs, and a page that loads an icon meanwhile: both logins
// come to their end, whichever is first.
func TestTwoTabs(t *testing.T) {
	dex := realDex(t)
	s := newService(t, dex, Config{})
	b := newBrowser(t, newGateway(t, s, dex))
	one := b.toDex("/one")
	two := b.toDex("/two")
	b.get("/favicon.ico")
	for _, tab := range []struct{ form, page string }{{two, "/two"}, {one, "/one"}} {
		back := b.logIn(tab.form, "12341234")
		if r := b.get(back.location); r.status != http.StatusFound || r.location != tab.page {
			t.Errorf("%s: got %d to %q %s", tab.page, r.status, r.location, r.body)
		}
		if r := b.get(back.location); r.status != http.StatusFound || r.location != "/" {
			t.Errorf("%s, back from the history: got %d to %q", tab.page, r.status, r.location)
		}
	}
}

func TestDexStartsLater(t *testing.T) {
	clock := newClock()
	hosts := network{}
	s, err := New(Config{Settings: kubeflow(), ClientID: clientID, ClientSecret: clientSecret, HTTPClient: &http.Client{Transport: hosts}, Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	dex := realDex(t)
	g := gateway{check: s, dex: dex}
	if got := g.ask(request("GET", "/")); got.Code != http.StatusServiceUnavailable || !strings.HasPrefix(got.Header().Get("Content-Type"), "text/plain") {
		t.Errorf("without Dex: got %d %q", got.Code, got.Body)
	}
	if got := g.ask(request("GET", "/dex/keys")); got.Code != http.StatusOK {
		t.Errorf("Dex's own pages: got %d", got.Code)
	}
	hosts["dex.auth.svc.cluster.local:5556"] = dex
	clock.move(discoveryPause)
	if got := g.ask(request("GET", "/")); got.Code != http.StatusFound {
		t.Errorf("with Dex: got %d %q", got.Code, got.Body)
	}
}
