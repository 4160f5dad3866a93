package authservice

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestReturnPath(t *testing.T) {
	for _, keep := range []string{
		"/", "/pipeline/", "/pipeline/?tab=runs&q=a%2Fb", "/v1/models/sklearn-iris:predict", "/a//b", "/a?next=http://evil/", "/a?x=//evil",
		"/a.b/..c", "/%EA%B0%80", "/@evil", "/a:b@c", "/?", "/http://evil/", "/" + strings.Repeat("a", 2047),
	} {
		if got := returnPath(keep); got != keep {
			t.Errorf("%q: got %q", keep, got)
		}
	}
	for _, refuse := range []string{
		"", "x", "//evil", "//evil/", "///evil", `/\evil`, `\/evil`, `\\evil`, "/\t/evil", "/\n/evil", "/\r\nSet-Cookie: a=b", " /x", "/ /evil", "/x y",
		"http://evil", "https:evil", "http:/evil", "javascript:alert(1)", "data:text/html,x", "//user@evil/", "*",
		"/.//evil", "/..//evil", "/a/..//evil", "/./x", "/..", "/.", "/%2e%2e/x", "/a/%2E%2e//evil", "/%2F%2Fevil", "/%2fevil", "/%5cevil", "/a%5cb",
		"/%09/evil", "/%0d%0aa:b", "/%00", "/a#b", "/#", "/가", "/\x7f", "/\xff", "/%", "/%zz", "/" + strings.Repeat("a", 2048),
	} {
		if got := returnPath(refuse); got != "/" {
			t.Errorf("%q: got %q, want /", refuse, got)
		}
	}
}

// The same corpus through the whole login: no target leads away.
func TestLoginReturnsHereOnly(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Now: fake.clock.now})
	for _, tt := range []struct{ target, want string }{
		{"/ok?a=b", "/ok?a=b"},
		{"//evil/", "/"},
		{"///evil/", "/"},
		{"/%5cevil", "/"},
		{"/%2f/evil", "/"},
		{"http://evil/path", "/path"}, // a proxy's absolute form: the path only
		{"/.//evil", "/"},
	} {
		b := newBrowser(t, newGateway(t, s, fake))
		u, err := url.Parse(tt.target)
		if err != nil {
			t.Fatal(err)
		}
		req := request("GET", "/")
		req.URL, req.RequestURI = u, tt.target
		w := gateway{check: s}.ask(req)
		redirect := mustURL(t, w.Header().Get("Location")).Query()
		fake.nonce, fake.challenge = redirect.Get("nonce"), redirect.Get("code_challenge")
		header := http.Header{"Cookie": {strings.Split(w.Header().Get("Set-Cookie"), ";")[0]}}
		r := b.send("GET", callback(url.Values{"state": {redirect.Get("state")}, "code": {fake.code}}), nil, header)
		if r.status != http.StatusFound || r.location != tt.want {
			t.Errorf("%q: got %d to %q, want %q", tt.target, r.status, r.location, tt.want)
		}
	}
}

// FuzzReturnPath holds the normaliser to what it is for, by other means than
// its own: resolved against the gateway, the result stays at the gateway, and
// nothing in it is what browsers drop or turn.
func FuzzReturnPath(f *testing.F) {
	for _, seed := range []string{"/", "/a?b", "//evil", `/\evil`, "/\t/evil", "/.//evil", "/%2f/evil", "/%5cevil", "http://evil", "/a#b", "/?x=\r\n", `/"`} {
		f.Add(seed)
	}
	base, err := url.Parse("http://localhost:8080/login/oidc")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string) {
		got := returnPath(target)
		if got != target && got != "/" {
			t.Fatalf("%q became %q", target, got)
		}
		if strings.ContainsFunc(got, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '\\' }) {
			t.Fatalf("%q let through", got)
		}
		ref, err := url.Parse(got)
		if err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		to := base.ResolveReference(ref) // resolves dots
		if to.Host != base.Host || to.Scheme != base.Scheme || to.User != nil || strings.HasPrefix(to.Path, "//") || to.Path != ref.Path || to.RawQuery != ref.RawQuery {
			t.Fatalf("%q leads to %q", got, to)
		}
		if returnPath(got) != got {
			t.Fatalf("%q is not kept", got)
		}
	})
}
