package envoy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of RS256, ES256 and their like
	_ "crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// jwtStatus is the outcome of looking at a token, as the text that Envoy answers
// with (google/jwt_verify_lib status.cc).
type jwtStatus string

const (
	jwtOK             jwtStatus = ""
	jwtMissing        jwtStatus = "Jwt is missing"
	jwtBadFormat      jwtStatus = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
	jwtHeaderBase64   jwtStatus = "Jwt header is an invalid Base64url encoded"
	jwtHeaderJSON     jwtStatus = "Jwt header is an invalid JSON"
	jwtHeaderAlg      jwtStatus = "Jwt header [alg] field is required and must be a string"
	jwtAlgUnsupported jwtStatus = "Jwt header [alg] is not supported"
	jwtHeaderKid      jwtStatus = "Jwt header [kid] field is not a string"
	jwtPayloadBase64  jwtStatus = "Jwt payload is an invalid Base64url encoded"
	jwtPayloadJSON    jwtStatus = "Jwt payload is an invalid JSON"
	jwtPayloadIss     jwtStatus = "Jwt payload [iss] field is not a string"
	jwtPayloadSub     jwtStatus = "Jwt payload [sub] field is not a string"
	jwtPayloadIat     jwtStatus = "Jwt payload [iat] field is not an integer"
	jwtPayloadNbf     jwtStatus = "Jwt payload [nbf] field is not an integer"
	jwtPayloadExp     jwtStatus = "Jwt payload [exp] field is not an integer"
	jwtPayloadAud     jwtStatus = "Jwt payload [aud] field is not a string or string list"
	jwtPayloadJti     jwtStatus = "Jwt payload [jti] field is not a string"
	jwtSignature64    jwtStatus = "Jwt signature is an invalid Base64url encoded"
	jwtUnknownIssuer  jwtStatus = "Jwt issuer is not configured"
	jwtNotYetValid    jwtStatus = "Jwt not yet valid"
	jwtExpired        jwtStatus = "Jwt is expired"
	jwtAudience       jwtStatus = "Audiences in Jwt are not allowed"
	jwtNoKey          jwtStatus = "Jwks doesn't have key to match kid or alg from Jwt"
	jwtBadSignature   jwtStatus = "Jwt verification fails"
)

// token is a JWT's parts, not verified yet.
type token struct {
	alg, kid  string
	issuer    string
	audiences []string
	notBefore int64
	expires   int64
	payload   map[string]any
	signed    string
	signature []byte
}

// algorithms are those jwt_verify_lib implements and this engine verifies.
var algorithms = map[string]crypto.Hash{
	"RS256": crypto.SHA256, "RS384": crypto.SHA384, "RS512": crypto.SHA512,
	"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512,
	"ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512,
}

// parseToken follows Jwt::parseFromString.
func parseToken(text string) (*token, jwtStatus) {
	parts := strings.FieldsFunc(text, func(r rune) bool { return r == '.' }) // empty parts are skipped
	if len(parts) != 3 {
		return nil, jwtBadFormat
	}
	t := &token{signed: parts[0] + "." + parts[1]}
	header, s := object(parts[0], jwtHeaderBase64, jwtHeaderJSON)
	if s != jwtOK {
		return nil, s
	}
	var ok bool
	if t.alg, ok = header["alg"].(string); !ok {
		return nil, jwtHeaderAlg
	}
	if _, known := algorithms[t.alg]; !known && t.alg != "EdDSA" && !strings.HasPrefix(t.alg, "HS") {
		return nil, jwtAlgUnsupported
	}
	if kid, present := header["kid"]; present {
		if t.kid, ok = kid.(string); !ok {
			return nil, jwtHeaderKid
		}
	}
	if t.payload, s = object(parts[1], jwtPayloadBase64, jwtPayloadJSON); s != jwtOK {
		return nil, s
	}
	if s := t.claims(); s != jwtOK {
		return nil, s
	}
	var err error
	if t.signature, err = decode64(parts[2]); err != nil || len(t.signature) == 0 {
		return nil, jwtSignature64
	}
	return t, jwtOK
}

// payloadText is the payload as it stands in the token, padded or not.
func (t *token) payloadText(pad bool) string {
	_, text, _ := strings.Cut(t.signed, ".")
	text = strings.TrimRight(text, "=")
	if n := len(text) % 4; pad && n > 0 {
		text += strings.Repeat("=", 4-n)
	}
	return text
}

// decode64 takes base64url with or without padding and skips white space
// (absl::WebSafeBase64Unescape).
func decode64(s string) ([]byte, error) {
	s = strings.Join(strings.Fields(s), "")
	if strings.HasSuffix(s, "=") {
		return base64.URLEncoding.DecodeString(s)
	}
	return base64.RawURLEncoding.DecodeString(s)
}

func object(part string, bad64, badJSON jwtStatus) (map[string]any, jwtStatus) {
	data, err := decode64(part)
	if err != nil {
		return nil, bad64
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil || m == nil {
		return nil, badJSON
	}
	return m, jwtOK
}

// claims reads the registered claims; each may be absent, none of a wrong type.
func (t *token) claims() jwtStatus {
	text := func(name string, into *string, bad jwtStatus) jwtStatus {
		v, present := t.payload[name]
		s, ok := v.(string)
		if present && !ok {
			return bad
		}
		if into != nil {
			*into = s
		}
		return jwtOK
	}
	number := func(name string, into *int64, bad jwtStatus) jwtStatus {
		v, present := t.payload[name]
		f, ok := v.(float64)
		if present && !ok {
			return bad
		}
		if f < 0 || f > math.MaxInt64 {
			return jwtStatus("Jwt payload [" + name + "] field is not a positive 64 bit integer")
		}
		*into = int64(f)
		return jwtOK
	}
	var iat int64
	for _, s := range []jwtStatus{
		text("iss", &t.issuer, jwtPayloadIss), text("sub", nil, jwtPayloadSub), number("iat", &iat, jwtPayloadIat),
		number("nbf", &t.notBefore, jwtPayloadNbf), number("exp", &t.expires, jwtPayloadExp), text("jti", nil, jwtPayloadJti),
	} {
		if s != jwtOK {
			return s
		}
	}
	switch aud := t.payload["aud"].(type) {
	case nil:
		if _, present := t.payload["aud"]; present {
			return jwtPayloadAud
		}
	case string:
		t.audiences = []string{aud}
	case []any:
		for _, a := range aud {
			s, ok := a.(string)
			if !ok {
				return jwtPayloadAud
			}
			t.audiences = append(t.audiences, s)
		}
	default:
		return jwtPayloadAud
	}
	return jwtOK
}

// inTime follows Jwt::verifyTimeConstraint.
func (t *token) inTime(now time.Time, skew time.Duration) jwtStatus {
	s := int64(skew / time.Second)
	if t.notBefore > 0 && now.Unix() < t.notBefore-s {
		return jwtNotYetValid
	}
	if t.expires > 0 && now.Unix() > t.expires+s {
		return jwtExpired
	}
	return jwtOK
}

// keySet is a provider's keys.
type keySet []jose.JSONWebKey

// parseKeys reads a JWKS. Keys of a kind that go-jose does not know are left out,
// as Envoy leaves out what it does not know.
func parseKeys(text string) (keySet, error) {
	var raw struct{ Keys []json.RawMessage }
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, fmt.Errorf("jwks: %w", err)
	}
	var set keySet
	for _, r := range raw.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(r) == nil {
			set = append(set, k)
		}
	}
	return set, nil
}

// verify follows verifyJwt: a key matches when not both name a kid and these
// differ, and likewise the algorithm; of those that match one must fit.
func (set keySet) verify(t *token) jwtStatus {
	status := jwtNoKey
	for _, k := range set {
		if t.kid != "" && k.KeyID != "" && t.kid != k.KeyID || k.Algorithm != "" && k.Algorithm != t.alg {
			continue
		}
		if status = jwtBadSignature; fits(k.Key, t) {
			return jwtOK
		}
	}
	return status
}

// fits verifies a signature with a key, which may be of another kind.
func fits(key any, t *token) bool {
	hash := algorithms[t.alg]
	if hash == 0 {
		return false
	}
	h := hash.New()
	h.Write([]byte(t.signed))
	digest := h.Sum(nil)
	switch k := key.(type) {
	case *rsa.PublicKey:
		switch t.alg[:2] {
		case "RS":
			return rsa.VerifyPKCS1v15(k, hash, digest, t.signature) == nil
		case "PS":
			return rsa.VerifyPSS(k, hash, digest, t.signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
	case *ecdsa.PublicKey:
		size := (k.Curve.Params().BitSize + 7) / 8
		return t.alg[:2] == "ES" && len(t.signature) == 2*size &&
			ecdsa.Verify(k, digest, new(big.Int).SetBytes(t.signature[:size]), new(big.Int).SetBytes(t.signature[size:]))
	}
	return false
}
