package authorizer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/lab/idp"
)

const dexYAML = `
issuer: %s/dex
oauth2: {skipApprovalScreen: true}
enablePasswordDB: true
staticPasswords:
- {email: ada@example.com, hash: "$2y$12$4K/VkmDd1q1Orb3xAt82zu8gk7Ad6ReFR4LCP9UeYE90NLiN9Df72", username: ada, userID: "1"}
staticClients:
- {id: machines, secret: s3cret, redirectURIs: [http://127.0.0.1/callback], name: machines}
`

// realDex is Dex itself, as a server that can be taken away.
func realDex(t *testing.T) (srv *httptest.Server, away *bool) {
	t.Helper()
	away = new(bool)
	var dex http.Handler
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if *away {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		dex.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	d, err := idp.New(t.Context(), idp.Config{YAML: fmt.Appendf(nil, dexYAML, srv.URL)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	dex = d
	return srv, away
}

// dexToken logs ada in as a browser and gets her ID token.
func dexToken(t *testing.T, srv *httptest.Server) string {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Path == "/callback" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	resp, err := client.Get(srv.URL + "/dex/auth?client_id=machines&redirect_uri=http%3A%2F%2F127.0.0.1%2Fcallback&response_type=code&scope=openid+email&state=s")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp, err = client.PostForm(resp.Request.URL.String(), url.Values{"login": {"ada@example.com"}, "password": {"12341234"}}); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || back.Query().Get("code") == "" {
		t.Fatalf("no code: %d %v", resp.StatusCode, err)
	}
	req, err := http.NewRequest(http.MethodPost, srv.URL+"/dex/token", strings.NewReader(url.Values{
		"grant_type": {"authorization_code"}, "code": {back.Query().Get("code")}, "redirect_uri": {"http://127.0.0.1/callback"},
	}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("machines", "s3cret")
	if resp, err = client.Do(req); err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct {
		Token string `json:"id_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || out.Token == "" {
		t.Fatalf("no token: %d %v", resp.StatusCode, err)
	}
	return out.Token
}

// TestDex: Dex's own tokens, its keys found by discovery; and Dex away.
func TestDex(t *testing.T) {
	srv, away := realDex(t)
	cfg := testConfig()
	issuer := Issuer{Issuer: srv.URL + "/dex", Audiences: []string{"machines"}, Keys: Keys{InsecureHTTP: true}, Username: Name{Claim: "email", SkipPrefix: true}}
	cfg.Tokens.Issuers = []Issuer{issuer}
	start := func() *Authorizer {
		t.Helper()
		a, err := New(cfg, Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(a.Close)
		a.Swap(newSnapshot(t, cfg))
		return a
	}
	token := dexToken(t, srv)
	call := ask(8080, outside, "POST", openOut, predictPath, "authorization: Bearer "+token)
	a := start()
	if v := a.Decide(t.Context(), call); !v.Allow || v.Caller.User != "ada@example.com" || v.How != ByToken {
		t.Fatalf("got %s %s (%v)", v.Reason, v.Caller.User, v.cause)
	}
	*away = true
	if v := a.Decide(t.Context(), call); !v.Allow {
		t.Errorf("a known token while Dex is away: got %s", v.Reason)
	}
	begin := time.Now()
	v := start().Decide(t.Context(), call)
	if v.Status != 503 || v.Reason != credential.KeysUnavailable || time.Since(begin) > 2*time.Second {
		t.Errorf("a first token while Dex is away: got %d %s after %s", v.Status, v.Reason, time.Since(begin))
	}
	if strings.Contains(string(v.Body), srv.URL) && !strings.Contains(string(v.Body), `"issuer":"`+srv.URL) {
		t.Errorf("the refusal tells about the inside: %s", v.Body)
	}
	if v := a.Decide(t.Context(), ask(8081, podAddr, "POST", openIn, predictPath)); !v.Allow {
		t.Errorf("a pod while Dex is away: got %s", v.Reason)
	}
	*away = false
	cfg.Tokens.Issuers[0].Audiences = []string{"other"}
	if v := start().Decide(t.Context(), call); v.Reason != credential.TokenWrongAudience || !strings.Contains(v.Message, "other") {
		t.Errorf("another audience: got %s %s", v.Reason, v.Message)
	}
}
