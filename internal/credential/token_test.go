package credential

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/keyset"

	"github.com/go-jose/go-jose/v4"
)

const (
	dex     = "https://dex.example.com"
	cluster = "https://kubernetes.default.svc.cluster.local"
)

// issuer signs what it is told to.
type issuer struct {
	t    testing.TB
	rsa  *rsa.PrivateKey
	ec   *ecdsa.PrivateKey
	ed   ed25519.PrivateKey
	weak *rsa.PrivateKey
}

var makeIssuer = sync.OnceValue(func() *issuer {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	i := &issuer{}
	var err error
	i.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	i.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	_, i.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	return i
})

func newIssuer(t testing.TB) *issuer {
	i := *makeIssuer()
	i.t = t
	return &i
}

// jwks is the issuer's key set: kid r (RS256), e (ES256), d (EdDSA).
func (i *issuer) jwks(kids ...string) []byte {
	i.t.Helper()
	var set jose.JSONWebKeySet
	for kid, key := range map[string]any{"r": i.rsa.Public(), "e": i.ec.Public(), "d": i.ed.Public()} {
		if len(kids) == 0 || slices.Contains(kids, kid) {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: key, KeyID: kid, Use: "sig"})
		}
	}
	out, err := json.Marshal(set)
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

func (i *issuer) sign(alg jose.SignatureAlgorithm, kid string, key, claims any) string {
	i.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	payload, is := claims.(string)
	if !is {
		raw, err := json.Marshal(claims)
		if err != nil {
			i.t.Fatal(err)
		}
		payload = string(raw)
	}
	signed, err := signer.Sign([]byte(payload))
	if err != nil {
		i.t.Fatal(err)
	}
	out, err := signed.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

func (i *issuer) token(claims map[string]any) string { return i.sign(jose.ES256, "e", i.ec, claims) }

func good() map[string]any {
	return map[string]any{
		"iss": dex, "aud": "postern", "exp": noon.Unix() + 600, "iat": noon.Unix(), "sub": "CgNhZGE",
		"email": "ada@example.com", "email_verified": true, "groups": []string{"team", "ops"}, "jti": "j1",
	}
}

func account() map[string]any {
	return map[string]any{
		"iss": cluster, "aud": []string{"postern"}, "exp": noon.Unix() + 600, "nbf": noon.Unix(), "iat": noon.Unix(),
		"sub": "system:serviceaccount:team:robot",
		"kubernetes.io": map[string]any{
			"namespace": "team", "serviceaccount": map[string]any{"name": "robot", "uid": "sa-1"},
			"pod": map[string]any{"name": "robot-1", "uid": "pod-1"}, "node": map[string]any{"name": "n", "uid": "n-1"},
		},
	}
}

func with(c map[string]any, name string, value any) map[string]any {
	c = maps.Clone(c)
	if c[name] = value; value == nil {
		delete(c, name)
	}
	return c
}

func testTokens(t testing.TB, i *issuer) *Tokens {
	t.Helper()
	keys := func() *keyset.Set {
		k, err := keyset.Fixed(i.jwks())
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	return NewTokens([]TokenRules{
		{Issuer: dex, Audiences: []string{"postern", "models"}, Keys: keys(), User: Claim{Name: "email"}, Groups: Claim{"groups", "dex:"}},
		{Issuer: dex, Audiences: []string{"machines"}, Keys: keys(), User: Claim{"sub", "client:"}},
		{Issuer: "https://git.example.com", Audiences: []string{"postern"}, Keys: keys(), Algorithms: []string{"EdDSA"}, User: Claim{"sub", "git:"}},
		{Issuer: cluster, Audiences: []string{"postern"}, Keys: keys(), Cluster: true},
	}, func() time.Time { return noon })
}

func TestTokens(t *testing.T) {
	i := newIssuer(t)
	tokens := testTokens(t, i)
	base := i.token(good())
	parts := strings.Split(base, ".")
	enc := base64.RawURLEncoding.EncodeToString
	payload, err := json.Marshal(good())
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := json.Marshal(jose.JSONWebKey{Key: i.ec.Public()})
	if err != nil {
		t.Fatal(err)
	}
	long := with(good(), "groups", slices.Repeat([]string{"6c0b2a5e-0000-4000-8000-000000000000"}, 250))
	for _, tt := range []struct{ name, token, want, user string }{
		{"good", base, "", "ada@example.com"},
		{"RS256", i.sign(jose.RS256, "r", i.rsa, good()), "", "ada@example.com"},
		{"without kid", i.sign(jose.ES256, "", i.ec, good()), "", "ada@example.com"},
		{"one audience of several", i.token(with(good(), "aud", []string{"x", "models"})), "", "ada@example.com"},
		{"the issuer's other audience", i.token(with(good(), "aud", "machines")), "", "client:CgNhZGE"},
		{"another issuer", i.sign(jose.EdDSA, "d", i.ed, with(good(), "iss", "https://git.example.com")), "", "git:CgNhZGE"},
		{"the last second", i.token(with(good(), "exp", noon.Unix()+1)), "", "ada@example.com"},
		{"a clock a little early", i.token(with(good(), "iat", noon.Unix()+30)), "", "ada@example.com"},
		{"an end as a fraction", i.token(with(good(), "exp", float64(noon.Unix())+600.5)), "", "ada@example.com"},

		{"no JWT", "sk-abc", TokenMalformed, ""},
		{"empty", "", TokenMalformed, ""},
		{"two parts", parts[0] + "." + parts[1], TokenMalformed, ""},
		{"five parts", base + ".x.y", TokenMalformed, ""},
		{"two tokens", base + "," + base, TokenMalformed, ""},
		{"JSON form", `{"payload":".","protected":".","signature":""}`, TokenMalformed, ""},
		{"huge", strings.Repeat("a", maxToken) + ".b.c", TokenMalformed, ""},
		{"claims that are a list", i.sign(jose.ES256, "e", i.ec, "[]"), TokenMalformed, ""},
		{"claims that are null", i.sign(jose.ES256, "e", i.ec, "null"), TokenMalformed, ""},
		{"iss twice", i.sign(jose.ES256, "e", i.ec, `{"iss":"x",`+string(payload[1:])), TokenMalformed, ""},
		{"ISS beside iss", i.sign(jose.ES256, "e", i.ec, `{"ISS":"x",`+string(payload[1:])), "", "ada@example.com"},
		{"ISS alone", i.token(with(with(good(), "iss", nil), "ISS", dex)), TokenUnknownIssuer, ""},
		{"no end", i.token(with(good(), "exp", nil)), TokenMalformed, ""},
		{"an end that is a text", i.token(with(good(), "exp", "2030")), TokenMalformed, ""},
		{"an audience that is a number", i.token(with(good(), "aud", 1)), TokenMalformed, ""},

		{"an unknown issuer", i.token(with(good(), "iss", "https://evil")), TokenUnknownIssuer, ""},
		{"a slash more", i.token(with(good(), "iss", dex+"/")), TokenUnknownIssuer, ""},
		{"no issuer", i.token(with(good(), "iss", nil)), TokenUnknownIssuer, ""},
		{"an issuer that is a list", i.token(with(good(), "iss", []string{dex})), TokenUnknownIssuer, ""},
		{"another audience", i.token(with(good(), "aud", "kubeflow")), TokenWrongAudience, ""},
		{"no audience", i.token(with(good(), "aud", nil)), TokenWrongAudience, ""},
		{"expired", i.token(with(good(), "exp", noon.Unix())), TokenExpired, ""},
		{"not yet", i.token(with(good(), "nbf", noon.Unix()+31)), TokenNotYetValid, ""},
		{"from the future", i.token(with(good(), "iat", noon.Unix()+31)), TokenNotYetValid, ""},
		{"another key", i.sign(jose.ES256, "e", other, good()), TokenBadSignature, ""},
		{"another key, no kid", i.sign(jose.ES256, "", other, good()), TokenBadSignature, ""},
		{"an unknown kid", i.sign(jose.ES256, "x", i.ec, good()), TokenUnknownKey, ""},
		{"the other key's kid", i.sign(jose.ES256, "r", i.ec, good()), TokenUnknownKey, ""},
		{"no signature", parts[0] + "." + parts[1] + ".", TokenBadSignature, ""},
		{"another payload", parts[0] + "." + enc([]byte(strings.Replace(string(payload), "ada@", "eve@", 1))) + "." + parts[2], TokenBadSignature, ""},

		{"none", enc([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", TokenAlgorithmRefused, ""},
		{"None", enc([]byte(`{"alg":"None"}`)) + "." + parts[1] + ".", TokenAlgorithmRefused, ""},
		{"HS256 by the public key", i.sign(jose.HS256, "e", pair, good()), TokenAlgorithmRefused, ""},
		{"one not allowed for the issuer", i.sign(jose.EdDSA, "d", i.ed, good()), TokenAlgorithmRefused, ""},
		{"ES384 likewise", i.sign(jose.ES384, "e", p384, good()), TokenAlgorithmRefused, ""},
		{"RS256 likewise", i.sign(jose.RS256, "r", i.rsa, with(good(), "iss", "https://git.example.com")), TokenAlgorithmRefused, ""},
		{"a critical extension", critical(i, good()), TokenBadSignature, ""},

		{"no e-mail", i.token(with(good(), "email", nil)), TokenWithoutUser, ""},
		{"an e-mail that is a list", i.token(with(good(), "email", []string{"a"})), TokenWithoutUser, ""},
		{"a name with a line break", i.token(with(good(), "email", "a\nkubeflow-userid: b")), TokenWithoutUser, ""},
		{"a name with a space before it", i.token(with(good(), "email", " system:admin")), TokenWithoutUser, ""},
		{"an e-mail nobody verified", i.token(with(good(), "email_verified", nil)), EmailNotVerified, ""},
		{"verified as a text", i.token(with(good(), "email_verified", "true")), EmailNotVerified, ""},
		{"a reserved name", i.token(with(good(), "email", "system:admin")), ReservedName, ""},
		{"one of Postern's", i.token(with(good(), "email", "postern:key:team:robot")), ReservedName, ""},
		{"a reserved group", i.token(with(good(), "groups", []string{"system:masters"})), ReservedName, ""},
		{"a reserved name behind a prefix", i.token(with(with(good(), "aud", "machines"), "sub", "system:admin")), ReservedName, ""},
		{"groups that are no list", i.token(with(good(), "groups", map[string]any{"a": 1})), TokenMalformed, ""},
		{"two hundred groups, as Entra has them", i.token(with(good(), "groups", slices.Repeat([]string{"6c0b2a5e-0000-4000-8000-000000000000"}, 170))), "", "ada@example.com"},
		{"too many groups", i.token(long), TooManyGroups, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second answer may come from the cache
				c, _, err := tokens.Caller(t.Context(), Credential{text: tt.token}, Live{})
				if got := reasonOf(err); got != tt.want || c.User != tt.user {
					t.Fatalf("got %q (%v) %q, want %q %q", got, err, c.User, tt.want, tt.user)
				}
				if p := strings.Split(tt.token, "."); err != nil && len(p) == 3 && len(p[2]) > 8 && strings.Contains(err.Error(), p[2][:8]) {
					t.Errorf("the error holds the token: %v", err)
				}
			}
		})
	}
	c, id, err := tokens.Caller(t.Context(), Credential{text: base}, Live{})
	if err != nil || id != "j1" || c.Kind != access.Person || !c.Proven || fmt.Sprint(c.Groups) != "[dex:team dex:ops system:authenticated]" {
		t.Errorf("got %+v %q %v", c, id, err)
	}
	c, _, err = tokens.Caller(t.Context(), Credential{text: i.token(with(good(), "aud", "machines"))}, Live{})
	if err != nil || c.Kind != access.Token || fmt.Sprint(c.Groups) != "[system:authenticated]" {
		t.Errorf("got %+v %v", c, err)
	}
	_, _, err = tokens.Caller(t.Context(), Credential{text: i.token(with(account(), "aud", "x"))}, Live{})
	if err == nil || !strings.Contains(err.Error(), "needed is postern") {
		t.Errorf("a wrong audience does not name the one needed: %v", err)
	}
	if _, _, err := NewTokens(nil, time.Now).Caller(t.Context(), Credential{text: base}, Live{}); reasonOf(err) != TokenUnknownIssuer {
		t.Errorf("no issuers: got %v", err)
	}
}

func critical(i *issuer, claims map[string]any) string {
	opts := (&jose.SignerOptions{}).WithCritical("x").WithHeader("x", 1)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.ec, KeyID: "e"}}, opts)
	if err != nil {
		i.t.Fatal(err)
	}
	raw, _ := json.Marshal(claims)
	signed, err := signer.Sign(raw)
	if err != nil {
		i.t.Fatal(err)
	}
	out, err := signed.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

func TestServiceAccountTokens(t *testing.T) {
	i := newIssuer(t)
	tokens := testTokens(t, i)
	skipping := testTokens(t, i)
	for n := range skipping.rules {
		skipping.rules[n].SkipLiveness = true
	}
	live := func(sa, pod string) Live {
		l := Live{Pods: NewPods([]Pod{{Namespace: "team", Name: "robot-1", UID: pod, Phase: "Failed"}, {Namespace: "other", Name: "robot-2", UID: "pod-1"}}, PodRules{}), Accounts: &Accounts{uids: map[objectName]string{{"team", "robot"}: sa}}}
		return l
	}
	k8s := func(change func(k map[string]any)) map[string]any {
		c := account()
		k := maps.Clone(c["kubernetes.io"].(map[string]any))
		change(k)
		c["kubernetes.io"] = k
		return c
	}
	pod := func(name, uid string) func(map[string]any) {
		return func(k map[string]any) { k["pod"] = map[string]any{"name": name, "uid": uid} }
	}
	for _, tt := range []struct {
		name    string
		claims  map[string]any
		live    Live
		want    string
		skipped string // the same when liveness may be skipped
	}{
		{"good", account(), live("sa-1", "pod-1"), "", ""},
		{"the account made anew", account(), live("sa-2", "pod-1"), NotLive, NotLive},
		{"the pod made anew", account(), live("sa-1", "pod-2"), NotLive, NotLive},
		{"no UIDs, as in manifests", account(), live("", ""), NotLive, ""},
		{"nothing known", account(), Live{}, NotLive, ""},
		{"no such pod", k8s(pod("robot-2", "pod-1")), live("sa-1", "pod-1"), NotLive, ""},
		{"bound to nothing", k8s(func(k map[string]any) { delete(k, "pod"); delete(k, "node") }), live("sa-1", "pod-1"), "", ""},
		{"bound to a node", k8s(func(k map[string]any) { delete(k, "pod") }), live("sa-1", "pod-1"), NotLive, ""},
		{"bound to a Secret", k8s(func(k map[string]any) { delete(k, "pod"); k["secret"] = map[string]any{"name": "s", "uid": "u"} }), live("sa-1", "pod-1"), NotLive, ""},
		{"a subject that is another", with(account(), "sub", "system:serviceaccount:team:other"), live("sa-1", "pod-1"), TokenMalformed, TokenMalformed},
		{"no such claims", with(account(), "kubernetes.io", nil), live("sa-1", "pod-1"), TokenMalformed, TokenMalformed},
		{"no UID", k8s(func(k map[string]any) { k["serviceaccount"] = map[string]any{"name": "robot"} }), live("sa-1", "pod-1"), TokenMalformed, TokenMalformed},
		{"a pod without UID", k8s(pod("robot-1", "")), live("sa-1", "pod-1"), TokenMalformed, TokenMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			token := i.token(tt.claims)
			for _, way := range []struct {
				tokens *Tokens
				want   string
			}{{tokens, tt.want}, {skipping, tt.skipped}} {
				c, _, err := way.tokens.Caller(t.Context(), Credential{text: token}, tt.live)
				if reasonOf(err) != way.want {
					t.Fatalf("got %v, want %q", err, way.want)
				}
				if err == nil && (c.User != "system:serviceaccount:team:robot" || c.Kind != access.Account || !c.Proven ||
					fmt.Sprint(c.Groups) != "[system:serviceaccounts system:serviceaccounts:team system:authenticated]") {
					t.Errorf("got %+v", c)
				}
			}
		})
	}
	// What was live and is remembered ends with the snapshot that says so.
	token := Credential{text: i.token(account())}
	if _, _, err := tokens.Caller(t.Context(), token, live("sa-1", "pod-1")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tokens.Caller(t.Context(), token, live("sa-1", "pod-9")); reasonOf(err) != NotLive {
		t.Errorf("after the pod's end: got %v", err)
	}
}

func TestTokenCache(t *testing.T) {
	i := newIssuer(t)
	tokens := testTokens(t, i)
	now := noon
	tokens.now = func() time.Time { return now }
	token := Credential{text: i.token(good())}
	ask := func() string {
		_, _, err := tokens.Caller(t.Context(), token, Live{})
		return reasonOf(err)
	}
	if ask() != "" || len(tokens.seen) != 1 {
		t.Fatal("not remembered")
	}
	now = noon.Add(10 * time.Minute)
	if got := ask(); got != TokenExpired {
		t.Errorf("a remembered token after its end: got %q", got)
	}
	now = noon
	rotated, err := keyset.Fixed(i.jwks("r")) // the issuer has taken the key away
	if err != nil {
		t.Fatal(err)
	}
	tokens.rules[0].Keys = rotated
	if got := ask(); got != TokenUnknownKey {
		t.Errorf("a remembered token whose key is gone: got %q", got)
	}
	for n := range 2*maxSeen + 1 {
		tokens.remember([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}, &verified{until: noon.Unix() + int64(n)}, noon.Unix())
		if len(tokens.seen) > maxSeen {
			t.Fatalf("%d are remembered", len(tokens.seen))
		}
	}
}

func FuzzJWT(f *testing.F) {
	i := newIssuer(f)
	tokens := testTokens(f, i)
	real := map[string]bool{}
	for _, c := range []map[string]any{good(), account(), with(good(), "aud", "machines")} {
		token := i.token(c)
		real[token[:strings.LastIndexByte(token, '.')]] = true
		f.Add(token)
	}
	f.Add("a.b.c")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + ".e30.")
	live := Live{Pods: NewPods([]Pod{{Namespace: "team", Name: "robot-1", UID: "pod-1"}}, PodRules{}), Accounts: &Accounts{uids: map[objectName]string{{"team", "robot"}: "sa-1"}}}
	f.Fuzz(func(t *testing.T, text string) {
		_, _, err := tokens.Caller(context.Background(), Credential{text: text}, live)
		if err == nil && !real[strings.Join(strings.Split(text, ".")[:2], ".")] {
			t.Errorf("%q was taken", text)
		}
		if err != nil && strings.HasPrefix(reasonOf(err), "another error") {
			t.Errorf("%q: got %v", text, err)
		}
	})
}

func benchToken(b *testing.B, seen bool, sign func(*issuer) string) {
	i := newIssuer(b)
	tokens := testTokens(b, i)
	c := Credential{text: sign(i)}
	b.ReportAllocs()
	for b.Loop() {
		if !seen {
			clear(tokens.seen)
		}
		if _, _, err := tokens.Caller(context.Background(), c, Live{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTokenSeen(b *testing.B) {
	benchToken(b, true, func(i *issuer) string { return i.sign(jose.RS256, "r", i.rsa, good()) })
}

func BenchmarkTokenFirstRS256(b *testing.B) {
	benchToken(b, false, func(i *issuer) string { return i.sign(jose.RS256, "r", i.rsa, good()) })
}

func BenchmarkTokenFirstES256(b *testing.B) {
	benchToken(b, false, func(i *issuer) string { return i.token(good()) })
}
