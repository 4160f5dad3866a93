package authservice

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fakeProvider is a provider that lies as told.
type fakeProvider struct {
	t     *testing.T
	key   *ecdsa.PrivateKey
	clock *clock

	nonce     string                    // of the ID tokens; set by the test from the redirect
	claims    func(map[string]any)      // changes the ID token's claims
	token     func(string) string       // changes the signed ID token
	exchange  func(http.ResponseWriter) // answers the token endpoint instead
	challenge string
	code      string
	asked     atomic.Int64 // discovery documents
	discover  func(http.ResponseWriter) bool
}

func newFake(t *testing.T) *fakeProvider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeProvider{t: t, key: key, clock: newClock(), code: "the-code-of-this-login"}
}

func (f *fakeProvider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/dex/.well-known/openid-configuration":
		f.asked.Add(1)
		if f.discover != nil && f.discover(w) {
			return
		}
		f.write(w, map[string]any{
			"issuer": issuer, "authorization_endpoint": issuer + "/auth", "token_endpoint": issuer + "/token",
			"jwks_uri": issuer + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"},
		})
	case "/dex/keys":
		point, err := f.key.PublicKey.Bytes()
		if err != nil {
			f.t.Error(err)
		}
		f.write(w, map[string]any{"keys": []any{map[string]string{
			"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k",
			"x": b64(point[1:33]), "y": b64(point[33:65]),
		}}})
	case "/dex/token":
		f.serveToken(w, r)
	default:
		f.t.Errorf("asked for %s: a redirect was followed", r.URL.Path)
	}
}

func (f *fakeProvider) serveToken(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	switch {
	case f.exchange != nil:
		f.exchange(w)
	case id != clientID || secret != clientSecret || r.PostFormValue("redirect_uri") != "/login/oidc":
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
	case r.PostFormValue("code") != f.code || b64(sum[:]) != f.challenge:
		http.Error(w, `{"error":"invalid_grant","error_description":"`+r.PostFormValue("code")+`"}`, http.StatusBadRequest)
	default:
		f.write(w, map[string]any{"access_token": "the-access-token", "token_type": "bearer", "id_token": f.idToken()})
	}
}

func (f *fakeProvider) idToken() string {
	now := f.clock.now()
	claims := map[string]any{
		"iss": issuer, "aud": clientID, "sub": "1", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"nonce": f.nonce, "email": "user@example.com", "email_verified": true,
	}
	if f.claims != nil {
		f.claims(claims)
	}
	token := f.sign(`{"alg":"ES256","kid":"k"}`, claims)
	if f.token != nil {
		token = f.token(token)
	}
	return token
}

func (f *fakeProvider) sign(header string, claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		f.t.Error(err)
	}
	signed := b64([]byte(header)) + "." + b64(payload)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, f.key, sum[:])
	if err != nil {
		f.t.Error(err)
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + b64(sig[:])
}

func (f *fakeProvider) write(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		f.t.Error(err)
	}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// begin starts a login in b and lets the provider issue for it; it returns the
// callback the provider would send to.
func (f *fakeProvider) begin(b *browser, page string) url.Values {
	f.t.Helper()
	r := b.get(page)
	u, err := url.Parse(r.location)
	if err != nil || r.status != http.StatusFound {
		f.t.Fatalf("got %d to %q", r.status, r.location)
	}
	f.nonce, f.challenge = u.Query().Get("nonce"), u.Query().Get("code_challenge")
	return url.Values{"state": {u.Query().Get("state")}, "code": {f.code}}
}

func callback(q url.Values) string { return "/login/oidc?" + q.Encode() }

// request is a request as the gateway got it.
func request(method, target string) *http.Request { return httptest.NewRequest(method, target, nil) }

// lie is a provider that errs, and what the callback must answer.
type lie struct {
	name   string
	change func(*fakeProvider)
	status int
}

func set(name string, value any) func(map[string]any) {
	return func(m map[string]any) { m[name] = value }
}

func without(name string) func(map[string]any) {
	return func(m map[string]any) { delete(m, name) }
}

func TestWrongTokens(t *testing.T) {
	for _, l := range []lie{
		{"the truth", func(*fakeProvider) {}, 302},
		{"nonce of another login", func(f *fakeProvider) { f.nonce = "other" }, 403},
		{"no nonce", func(f *fakeProvider) { f.claims = without("nonce") }, 403},
		{"other issuer", func(f *fakeProvider) { f.claims = set("iss", "http://evil/dex") }, 403},
		{"other audience", func(f *fakeProvider) { f.claims = set("aud", "other") }, 403},
		{"ours in a list", func(f *fakeProvider) { f.claims = set("aud", []string{clientID}) }, 302},
		{"ours among audiences", func(f *fakeProvider) { f.claims = set("aud", []string{clientID, "other"}) }, 403},
		{"expired", func(f *fakeProvider) { f.claims = set("exp", f.clock.now().Add(-time.Second).Unix()) }, 403},
		{"no expiry", func(f *fakeProvider) { f.claims = without("exp") }, 403},
		{"signature cut", func(f *fakeProvider) { f.token = func(s string) string { return s[:len(s)-4] } }, 403},
		{"no signature", func(f *fakeProvider) {
			f.token = func(s string) string {
				_, rest, _ := strings.Cut(s, ".")
				payload, _, _ := strings.Cut(rest, ".")
				return b64([]byte(`{"alg":"none"}`)) + "." + payload + "."
			}
		}, 403},
		{"signed by another key", func(f *fakeProvider) {
			other := newFake(f.t)
			f.token = func(string) string {
				return other.sign(`{"alg":"ES256","kid":"k"}`, map[string]any{"iss": issuer, "aud": clientID, "exp": f.clock.now().Add(time.Hour).Unix(),
					"nonce": f.nonce, "email": "user@example.com", "email_verified": true})
			}
		}, 403},
	} {
		t.Run(l.name, l.check)
	}
}

func TestWrongPeople(t *testing.T) {
	for _, l := range []lie{
		{"no token at all", func(f *fakeProvider) { f.token = func(string) string { return "" } }, 403},
		{"no e-mail", func(f *fakeProvider) { f.claims = without("email") }, 403},
		{"empty e-mail", func(f *fakeProvider) { f.claims = set("email", "") }, 403},
		{"e-mail not verified", func(f *fakeProvider) { f.claims = set("email_verified", false) }, 403},
		{"e-mail verified, as a text", func(f *fakeProvider) { f.claims = set("email_verified", "true") }, 403},
		{"nothing about the e-mail", func(f *fakeProvider) { f.claims = without("email_verified") }, 403},
		{"e-mail a number", func(f *fakeProvider) { f.claims = set("email", 7) }, 403},
		{"e-mail with a line", func(f *fakeProvider) { f.claims = set("email", "a@b\r\nkubeflow-userid: admin@b") }, 403},
		{"e-mail with a blank before it", func(f *fakeProvider) { f.claims = set("email", " admin@b") }, 403},
		{"long e-mail", func(f *fakeProvider) { f.claims = set("email", strings.Repeat("a", 600)) }, 403},
	} {
		t.Run(l.name, l.check)
	}
}

func TestWrongExchanges(t *testing.T) {
	text := func(status int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(status); _, _ = w.Write([]byte(body)) }
	}
	for _, l := range []lie{
		{"another code", func(f *fakeProvider) { f.code = "not-that" }, 403},
		{"another verifier", func(f *fakeProvider) { f.challenge = "x" }, 403},
		{"refusal with the code in it", func(f *fakeProvider) {
			f.exchange = text(400, `{"error":"invalid_grant","error_description":"the-code-of-this-login"}`)
		}, 403},
		{"failure", func(f *fakeProvider) { f.exchange = text(500, "the-code-of-this-login") }, 503},
		{"no ID token", func(f *fakeProvider) {
			f.exchange = text(200, `{"access_token":"the-access-token","token_type":"bearer"}`)
		}, 502},
		{"not JSON", func(f *fakeProvider) { f.exchange = text(200, "the-access-token") }, 502},
		{"endless", func(f *fakeProvider) {
			f.exchange = text(200, `{"access_token":"`+strings.Repeat("a", 2*providerMaxBody)+`"}`)
		}, 502},
		{"a redirect", func(f *fakeProvider) {
			f.exchange = func(w http.ResponseWriter) { w.Header().Set("Location", issuer+"/elsewhere"); w.WriteHeader(307) }
		}, 403},
	} {
		t.Run(l.name, l.check)
	}
}

// check: whatever is wrong with what the provider gives, nobody is logged in,
// and the answer and the log hold neither token nor code.
func (l lie) check(t *testing.T) {
	var log logBuffer
	fake := newFake(t)
	s := newService(t, fake, Config{Logger: log.logger(), Now: fake.clock.now})
	b := newBrowser(t, newGateway(t, s, fake))
	q := fake.begin(b, "/page")
	l.change(fake)
	r := b.get(callback(q))
	if r.status != l.status {
		t.Errorf("got %d %s, want %d\n%s", r.status, r.body, l.status, log.String())
	}
	if in := b.cookie(sessionCookie) != ""; in != (l.status == 302) {
		t.Errorf("session: got %v", in)
	}
	if r.status != 302 && b.get("/page").status != http.StatusFound {
		t.Error("logged in all the same")
	}
	told := log.String() + r.body
	for _, secret := range []string{q.Get("code"), q.Get("state"), fake.idToken(), "the-access-token", clientSecret, b.cookie(stateCookie)} {
		if secret != "" && strings.Contains(told, secret) {
			t.Errorf("%q is told:\n%s", secret, told)
		}
	}
}

func TestOtherClaimAndPrefix(t *testing.T) {
	fake := newFake(t)
	fake.claims = func(m map[string]any) { delete(m, "email_verified"); m["sub"] = "42" }
	s := newService(t, fake, Config{Settings: kubeflow("USERID_CLAIM", "sub", "USERID_PREFIX", "acme:", "USERID_HEADER", "Kubeflow-UserID"), Now: fake.clock.now})
	b := newBrowser(t, newGateway(t, s, fake))
	b.get(callback(fake.begin(b, "/")))
	if r := b.get("/"); r.body != `/ saw ["acme:42"]` {
		t.Errorf("got %d %s", r.status, r.body)
	}
}

// Many requests at once ask a provider that is away once, and again after a pause.
func TestDiscoveryIsAskedOnce(t *testing.T) {
	fake := newFake(t)
	fake.discover = func(w http.ResponseWriter) bool { http.Error(w, "starting", http.StatusBadGateway); return true }
	s := newService(t, fake, Config{Now: fake.clock.now})
	all := func(want int) {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got := (gateway{check: s}).ask(request("GET", "/")).Code; got != want {
					t.Errorf("got %d, want %d", got, want)
				}
			})
		}
		wg.Wait()
	}
	all(503)
	if got := fake.asked.Load(); got != 1 {
		t.Errorf("asked %d times, want 1", got)
	}
	fake.discover = nil
	all(503) // the pause is not over
	fake.clock.move(discoveryPause)
	all(302)
	if got := fake.asked.Load(); got != 2 {
		t.Errorf("asked %d times, want 2", got)
	}
}

func TestDiscoveryLies(t *testing.T) {
	for name, discover := range map[string]func(http.ResponseWriter) bool{
		"other issuer": func(w http.ResponseWriter) bool {
			_, _ = w.Write([]byte(`{"issuer":"http://evil/dex"}`))
			return true
		},
		"not JSON": func(w http.ResponseWriter) bool { _, _ = w.Write([]byte("<html>")); return true },
		"endless": func(w http.ResponseWriter) bool {
			_, _ = fmt.Fprintf(w, `{"issuer":%q,"a":"%s"}`, issuer, strings.Repeat("a", 2*providerMaxBody))
			return true
		},
		"a redirect": func(w http.ResponseWriter) bool {
			w.Header().Set("Location", "/dex/elsewhere")
			w.WriteHeader(302)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log logBuffer
			fake := newFake(t)
			fake.discover = discover
			s := newService(t, fake, Config{Now: fake.clock.now, Logger: log.logger()})
			got := gateway{check: s}.ask(request("GET", "/"))
			if got.Code != 503 || len(got.Body.String()) > 100 || len(log.String()) > 1000 {
				t.Errorf("got %d %q, log of %d bytes", got.Code, got.Body, len(log.String()))
			}
		})
	}
}

// A client that goes away neither stops the discovery for others nor waits.
func TestDiscoveryOutlivesItsClient(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Now: fake.clock.now})
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	s.ServeHTTP(httptest.NewRecorder(), request("GET", "/").WithContext(gone))
	// select may have taken either branch; one more client always succeeds.
	if got := (gateway{check: s}).ask(request("GET", "/")).Code; got != 302 {
		t.Errorf("got %d", got)
	}
	<-s.provider.turn // somebody else is asking
	s.provider.found.Store(nil)
	if _, err := s.provider.discover(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	s.provider.turn <- struct{}{}
}
