package passport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"postern.dev/postern/internal/access"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

var (
	iris = Audience{Resource: access.Model("kserve-test", "iris")}
	hop  = Audience{Resource: iris.Resource, Hop: true}
	noon = time.Date(2026, 11, 24, 12, 0, 0, 500, time.UTC)
	ada  = access.Caller{User: "ada@example.com", Groups: []string{"team", access.AuthenticatedGroup}, Proven: true, Kind: access.Person}
)

func newKeys(t testing.TB) *Keys {
	t.Helper()
	k, err := New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mint(t testing.TB, k *Keys, c access.Caller, a Audience, at time.Time) string {
	t.Helper()
	token, err := k.Mint(c, a, at)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func reasonOf(err error) string {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Reason
	}
	if err != nil {
		return "another error: " + err.Error()
	}
	return ""
}

func TestCheck(t *testing.T) {
	k, other := newKeys(t), newKeys(t)
	token := mint(t, k, ada, iris, noon)
	parts := strings.Split(token, ".")
	other10 := func(part string) string { // another letter in one place, base64 all the same
		b := []byte(part)
		if b[10]++; b[10] < 'A' || b[10] > 'Z' {
			b[10] = 'A'
		}
		return string(b)
	}
	for _, tt := range []struct {
		name, token string
		a           Audience
		at          time.Time
		want        string
	}{
		{"good", token, iris, noon, ""},
		{"good to the last second", token, iris, noon.Add(59 * time.Second), ""},
		{"too late", token, iris, noon.Add(60 * time.Second), Expired},
		{"a little early: clocks differ", token, iris, noon.Add(-5 * time.Second), ""},
		{"too early", token, iris, noon.Add(-7 * time.Second), NotYetValid},
		{"another model", token, Audience{Resource: access.Model("kserve-test", "iris2")}, noon, WrongAudience},
		{"another namespace", token, Audience{Resource: access.Model("kserve", "iris")}, noon, WrongAudience},
		{"another kind", token, Audience{Resource: access.Application("kserve-test", "iris")}, noon, WrongAudience},
		{"at the second hop to it", token, hop, noon, WrongAudience},
		{"one for the second hop, there", mint(t, k, ada, hop, noon), hop, noon, ""},
		{"one for the second hop, at the model", mint(t, k, ada, hop, noon), iris, noon, WrongAudience},
		{"another's key", mint(t, other, ada, iris, noon), iris, noon, UnknownKey},
		{"a signature changed", parts[0] + "." + parts[1] + "." + other10(parts[2]), iris, noon, BadSignature},
		{"a payload changed", parts[0] + "." + other10(parts[1]) + "." + parts[2], iris, noon, BadSignature},
		{"no signature", parts[0] + "." + parts[1] + ".", iris, noon, BadSignature},
		{"two parts", parts[0] + "." + parts[1], iris, noon, Malformed},
		{"two joined by a comma", token + "," + token, iris, noon, Malformed},
		{"JSON form", `{"payload":"","protected":"..","signature":""}`, iris, noon, Malformed},
		{"empty", "", iris, noon, Malformed},
		{"huge", strings.Repeat("a", maxToken) + ".b.c", iris, noon, Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second answer may come from the cache
				p, err := k.Check(tt.token, tt.a, tt.at)
				if got := reasonOf(err); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if err == nil && !p.Caller.Equal(ada) || err != nil && !p.Caller.Equal(access.Caller{}) {
					t.Errorf("got %+v", p)
				}
				if err != nil && len(tt.token) > 20 && strings.Contains(err.Error(), tt.token[:20]) {
					t.Errorf("the error quotes the token: %v", err)
				}
			}
		})
	}
}

// TestForgedClaims signs wrong claims with the right key: a key does not make
// them right.
func TestForgedClaims(t *testing.T) {
	k := newKeys(t)
	at := noon.Unix()
	good := claims{Issuer: Issuer, Audience: jwt.Audience{iris.String()}, Subject: "ada", IssuedAt: at, NotBefore: at, Expires: at + 60}
	for _, tt := range []struct {
		name   string
		change func(*claims)
		want   string
	}{
		{"nothing", func(*claims) {}, ""},
		{"issuer", func(c *claims) { c.Issuer = "dex" }, WrongIssuer},
		{"two audiences", func(c *claims) { c.Audience = append(c.Audience, "x") }, WrongAudience},
		{"no audience", func(c *claims) { c.Audience = nil }, Malformed},
		{"an empty list", func(c *claims) { c.Audience = jwt.Audience{} }, WrongAudience},
		{"too long", func(c *claims) { c.Expires++ }, TooLong},
		{"too long by iat", func(c *claims) { c.IssuedAt-- }, TooLong},
		{"no times", func(c *claims) { c.IssuedAt, c.NotBefore, c.Expires = 0, 0, 0 }, Expired},
		{"no end", func(c *claims) { c.Expires = 0 }, Expired},
		{"no subject", func(c *claims) { c.Subject = "" }, NoSubject},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.change(&c)
			token, err := jwt.Signed(k.current.signer).Claims(c).Serialize()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := k.Check(token, iris, noon); reasonOf(err) != tt.want {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestAlgorithms: nothing but ES256, even with our key's id.
func TestAlgorithms(t *testing.T) {
	k := newKeys(t)
	id := k.current.id
	at := noon.Unix()
	cl := claims{Issuer: Issuer, Audience: jwt.Audience{iris.String()}, Subject: "ada", IssuedAt: at, NotBefore: at, Expires: at + 60}
	public, err := json.Marshal(k.current.public)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for alg, key := range map[jose.SignatureAlgorithm]any{jose.HS256: public, jose.RS256: rsaKey, jose.ES384: p384} {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.Signed(signer).Claims(cl).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Check(token, iris, noon); reasonOf(err) != Malformed {
			t.Errorf("%s: got %v, want %s", alg, err, Malformed)
		}
	}
	payload, err := json.Marshal(cl)
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	for _, alg := range []string{"none", "None", "NONE", ""} {
		token := enc([]byte(`{"alg":"`+alg+`","kid":"`+id+`"}`)) + "." + enc(payload) + "."
		if _, err := k.Check(token, iris, noon); reasonOf(err) != Malformed {
			t.Errorf("alg %q: got %v, want %s", alg, err, Malformed)
		}
	}
}

func TestMintCaches(t *testing.T) {
	k := newKeys(t)
	first := mint(t, k, ada, iris, noon)
	if mint(t, k, ada, iris, noon.Add(29*time.Second)) != first {
		t.Error("got a new passport while the old one had half its life to go")
	}
	if mint(t, k, ada, iris, noon.Add(31*time.Second)) == first {
		t.Error("got an old passport with less than half its life to go")
	}
	if mint(t, k, ada, iris, noon.Add(-time.Second)) == first {
		t.Error("got a passport from the future")
	}
	seen := map[string]access.Caller{}
	for _, c := range []access.Caller{
		ada, {User: ada.User}, {User: ada.User, Proven: true}, {User: ada.User, Groups: []string{"a b"}}, {User: ada.User, Groups: []string{"a", "b"}},
		{User: ada.User, Groups: []string{"a\" \"b"}}, {User: ada.User + " 0"}, {User: ada.User, Kind: access.Person},
	} {
		token := mint(t, k, c, iris, noon)
		if old, ok := seen[token]; ok {
			t.Errorf("%+v got the passport of %+v", c, old)
		}
		seen[token] = c
		if got, err := k.Check(token, iris, noon); err != nil || !got.Caller.Equal(c) {
			t.Errorf("got %+v %v, want %+v", got, err, c)
		}
	}
	if _, err := k.Mint(access.Caller{}, iris, noon); err == nil {
		t.Error("minted for nobody")
	}
	if _, err := k.Mint(ada, Audience{}, noon); err == nil {
		t.Error("minted for nothing")
	}
	big := access.Caller{User: "x", Groups: make([]string, 500)}
	for i := range big.Groups {
		big.Groups[i] = strings.Repeat("g", 30)
	}
	if _, err := k.Mint(big, iris, noon); err == nil {
		t.Error("minted a passport that Check would not look at")
	}
}

// TestRenew: what is made of a passport ends when it does, however often it is made
// anew, so that a model cannot keep its caller.
func TestRenew(t *testing.T) {
	k := newKeys(t)
	token, at, aud := mint(t, k, ada, hop, noon), noon, []Audience{hop, iris}
	for i := range 50 {
		at = at.Add(time.Second)
		p, err := k.Check(token, aud[i%2], at)
		if err != nil || !p.Caller.Equal(ada) || p.Until != noon.Unix()+60 {
			t.Fatalf("after %d s: got %+v %v", i+1, p, err)
		}
		next := aud[(i+1)%2]
		if token, err = k.Renew(p, next, at); err != nil {
			t.Fatal(err)
		}
		if again, err := k.Renew(p, next, at); err != nil || again != token {
			t.Errorf("after %d s: made twice, or %v", i+1, err)
		}
	}
	for _, a := range aud {
		if _, err := k.Check(token, a, noon.Add(60*time.Second)); err == nil {
			t.Error("valid after a minute")
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	m := map[int]cached{}
	for i := range 3 * maxCached {
		put(m, i, cached{until: int64(i)}, 0)
		if len(m) > maxCached {
			t.Fatalf("got %d entries, want at most %d", len(m), maxCached)
		}
	}
}

func TestRotate(t *testing.T) {
	k := newKeys(t)
	old := mint(t, k, ada, iris, noon)
	if err := k.Rotate(); err != nil {
		t.Fatal(err)
	}
	next := mint(t, k, ada, iris, noon)
	if next == old {
		t.Error("the new key signs nothing")
	}
	for _, token := range []string{old, next} {
		if _, err := k.Check(token, iris, noon); err != nil {
			t.Errorf("after one rotation: %v", err)
		}
	}
	if err := k.Rotate(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Check(old, iris, noon); reasonOf(err) != UnknownKey {
		t.Errorf("after two rotations: got %v, want %s", err, UnknownKey)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(k.JWKS(), &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("got %s %v, want two keys", k.JWKS(), err)
	}
	for _, key := range set.Keys {
		if !key.IsPublic() || !key.Valid() || key.Algorithm != "ES256" || key.Use != "sig" {
			t.Errorf("got key %+v", key)
		}
	}
	if strings.Contains(string(k.JWKS()), `"d"`) {
		t.Error("the set holds a private key")
	}
}

func TestConcurrent(t *testing.T) {
	k := newKeys(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 50 {
				token, err := k.Mint(ada, iris, noon.Add(time.Duration(i)*time.Second))
				if err != nil {
					t.Error(err)
				}
				if _, err := k.Check(token, iris, noon.Add(time.Duration(i)*time.Second)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if err := k.Rotate(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func FuzzCheck(f *testing.F) {
	k := newKeys(f)
	good := mint(f, k, ada, iris, noon)
	f.Add(good)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		p, err := k.Check(token, iris, noon)
		if err == nil && token != good {
			// Only another spelling of the same signature could be.
			if !p.Caller.Equal(ada) {
				t.Errorf("got %+v for %q", p, token)
			}
		}
	})
}

func BenchmarkCheckSeen(b *testing.B) {
	k := newKeys(b)
	token := mint(b, k, ada, iris, noon)
	for b.Loop() {
		if _, err := k.Check(token, iris, noon); err != nil {
			b.Fatal(err)
		}
	}
}

func TestCounts(t *testing.T) {
	k, err := New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, now := Audience{Resource: access.Model("a", "b")}, time.Now()
	for range 3 {
		token, err := k.Mint(access.Caller{User: "u"}, a, now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Check(token, a, now); err != nil {
			t.Fatal(err)
		}
	}
	mint, check := k.Counts()
	for _, c := range []*Count{mint, check} {
		if c.Hits.Load() != 2 || c.Misses.Load() != 1 {
			t.Errorf("got %d known and %d not, want 2 and 1", c.Hits.Load(), c.Misses.Load())
		}
	}
}
