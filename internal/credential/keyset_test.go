package credential

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

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
	i := newIssuer(t)
	synctest.Test(t, func(t *testing.T) {
		p := &provider{}
		keys := FetchedKeys(p.fetch, time.Now)
		defer keys.Close()
		find := func(kid, alg string) string {
			_, _, err := keys.find(t.Context(), kid, alg)
			return reasonOf(err)
		}
		step := func(name string, got, want string, asked int32) {
			t.Helper()
			synctest.Wait()
			if got != want || p.asked.Load() != asked {
				t.Fatalf("%s: got %q after %d fetches, want %q after %d", name, got, p.asked.Load(), want, asked)
			}
		}
		p.set(nil, errors.New("away"), 0)
		step("away from the beginning", find("e", "ES256"), KeysUnavailable, 1)
		step("at once again", find("e", "ES256"), KeysUnavailable, 1)
		time.Sleep(keyInterval)
		p.set(i.jwks("e"), nil, 0)
		step("there", find("e", "ES256"), "", 2)
		step("known", find("e", "ES256"), "", 2)
		step("unknown kid, asked a moment ago", find("r", "RS256"), TokenUnknownKey, 2)
		time.Sleep(keyInterval)
		step("unknown kid", find("r", "RS256"), TokenUnknownKey, 3)
		p.set(i.jwks("e", "r"), nil, 0)
		step("rotated a moment later", find("r", "RS256"), TokenUnknownKey, 3)
		time.Sleep(keyInterval)
		step("rotated", find("r", "RS256"), "", 4)

		set := keys.current.Load()
		p.set(nil, errors.New("away"), 0)
		time.Sleep(keyAge)
		step("away, known keys go on", find("e", "ES256"), "", 5)
		step("an unknown one cannot be told", find("d", "EdDSA"), KeysUnavailable, 5)
		time.Sleep(keyInterval)
		step("tried again beside", find("e", "ES256"), "", 6)
		p.set(i.jwks("r"), nil, time.Second)
		time.Sleep(keyInterval)
		step("a known one does not wait", find("e", "ES256"), "", 7)
		time.Sleep(time.Second)
		synctest.Wait()
		if keys.current.Load() == set {
			t.Fatal("the new set is not in force")
		}
		step("taken away", find("e", "ES256"), TokenUnknownKey, 7)
	})
}

// TestKeySetSingleFlight: however many wait, one asks; who waits leaves when its
// own time is over, and the fetch goes on.
func TestKeySetSingleFlight(t *testing.T) {
	i := newIssuer(t)
	synctest.Test(t, func(t *testing.T) {
		p := &provider{}
		p.set(i.jwks(), nil, 3*time.Second)
		keys := FetchedKeys(p.fetch, time.Now)
		defer keys.Close()
		var wg sync.WaitGroup
		var late, good atomic.Int32
		for n := range 20 {
			wg.Go(func() {
				ctx, stop := context.WithTimeout(t.Context(), time.Duration(1+n%2*9)*time.Second)
				defer stop()
				switch _, _, err := keys.find(ctx, "e", "ES256"); reasonOf(err) {
				case "":
					good.Add(1)
				case KeysUnavailable:
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
		if _, _, err := keys.find(t.Context(), "x", "ES256"); reasonOf(err) != KeysUnavailable || time.Since(begin) != fetchTimeout {
			t.Errorf("a fetch that hangs: got %v after %s", err, time.Since(begin))
		}
	})
}

func TestKeySetClose(t *testing.T) {
	i := newIssuer(t)
	p := &provider{}
	p.set(i.jwks(), nil, time.Hour)
	keys := FetchedKeys(p.fetch, time.Now)
	done := make(chan string)
	go func() {
		_, _, err := keys.find(context.Background(), "e", "ES256")
		done <- reasonOf(err)
	}()
	for p.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	keys.Close()
	keys.Close()
	if got := <-done; got != KeysUnavailable {
		t.Errorf("got %q", got)
	}
	if fixed, err := FixedKeys(i.jwks()); err != nil {
		t.Error(err)
	} else {
		fixed.Close()
	}
}

func TestReadJWKS(t *testing.T) {
	i := newIssuer(t)
	good := string(i.jwks("e"))
	one := strings.TrimSuffix(strings.TrimPrefix(good, `{"keys":[`), `]}`)
	for _, tt := range []struct {
		name, text string
		keys       int // 0: an error
	}{
		{"good", good, 1},
		{"all kinds", string(i.jwks()), 3},
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
	i := newIssuer(t)
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
			_, _ = w.Write(i.jwks())
		case "/private":
			if r.Header.Get("Authorization") != "Bearer S3CRET" {
				w.WriteHeader(401)
			}
			_, _ = w.Write(i.jwks())
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
		s    KeySource
		want string // part of the error
	}{
		{"discovery", KeySource{Issuer: url + "/good", Client: trusting}, ""},
		{"an issuer with a slash", KeySource{Issuer: url + "/slash/", Client: trusting}, ""},
		{"a URL", KeySource{URL: url + "/keys", Client: trusting}, ""},
		{"with a token", KeySource{URL: url + "/private", Client: trusting, Bearer: bearer}, ""},
		{"without", KeySource{URL: url + "/private", Client: trusting}, "answered 401"},
		{"a token that cannot be had", KeySource{URL: url + "/keys", Client: trusting, Bearer: func() (string, error) { return "", errors.New("no file") }}, "no file"},
		{"another CA", KeySource{URL: url + "/keys", Client: client(&http.Transport{})}, "certificate"},
		{"another's document", KeySource{Issuer: url + "/other", Client: trusting}, "is of issuer"},
		{"keys by plain http", KeySource{Issuer: url + "/plain", Client: trusting}, "want an https URL"},
		{"no keys named", KeySource{Issuer: url + "/none", Client: trusting}, "no jwks_uri"},
		{"nothing there", KeySource{Issuer: url + "/404", Client: trusting}, "answered 404"},
		{"a redirect", KeySource{URL: url + "/redirect", Client: trusting}, "answered 302"},
		{"endless", KeySource{URL: url + "/endless", Client: trusting}, "longer than"},
		{"plain http", KeySource{URL: "http://127.0.0.1:1/keys", Client: trusting}, "want an https URL"},
		{"plain http, allowed", KeySource{URL: "http://127.0.0.1:1/keys", Client: trusting, InsecureHTTP: true}, "refused"},
		{"a file", KeySource{URL: "file:///etc/passwd", Client: trusting, InsecureHTTP: true}, "want an https URL"},
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
