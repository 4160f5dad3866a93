package keyset

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// keys is a key set: kid r (RS256), e (ES256), d (EdDSA).
func keys(t testing.TB, kids ...string) []byte {
	t.Helper()
	pairs := makeKeys()
	var set jose.JSONWebKeySet
	for _, kid := range []string{"r", "e", "d"} {
		if len(kids) == 0 || slices.Contains(kids, kid) {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: pairs[kid], KeyID: kid, Use: "sig"})
		}
	}
	out, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var makeKeys = sync.OnceValue(func() map[string]any {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	d, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return map[string]any{"r": r.Public(), "e": e.Public(), "d": d}
})

const (
	unknown     = "unknown"
	unavailable = "unavailable"
)

// outcome is what an error of Find means.
func outcome(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrUnknown):
		return unknown
	}
	return unavailable
}

// provider is an issuer's key set that can be changed, slow or away.
type provider struct {
	mu    sync.Mutex
	text  []byte
	err   error
	delay time.Duration
	asked atomic.Int32
}

func (p *provider) set(text []byte, err error, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text, p.err, p.delay = text, err, delay
}

func (p *provider) fetch(ctx context.Context) ([]byte, error) {
	p.asked.Add(1)
	p.mu.Lock()
	text, err, delay := p.text, p.err, p.delay
	p.mu.Unlock()
	select {
	case <-time.After(delay):
		return text, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestKeySet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{}
		set := Fetched(p.fetch, time.Now)
		defer set.Close()
		find := func(kid, alg string) string {
			_, _, err := set.Find(t.Context(), kid, alg)
			return outcome(err)
		}
		step := func(name string, got, want string, asked int32) {
			t.Helper()
			synctest.Wait()
			if got != want || p.asked.Load() != asked {
				t.Fatalf("%s: got %q after %d fetches, want %q after %d", name, got, p.asked.Load(), want, asked)
			}
		}
		p.set(nil, errors.New("away"), 0)
		step("away from the beginning", find("e", "ES256"), unavailable, 1)
		step("at once again", find("e", "ES256"), unavailable, 1)
		time.Sleep(keyInterval)
		p.set(keys(t, "e"), nil, 0)
		step("there", find("e", "ES256"), "", 2)
		step("known", find("e", "ES256"), "", 2)
		step("unknown kid, asked a moment ago", find("r", "RS256"), unknown, 2)
		time.Sleep(keyInterval)
		step("unknown kid", find("r", "RS256"), unknown, 3)
		p.set(keys(t, "e", "r"), nil, 0)
		step("rotated a moment later", find("r", "RS256"), unknown, 3)
		time.Sleep(keyInterval)
		step("rotated", find("r", "RS256"), "", 4)

		before := set.Current()
		p.set(nil, errors.New("away"), 0)
		time.Sleep(keyAge)
		step("away, known keys go on", find("e", "ES256"), "", 5)
		step("an unknown one cannot be told", find("d", "EdDSA"), unavailable, 5)
		time.Sleep(keyInterval)
		step("tried again beside", find("e", "ES256"), "", 6)
		p.set(keys(t, "r"), nil, time.Second)
		time.Sleep(keyInterval)
		step("a known one does not wait", find("e", "ES256"), "", 7)
		time.Sleep(time.Second)
		synctest.Wait()
		if set.Current() == before {
			t.Fatal("the new set is not in force")
		}
		step("taken away", find("e", "ES256"), unknown, 7)
	})
}

// TestKeySetSingleFlight: however many wait, one asks; who waits leaves when its
// own time is over, and the fetch goes on.
func TestKeySetSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{}
		p.set(keys(t), nil, 3*time.Second)
		set := Fetched(p.fetch, time.Now)
		defer set.Close()
		var wg sync.WaitGroup
		var late, good atomic.Int32
		for n := range 20 {
			wg.Go(func() {
				ctx, stop := context.WithTimeout(t.Context(), time.Duration(1+n%2*9)*time.Second)
				defer stop()
				switch _, _, err := set.Find(ctx, "e", "ES256"); outcome(err) {
				case "":
					good.Add(1)
				case unavailable:
					late.Add(1)
				}
			})
		}
		wg.Wait()
		if p.asked.Load() != 1 || good.Load() != 10 || late.Load() != 10 {
			t.Errorf("got %d fetches, %d with keys, %d without", p.asked.Load(), good.Load(), late.Load())
		}
		p.set(nil, nil, time.Hour)
		time.Sleep(keyInterval)
		begin := time.Now()
		if _, _, err := set.Find(t.Context(), "x", "ES256"); outcome(err) != unavailable || time.Since(begin) != fetchTimeout {
			t.Errorf("a fetch that hangs: got %v after %s", err, time.Since(begin))
		}
	})
}

func TestKeySetClose(t *testing.T) {
	p := &provider{}
	p.set(keys(t), nil, time.Hour)
	set := Fetched(p.fetch, time.Now)
	done := make(chan string)
	go func() {
		_, _, err := set.Find(context.Background(), "e", "ES256")
		done <- outcome(err)
	}()
	for p.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	set.Close()
	set.Close()
	if got := <-done; got != unavailable {
		t.Errorf("got %q", got)
	}
	if fixed, err := Fixed(keys(t)); err != nil {
		t.Error(err)
	} else {
		fixed.Close()
	}
}

func TestReadJWKS(t *testing.T) {
	good := string(keys(t, "e"))
	one := strings.TrimSuffix(strings.TrimPrefix(good, `{"keys":[`), `]}`)
	for _, tt := range []struct {
		name, text string
		keys       int // 0: an error
	}{
		{"good", good, 1},
		{"all kinds", string(keys(t)), 3},
		{"no JSON", "<html>", 0},
		{"no keys", `{"keys":[]}`, 0},
		{"another object", `{}`, 0},
		{"a shared secret", `{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"e"}]}`, 0},
		{"a shared secret beside", `{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"e"},` + one + `]}`, 1},
		{"for encryption", strings.Replace(good, `"sig"`, `"enc"`, 1), 0},
		{"a kind nobody knows beside", `{"keys":[{"kty":"new"},` + one + `]}`, 1},
		{"weak RSA", `{"keys":[{"kty":"RSA","e":"AQAB","n":"` + strings.Repeat("q", 171) + `"}]}`, 0},
		{"too many", `{"keys":[` + strings.TrimSuffix(strings.Repeat(one+",", maxKeys+1), ",") + `]}`, 0},
		{"too long", good + strings.Repeat(" ", maxJWKS), 0},
	} {
		set, err := readJWKS([]byte(tt.text))
		if (err == nil) != (tt.keys > 0) || err == nil && len(set.keys) != tt.keys {
			t.Errorf("%s: got %+v %v", tt.name, set, err)
		}
	}
}

func TestFetch(t *testing.T) {
	var url string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/good/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"more":1}`, url+"/good", url+"/keys")
		case "/slash/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, url+"/slash/", url+"/keys")
		case "/other/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":"https://evil","jwks_uri":%q}`, url+"/keys")
		case "/plain/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"http://evil/keys"}`, url+"/plain")
		case "/none/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q}`, url+"/none")
		case "/keys":
			_, _ = w.Write(keys(t))
		case "/private":
			if r.Header.Get("Authorization") != "Bearer S3CRET" {
				w.WriteHeader(401)
			}
			_, _ = w.Write(keys(t))
		case "/redirect":
			http.Redirect(w, r, "/keys", http.StatusFound)
		case "/endless":
			for range maxJWKS/1000 + 2 {
				fmt.Fprint(w, strings.Repeat(" ", 1000))
			}
		default:
			w.WriteHeader(404)
		}
	}))
	defer srv.Close()
	url = srv.URL
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	client := func(tr *http.Transport) *http.Client {
		return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	trusting := client(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}})
	bearer := func() (string, error) { return " S3CRET\n", nil }
	for _, tt := range []struct {
		name string
		s    Source
		want string // part of the error
	}{
		{"discovery", Source{Issuer: url + "/good", Client: trusting}, ""},
		{"an issuer with a slash", Source{Issuer: url + "/slash/", Client: trusting}, ""},
		{"a URL", Source{URL: url + "/keys", Client: trusting}, ""},
		{"with a token", Source{URL: url + "/private", Client: trusting, Bearer: bearer}, ""},
		{"without", Source{URL: url + "/private", Client: trusting}, "answered 401"},
		{"a token that cannot be had", Source{URL: url + "/keys", Client: trusting, Bearer: func() (string, error) { return "", errors.New("no file") }}, "no file"},
		{"another CA", Source{URL: url + "/keys", Client: client(&http.Transport{})}, "certificate"},
		{"another's document", Source{Issuer: url + "/other", Client: trusting}, "is of issuer"},
		{"keys by plain http", Source{Issuer: url + "/plain", Client: trusting}, "want an https URL"},
		{"no keys named", Source{Issuer: url + "/none", Client: trusting}, "no jwks_uri"},
		{"nothing there", Source{Issuer: url + "/404", Client: trusting}, "answered 404"},
		{"a redirect", Source{URL: url + "/redirect", Client: trusting}, "answered 302"},
		{"endless", Source{URL: url + "/endless", Client: trusting}, "longer than"},
		{"plain http", Source{URL: "http://127.0.0.1:1/keys", Client: trusting}, "want an https URL"},
		{"plain http, allowed", Source{URL: "http://127.0.0.1:1/keys", Client: trusting, InsecureHTTP: true}, "refused"},
		{"a file", Source{URL: "file:///etc/passwd", Client: trusting, InsecureHTTP: true}, "want an https URL"},
	} {
		text, err := tt.s.Fetch(t.Context())
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "S3CRET") {
			t.Errorf("%s: the error holds the token: %v", tt.name, err)
		}
		if err == nil && len(text) == 0 {
			t.Errorf("%s: nothing", tt.name)
		}
	}
}
