//go:build e2e

package kubeflow

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
)

// browser keeps cookies and writes down all it sends and gets.
type browser struct {
	c     *cluster
	jar   http.CookieJar
	lines []string
	last  answer
	at    *url.URL
}

func (c *cluster) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return &browser{c: c, jar: jar}
}

// go sends one request, as a browser would have it, and follows nothing.
func (b *browser) send(method, target, body string, more ...string) answer {
	b.c.t.Helper()
	u, err := url.Parse("http://" + dashboard + target)
	if err != nil {
		b.c.t.Fatal(err)
	}
	h := headers(append([]string{"accept: text/html,application/xhtml+xml", "user-agent: Mozilla/5.0", "accept-language: en", "x-request-id: 00000000-0000-4000-8000-000000000000"}, more...)...)
	var cookies []string
	for _, cookie := range b.jar.Cookies(u) {
		cookies = append(cookies, cookie.Name+"="+cookie.Value)
	}
	if len(cookies) > 0 {
		h.Set("Cookie", strings.Join(cookies, "; "))
	}
	if body != "" {
		h.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	got := b.c.call(call{method: method, host: dashboard, path: target, body: body, header: h})
	b.jar.SetCookies(u, (&http.Response{Header: got.header}).Cookies())
	b.write(method, target, h, got)
	b.last, b.at = got, u
	return got
}

// write keeps the exchange, each header in a line of its own.
func (b *browser) write(method, target string, sent http.Header, got answer) {
	b.lines = append(b.lines, "> "+method+" "+target)
	for _, v := range sent["Cookie"] {
		b.lines = append(b.lines, "> cookie: "+v)
	}
	b.lines = append(b.lines, fmt.Sprintf("< %d", got.status))
	var names []string
	for name := range got.header {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		for _, v := range got.header[name] {
			b.lines = append(b.lines, "< "+strings.ToLower(name)+": "+v)
		}
	}
	b.lines = append(b.lines, "< "+got.body)
}

// follow goes where the last answer leads, until it leads nowhere.
func (b *browser) follow() answer {
	b.c.t.Helper()
	for range 10 {
		location := b.last.header.Get("Location")
		if b.last.status < 300 || b.last.status > 399 || location == "" {
			return b.last
		}
		u, err := b.at.Parse(location)
		if err != nil {
			b.c.t.Fatal(err)
		}
		b.send(http.MethodGet, u.RequestURI(), "")
	}
	b.c.t.Fatalf("too many redirects:\n%s", b.text())
	return answer{}
}

// form finds where the page's form or button leads.
func (b *browser) form(pattern string) string {
	b.c.t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(b.last.body)
	if m == nil {
		b.c.t.Fatalf("no %s in the page:\n%s", pattern, b.last.body)
	}
	return strings.ReplaceAll(m[1], "&amp;", "&")
}

// login is what a person does, from the dashboard's address to the dashboard.
func (b *browser) login() answer {
	b.c.t.Helper()
	b.send(http.MethodGet, "/?ns=kserve-test", "")
	if !shared(b.c.release) { // the sign-in page's button
		b.send(http.MethodGet, "/oauth2/start?rd="+url.QueryEscape("/?ns=kserve-test"), "")
	}
	b.follow()
	b.send(http.MethodPost, b.form(`<form method="post" action="([^"]+)"`), url.Values{"login": {"user@example.com"}, "password": {"12341234"}}.Encode())
	return b.follow()
}

// logout is what Kubeflow's dashboard does.
func (b *browser) logout() answer {
	b.c.t.Helper()
	if shared(b.c.release) {
		return b.send(http.MethodPost, "/authservice/logout", "")
	}
	b.send(http.MethodGet, "/oauth2/sign_out", "")
	return b.follow()
}

// masks are what differs from one session to the next, whoever judges: ids and keys
// made anew, and the time. Nothing else is hidden from the comparison.
var masks = []struct{ what, pattern string }{
	{"the time", `< date: [^\n]*`},
	{"expiry of a cookie", `(?i)expires=[^;\n]*`},
	{"Dex's id of a login", `req=[a-z0-9]+`},
	{"Dex's code and its check", `(code|hmac)=[A-Za-z0-9_.~%-]+`},
	{"state, nonce and PKCE of a login", `(state|nonce|code_challenge)=[A-Za-z0-9_.~%-]+`},
	{"oauth2-proxy's cookies (encrypted) and authservice's (random)", `(oauth2_proxy_kubeflow(?:_csrf)?(?:_[0-9]+)?|authservice_session|oidc_state_csrf)=[^;\n]*`},
	{"a token", `eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`},
	{"the gateway's id of a request", `X-Request-Id: [0-9a-f-]{36}`},
}

// took is the one header that is gone with Postern: how long the answer took, which
// Envoy's client adds to what authservice says to it, and cannot add to what posternd
// heard. Backends' answers have it all the same; it is left out of the comparison.
var took = regexp.MustCompile(`(?m)^< x-envoy-upstream-service-time: \d+\n`)

// text is the session with what differs masked.
func (b *browser) text() string {
	return took.ReplaceAllString(masked(strings.Join(b.lines, "\n")), "")
}

func masked(text string) string {
	for _, m := range masks {
		text = regexp.MustCompile(m.pattern).ReplaceAllString(text, "["+m.what+"]")
	}
	return text
}

// TestPeople: a person's session (login, dashboard, another page, an API call, logout,
// and the pages after it) has the same traffic with and without Postern, byte for byte
// but for the masks, at the browser and at the backends.
func TestPeople(t *testing.T) {
	each(t, func(t *testing.T, release string) {
		var said, reached [2]string
		for i, without := range []bool{true, false} {
			c := start(t, release, options{without: without})
			b := c.browser()
			if home := b.login(); home.status != http.StatusOK || home.header.Get("X-Backend") != "kubeflow/centraldashboard" {
				t.Fatalf("without Postern: %v: the login ends with %s:\n%s", without, home, b.text())
			}
			if got := c.backends.last("kubeflow/centraldashboard").Get("Kubeflow-Userid"); got != "user@example.com" {
				t.Errorf("without Postern: %v: the dashboard was told of %q", without, got)
			}
			b.send(http.MethodGet, "/jupyter/api/namespaces/kserve-test/notebooks?x=%2F&y", "", "accept: application/json", "kubeflow-userid: admin@example.com")
			b.send(http.MethodPost, "/jupyter/api/namespaces/kserve-test/notebooks", `a=b`)
			b.send(http.MethodOptions, "/jupyter/", "", "origin: https://app.example.com", "access-control-request-method: POST")
			b.send(http.MethodGet, "/no-such-page/../jupyter/%2e%2e/", "")
			b.logout()
			b.send(http.MethodGet, "/?after=logout", "")
			b.send(http.MethodGet, "/jupyter/api/namespaces", "", "accept: application/json")
			b.send(http.MethodGet, "/dex/.well-known/openid-configuration", "")
			b.send(http.MethodGet, "/dex/nothing", "", "kubeflow-userid: admin@example.com")
			said[i] = b.text()
			reached[i] = masked(c.backends.text("kubeflow/"))
			c.stop()
		}
		different(t, "the browser", said[0], said[1])
		different(t, "the backends", reached[0], reached[1])
	})
}

// different tells of the first line in which two texts differ.
func different(t *testing.T, where, without, with string) {
	t.Helper()
	a, b := strings.Split(without, "\n"), strings.Split(with, "\n")
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			t.Errorf("%s, line %d of %d:\nwithout: %s\nwith:    %s\nafter:\n%s", where, i+1, len(a), x, y, strings.Join(a[max(0, i-12):i], "\n"))
			return
		}
	}
	if len(a) < 20 {
		t.Errorf("%s: only %d lines were compared", where, len(a))
	}
}

// text is what the pods of a namespace got, in order, each header in a line.
func (b *backends) text(prefix string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lines []string
	for _, s := range b.seen {
		if !strings.HasPrefix(s.workload, prefix) {
			continue
		}
		lines = append(lines, s.workload+" "+s.method+" "+s.target+" "+s.host)
		var names []string
		for name := range s.header {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			lines = append(lines, "  "+name+": "+strings.Join(s.header[name], " | "))
		}
	}
	return strings.Join(lines, "\n")
}
