//go:build e2e

package conformance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// mint makes tokens, good and bad, for the issuers of a configuration, whose
// keys it puts in the place of theirs.
type mint struct {
	issuers, audiences []string
	keys               string // a key set in JSON
	rsa, foreign       *rsa.PrivateKey
	ecdsa              *ecdsa.PrivateKey
}

func newMint(t *testing.T) *mint {
	t.Helper()
	m := &mint{}
	var err1, err2, err3 error
	m.rsa, err1 = rsa.GenerateKey(crand.Reader, 2048)
	m.foreign, err2 = rsa.GenerateKey(crand.Reader, 2048)
	m.ecdsa, err3 = ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	return m
}

// jwks holds the RSA key under a kid and an algorithm, the other one bare or under
// its own.
func (m *mint) jwks(t *testing.T, kid, algorithm string) string {
	t.Helper()
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &m.rsa.PublicKey, KeyID: "one", Algorithm: "RS256"}, {Key: &m.ecdsa.PublicKey, KeyID: kid, Algorithm: algorithm}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// replaceKeys puts our keys into every provider of a configuration and notes the
// issuers and audiences.
func (m *mint) replaceKeys(v any, jwks string) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			m.replaceKeys(x, jwks)
		}
	case map[string]any:
		if local, ok := v["localJwks"].(map[string]any); ok {
			local["inlineString"] = jwks
			if issuer, ok := v["issuer"].(string); ok {
				m.issuers = append(m.issuers, issuer)
			}
			if list, ok := v["audiences"].([]any); ok {
				for _, a := range list {
					if text, ok := a.(string); ok {
						m.audiences = append(m.audiences, text)
					}
				}
			}
		}
		for _, x := range v {
			m.replaceKeys(x, jwks)
		}
	}
}

// header is an Authorization value.
func (m *mint) header(r *rand.Rand) string {
	token := m.token(r)
	switch r.IntN(14) {
	case 0:
		return "bearer " + token
	case 1:
		return token
	case 2:
		return "Bearer " + pick(r, []string{" ", ";", " ~ "}) + token
	case 3:
		return "Bearer " + token + pick(r, []string{" trailing", ",x", "=", ";", "."})
	case 4:
		return "Basic x, Bearer " + token
	case 5:
		return "Bearer " + pick(r, []string{"", "x", "a.b", "a.b.c", "a.b.c.d", "!!!", "sk-123", "..", "e30.e30.e30"})
	case 6:
		return "Bearer " + token[:r.IntN(len(token)+1)]
	}
	return "Bearer " + token
}

func (m *mint) token(r *rand.Rand) string {
	now := time.Now().Unix()
	header := map[string]any{"alg": "RS256", "kid": "one", "typ": "JWT"}
	claims := map[string]any{"iss": pick(r, append([]string{"https://other.example"}, append(m.issuers, m.issuers...)...)), "sub": "s", "email": "user@example.com", "groups": []string{"a", "b"},
		"exp": now + 600, "iat": now, "scope": "read write", "admin": pick(r, []any{true, false, nil, "true"})}
	if len(m.audiences) > 0 {
		claims["aud"] = pick(r, append([]string{"nobody"}, m.audiences...))
	}
	for range r.IntN(3) {
		switch r.IntN(14) {
		case 0:
			claims["exp"] = now - 3600
		case 1:
			claims["exp"] = now - 20
		case 2:
			claims["nbf"] = now + pick(r, []int64{20, 3600})
		case 3:
			delete(claims, pick(r, []string{"iss", "sub", "exp", "email", "groups"}))
		case 4:
			claims[pick(r, []string{"iss", "sub", "exp", "nbf", "iat", "aud", "jti", "email", "groups"})] = pick(r, []any{"text", 5, 0, 1.5, -1, true, nil, []any{}, []any{"x", 1}, []any{"~~?>", "<&>"}, map[string]any{"a": "b"}, ""})
		case 5:
			header["kid"] = pick(r, []any{"two", "", 5})
		case 6:
			delete(header, "kid")
		case 7:
			header["alg"] = pick(r, []any{"none", "HS256", "RS512", "XX", 5, "ES256"})
		case 8:
			delete(header, "alg")
		case 9:
			header["alg"] = "ES256"
			delete(header, "kid")
		case 10:
			claims["email"] = pick(r, []string{"ü@example.com", "a b", "x,y"})
		}
	}
	encode := func(v any) string {
		data, _ := json.Marshal(v) // maps of plain values
		return base64.RawURLEncoding.EncodeToString(data)
	}
	signed := encode(header) + "." + encode(claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(m.sign(r, header["alg"], signed))
}

func (m *mint) sign(r *rand.Rand, alg any, signed string) []byte {
	digest := sha256.Sum256([]byte(signed))
	if alg == "ES256" {
		x, y, err := ecdsa.Sign(crand.Reader, m.ecdsa, digest[:])
		if err != nil {
			return nil
		}
		return append(x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32))...)
	}
	key := m.rsa
	if r.IntN(8) == 0 {
		key = m.foreign
	}
	sig, _ := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:]) // cannot fail for a sound key
	return sig
}

// ascii keeps a header to what the codec takes without a question.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '_'
		}
		return r
	}, s)
}
