package envoy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// FuzzRegex holds the regexes that are compared as text against the automaton.
func FuzzRegex(f *testing.F) {
	for _, seed := range [][2]string{
		{`^isvc-sklearn\.ns\.example\.com(?::\d{1,5})?$`, "isvc-sklearn.ns.example.com:8080"},
		{`^a.b\x00-\.(?::\d{1,5})?$`, "a.b.-.:1"}, {`^a\(?::\d{1,5})?$`, "a:1"}, {`^(?::\d{1,5})?$`, ":1"}, {`^a(?::\d{1,5})?$`, "a:123456"}, {`^a(?::\d{1,5})?$`, "a:"}, {`a(?::[0-9]{1,5})?`, "a:1\n"}, {`a(?::\d{1,6})?`, "a:123456"}, {`a(?::\d{0,5})?`, "a:"},
		{`.+`, ""}, {`.*`, "a\nb"}, {`(?s).*`, "a\nb"}, {`(?i)abc`, "aBc"}, {`(?i)k`, "\u212a"}, {`^$`, ""}, {`$^`, ""}, {`(?m)^a$`, "a"}, {`()a()`, "a"}, {`a|b`, "b"}, {`a.*`, "abc"},
		{`(a)(?:b)c`, "abc"}, {`a$b`, "ab"}, {`\x{FFFD}`, "\xff"}, {`.+?`, "x"}, {`[a]`, "a"}, {`a{2}`, "aa"}, {`\Qa.b\E`, "a.b"}, {`(`, ""}, {`.+`, "\xff"}, {`a)|(?:b`, "b"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, value string) {
		m, err := compileRegex(&matcherv3.RegexMatcher{Regex: pattern})
		re, reErr := regexp.Compile(`\A(?:` + bytewise(pattern) + `)\z`)
		if err != nil && strings.Contains(err.Error(), "beyond") {
			return
		}
		if (err == nil) != (reErr == nil) {
			t.Fatalf("compileRegex(%q): got %v, regexp says %v", pattern, err, reErr)
		}
		if err == nil && m.match(value) != re.MatchString(bytewise(value)) {
			t.Errorf("%q on %q: got %t (kind %d), regexp says otherwise", pattern, value, m.match(value), m.kind)
		}
		if start, whole := m.start(); err == nil && m.match(value) && (!strings.HasPrefix(value, start) || whole && value != start) {
			t.Errorf("%q matches %q, and is indexed by %q", pattern, value, start)
		}
	})
}

// bytewise writes each byte as a character, as Envoy's RE2 reads it.
func bytewise(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

// FuzzRouteIndex holds the index of routes against trying them one after the other.
// Of the routes' text each line is one: a letter for the kind of its path, one for
// a header it wants, and the path.
func FuzzRouteIndex(f *testing.F) {
	f.Add("p-/\nx-/a\np-/a/\ns-/a\np-/a/b\nr-/a/b.*c\nxh/a/b\nph/a\nx-/a\np-\nP-/A\nX-/a/B", "/a/b/c", true)
	f.Add(strings.Repeat("ph/a\n", 9)+"p-/a\nx-/a", "/a", false)
	f.Add("xh/\nxh/\nph/\np-/x\np-/xy\np-/xyz\np-/xz\nr-/x(y|z)\nr-(/x|/y)\nr-(?i)/X\ns-/x\ns-/x/", "/xyz", false)
	f.Add("p-\np-/\np-/a\np-/aa\np-/aaa\np-/aaaa\np-/aaaaa\np-/aaaaaa\np-/aaaaaaa\np-/aaaaaaaa\np-/aaaaaaaaa\np-/aaaaaaaaaa\np-/aaaaaaaaaaa\np-/aaaaaaaaaaaa", "/aaaaaaaaaaaa", true)
	f.Fuzz(func(t *testing.T, text, path string, header bool) {
		vh := &virtualHost{name: "v"}
		for line := range strings.SplitSeq(text, "\n") {
			if len(line) < 2 {
				continue
			}
			m := &routev3.RouteMatch{}
			if strings.IndexByte("PXS", line[0]) >= 0 {
				m.CaseSensitive = wrapperspb.Bool(false)
			}
			switch line[0] | 0x20 {
			case 'x':
				m.PathSpecifier = &routev3.RouteMatch_Path{Path: line[2:]}
			case 's':
				m.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: line[2:]}
			case 'r':
				m.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: line[2:]}}
			default:
				m.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: line[2:]}
			}
			if line[1] == 'h' {
				m.Headers = []*routev3.HeaderMatcher{{Name: "h"}}
			}
			c, err := compileMatch(m)
			if err != nil {
				return
			}
			vh.routes = append(vh.routes, &route{matches: c})
		}
		vh.index = newRouteIndex(vh.routes)
		s := &stream{}
		if header {
			s.headers = Headers{{"h", ""}}
		}
		got, _ := vh.find(s, path, "")
		if want, _ := vh.scan(s, path, ""); got != want {
			t.Errorf("%q in\n%s\nis route %d by the index and %d by trying each", path, text, slices.Index(vh.routes, got), slices.Index(vh.routes, want))
		}
	})
}

// FuzzHeaderMatcher holds header matchers against a plain reading of Envoy's rules
// (TestHeaderMatchers has their source): any of the values for a value match,
// none of them for an inverted one, and an absent header matches neither way.
func FuzzHeaderMatcher(f *testing.F) {
	f.Add(uint8(0), "a", "a", "b", uint8(2), false, false, false)
	f.Add(uint8(1), "Ab", "aBc", "", uint8(1), true, true, false)
	f.Add(uint8(2), "É", "xé", "xÉ", uint8(2), true, false, true)
	f.Add(uint8(3), "", "", "", uint8(0), false, true, true)
	f.Add(uint8(4), "", "", "", uint8(0), false, true, true)
	f.Add(uint8(5), "", "a", "", uint8(1), false, true, false)
	f.Add(uint8(6), "a+", "aa", "ab", uint8(2), false, true, false)
	f.Fuzz(func(t *testing.T, kind uint8, pattern, first, second string, count uint8, fold, invert, missingEmpty bool) {
		low := func(s string) string {
			if !fold {
				return s
			}
			b := []byte(s)
			for i, c := range b {
				if strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZ", c) >= 0 {
					b[i] = c | 0x20
				}
			}
			return string(b)
		}
		sm := &matcherv3.StringMatcher{IgnoreCase: fold}
		m := &routev3.HeaderMatcher{Name: "X-A", InvertMatch: invert, TreatMissingHeaderAsEmpty: missingEmpty, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: sm}}
		var one func(v string) bool
		switch kind % 7 {
		case 0:
			sm.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: pattern}
			one = func(v string) bool { return low(v) == low(pattern) }
		case 1:
			sm.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: pattern}
			one = func(v string) bool { return strings.HasPrefix(low(v), low(pattern)) }
		case 2:
			sm.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: pattern}
			one = func(v string) bool { return strings.HasSuffix(low(v), low(pattern)) }
		case 3:
			sm.MatchPattern = &matcherv3.StringMatcher_Contains{Contains: pattern}
			one = func(v string) bool { return strings.Contains(low(v), low(pattern)) }
		case 4, 5:
			m.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: kind%7 == 4}
		case 6:
			m.HeaderMatchSpecifier = &routev3.HeaderMatcher_SafeRegexMatch{SafeRegexMatch: &matcherv3.RegexMatcher{Regex: pattern}}
			re, err := regexp.Compile(`\A(?:` + bytewise(pattern) + `)\z`)
			if err != nil || strings.Contains(pattern, `\`) {
				return
			}
			one = func(v string) bool { return re.MatchString(bytewise(v)) }
		}
		values := []string{first, second}[:count%3]
		s := &stream{headers: Headers{{"x", "other"}}}
		for _, v := range values {
			s.headers = append(s.headers, Header{"x-a", v}, Header{"x-b", "other"})
		}
		h, err := compileHeader(m)
		if err != nil {
			t.Fatal(err)
		}
		if len(values) == 0 && missingEmpty {
			values = []string{""}
		}
		want := len(values) > 0
		if one == nil {
			want = want == (kind%7 == 4) != invert
		} else if want {
			want = slices.ContainsFunc(values, one) != invert
		}
		if got := h.test(s); got != truthOf(want) {
			t.Errorf("%v on %q: got %d, want %t", m, values, got, want)
		}
	})
}

// issuer signs tokens with a key that is the same in every run.
type issuer struct {
	key  *ecdsa.PrivateKey
	keys string // JWKS
}

func newIssuer(t testing.TB) issuer {
	t.Helper()
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), []byte("a private key of no secret at all"[:32]))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256"}}})
	if err != nil {
		t.Fatal(err)
	}
	return issuer{key, string(keys)}
}

func (i issuer) sign(t testing.TB, signed string) string {
	t.Helper()
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// FuzzToken: whatever a token looks like, it verifies only if just these bytes were
// signed; reading it and using its claims never fails in another way than by a
// status.
func FuzzToken(f *testing.F) {
	iss := newIssuer(f)
	set, err := parseKeys(iss.keys)
	if err != nil || len(set) != 1 {
		f.Fatal(set, err)
	}
	signed := map[string]bool{}
	for _, payload := range []string{`{"iss":"https://i","sub":"a","aud":["x","y"],"exp":4102444800,"scope":"a b","nested":{"list":[1,-2.5,true,null,"<&>"]}}`, `{}`, `{"exp":"1"}`, `{"aud":[1]}`, `{"iat":1e30}`, `{"nbf":-1}`, `[]`, `{"a":1,"a":2}`} {
		for _, header := range []string{`{"alg":"ES256","kid":"k"}`, `{"alg":"ES256"}`, `{"alg":"RS256","kid":"k"}`, `{"alg":"none"}`, `{"alg":"HS256","kid":7}`} {
			text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
			signed[text] = true
			f.Add(iss.sign(f, text))
		}
	}
	for _, bad := range []string{"", "...", "a.b.c", "a.b.c.d", "eyJhbGciOiJFUzI1NiJ9.e30.", "eyJhbGciOiJFUzI1NiJ9..e30", " eyJhbGciOiJFUzI1NiJ9 .e30=.AA==", "bnVsbA.bnVsbA.AA"} {
		f.Add(bad)
	}
	p := &provider{issuer: "https://i", keys: set, spaceClaims: []string{"scope"}, skew: time.Minute, payloadKey: "p", headers: []tokenHeader{{"authorization", "Bearer "}},
		claims: []claimHeader{{"x-sub", "sub"}, {"x-nested", "nested.list"}, {"x-all", "nested"}}}
	filter := &jwtAuthn{name: "jwt", providers: map[string]*provider{"p": p}}
	f.Fuzz(func(t *testing.T, text string) {
		got, status := parseToken(text)
		if (got == nil) != (status != jwtOK) {
			t.Fatalf("got %v with status %q", got, status)
		}
		if got != nil && set.verify(got) == jwtOK && !signed[got.signed] {
			t.Errorf("%q verifies, and nobody signed it", got.signed)
		}
		s := &stream{headers: Headers{{"authorization", "Bearer " + text}}, env: Env{Now: time.Unix(1_700_000_000, 0)}}
		if st := filter.verify(s, p); st == jwtOK && (got == nil || got.issuer != "https://i" || !signed[got.signed]) {
			t.Errorf("%q is let in", text)
		} else if st != jwtOK && s.headers.has("x-sub") {
			t.Errorf("%q is refused with %q and leaves its claims", text, st)
		}
		if got != nil { // the claims of a token that was not verified must not harm either
			filter.accept(s, p, got, foundToken{header: p.headers[0].name})
		}
	})
}

// FuzzKeys reads key sets; no key, however odd, accepts what it did not sign.
func FuzzKeys(f *testing.F) {
	iss := newIssuer(f)
	f.Add(iss.keys)
	for _, seed := range []string{``, `{}`, `{"keys":null}`, `{"keys":[{}]}`, `{"keys":[{"kty":"RSA","n":"AQ","e":"AQ"}]}`, `{"keys":[{"kty":"RSA","n":"AQAB","e":"AA"}]}`, `{"keys":[{"kty":"oct","k":"AA"}]}`,
		`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`, `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}`} {
		f.Add(seed)
	}
	var tokens []*token
	for _, alg := range []string{"ES256", "ES384", "RS256", "PS512", "HS256", "EdDSA"} {
		text := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":%q}`, alg)) + ".e30." + base64.RawURLEncoding.EncodeToString(make([]byte, 64))
		tok, status := parseToken(text)
		if status != jwtOK {
			f.Fatal(alg, status)
		}
		tokens = append(tokens, tok)
	}
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parseKeys(text)
		if err != nil {
			return
		}
		for _, tok := range tokens {
			if set.verify(tok) == jwtOK {
				t.Errorf("a signature of zeros is good for %s", text)
			}
		}
	})
}
