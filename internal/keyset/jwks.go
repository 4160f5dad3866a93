package keyset

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxJWKS = 1 << 20 // bytes
	maxKeys = 100     // of one set
	tryKeys = 4       // that a token without kid is tried with
	minRSA  = 2048    // bits (RFC 7518 section 3.3)
)

// Algorithms are those a token may be signed with, if the configuration lists
// them: signatures by a key pair. With a shared secret (HS256) whoever can check
// a token could make one.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// DefaultAlgorithms are those of an issuer for which none are listed.
func DefaultAlgorithms() []string { return []string{"RS256", "ES256"} }

// Keys are one state of an issuer's keys. They are immutable.
type Keys struct {
	print [sha256.Size]byte // of the text
	keys  []jose.JSONWebKey
}

// readJWKS reads a key set (RFC 7517). Keys that are of no use here, such as
// those for encryption or with a shared secret, are left out (section 5); a set
// without any key that is of use is an error, since it can only be a mistake.
func readJWKS(text []byte) (*Keys, error) {
	if len(text) > maxJWKS {
		return nil, fmt.Errorf("the key set is longer than %d bytes", maxJWKS)
	}
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, errors.New("got no JSON object with keys, want a key set (JWKS)")
	}
	set := &Keys{print: sha256.Sum256(text)}
	for _, one := range raw.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(one) != nil || !k.Valid() || k.Use != "" && k.Use != "sig" {
			continue
		}
		if k = k.Public(); !k.Valid() || !strong(k.Key) {
			continue
		}
		if set.keys = append(set.keys, k); len(set.keys) > maxKeys {
			return nil, fmt.Errorf("the key set holds more than %d keys", maxKeys)
		}
	}
	if len(set.keys) == 0 {
		return nil, errors.New("the key set holds no key that checks a signature")
	}
	return set, nil
}

func strong(key any) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSA
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

// find gives the keys that a token with this kid and algorithm can be signed
// with. A token without kid may be by any, and only a few are tried.
func (s *Keys) find(kid, alg string) []jose.JSONWebKey {
	if s == nil {
		return nil
	}
	var out []jose.JSONWebKey
	for _, k := range s.keys {
		if (kid == "" || k.KeyID == kid) && fits(k, alg) && len(out) < tryKeys {
			out = append(out, k)
		}
	}
	return out
}

// fits tells whether a key may be used with an algorithm: the one it names
// itself, and one of its own type (RFC 8725 section 3.1).
func fits(k jose.JSONWebKey, alg string) bool {
	if k.Algorithm != "" && k.Algorithm != alg {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return alg[:2] == "RS" || alg[:2] == "PS"
	case *ecdsa.PublicKey:
		return alg == "ES256" && key.Curve == elliptic.P256() || alg == "ES384" && key.Curve == elliptic.P384() || alg == "ES512" && key.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}
