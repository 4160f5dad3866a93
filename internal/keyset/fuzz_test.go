package keyset

import (
	"crypto/rsa"
	"strings"
	"testing"
)

// FuzzJWKS: a set that is read holds public keys that are strong enough, and no more
// than there may be.
func FuzzJWKS(f *testing.F) {
	f.Add(`{"keys":[]}`, "RS256", "a")
	f.Add(`{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"a","alg":"HS256"}]}`, "HS256", "a")
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`, "ES256", "a")
	f.Add(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"a"}]}`, "RS256", "")
	f.Add(`[`, "", "")
	f.Fuzz(func(t *testing.T, text, alg, kid string) {
		set, err := readJWKS([]byte(text))
		if err != nil {
			return
		}
		if len(set.keys) == 0 || len(set.keys) > maxKeys {
			t.Fatalf("got %d keys", len(set.keys))
		}
		for _, k := range set.keys {
			if !k.IsPublic() || !strong(k.Key) {
				t.Errorf("took %T", k.Key)
			}
			if r, ok := k.Key.(*rsa.PublicKey); ok && r.N.BitLen() < minRSA {
				t.Errorf("took RSA of %d bits", r.N.BitLen())
			}
		}
		for _, a := range Algorithms() {
			for _, k := range set.find(kid, a) {
				if k.Algorithm != "" && k.Algorithm != a || kid != "" && k.KeyID != kid || strings.HasPrefix(a, "HS") {
					t.Errorf("%s %q: found a key for %q of %q", a, kid, k.Algorithm, k.KeyID)
				}
			}
		}
	})
}
