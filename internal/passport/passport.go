// Package passport mints and checks the short token that carries a caller's
// identity from the gateway's first judgement to its second hop and to a model's
// sidecar: header x-postern-passport, a JWT signed with ES256, issuer "postern",
// audience exactly one object (NAMESPACE/RESOURCE/NAME; with "hop:" before it where
// the gateway itself is next), valid for 60 seconds at most. Unlike the caller's own
// credential, a model's owner can use it for nothing but that model, and not at the
// gateway: one for the hop never reaches a model.
package passport

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"postern.dev/postern/internal/access"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	// Header is the request header that holds a passport.
	Header = "x-postern-passport"
	// Issuer is what every passport says in iss. With Istio's RequestAuthentication
	// the principal at a sidecar is "postern/SUBJECT".
	Issuer = "postern"
	// Life is how long a passport is valid.
	Life = 60 * time.Second

	renew     = Life / 2 // a cached passport has at least this long to go
	skew      = 5 * time.Second
	maxToken  = 16 << 10 // bytes; longer is not looked at
	maxCached = 8192     // passports, and answers to Check
)

// Reasons why a passport is not taken.
const (
	Malformed     = "passport_malformed"
	UnknownKey    = "passport_unknown_key"
	BadSignature  = "passport_bad_signature"
	WrongIssuer   = "passport_wrong_issuer"
	WrongAudience = "passport_wrong_audience"
	Expired       = "passport_expired"
	NotYetValid   = "passport_not_yet_valid"
	TooLong       = "passport_valid_too_long"
	NoSubject     = "passport_without_subject"
)

// Error is why a passport is not taken. It never holds a part of the token.
type Error struct {
	Reason string
	cause  error
}

func (e *Error) Error() string {
	if e.cause == nil {
		return e.Reason
	}
	return e.Reason + ": " + e.cause.Error()
}

func (e *Error) Unwrap() error { return e.cause }

// Keys sign passports and check them: with the current key, and with the one
// before it, so that a rotation interrupts no call. Keys are safe for use by
// several goroutines.
type Keys struct {
	rand io.Reader

	mints, checks Count
	mu            sync.Mutex
	current       *key
	previous      *key
	minted        map[mintKey]cached
	checked       map[checkKey]cached
}

type key struct {
	id     string
	public jose.JSONWebKey
	signer jose.Signer
}

type mintKey struct {
	caller   [sha256.Size]byte
	audience Audience
	until    int64 // 0: a new one
}

type checkKey struct {
	token    [sha256.Size]byte
	audience Audience
}

type cached struct {
	token  string
	caller access.Caller
	from   int64 // Unix seconds
	until  int64
}

// Audience is where a passport counts.
type Audience struct {
	access.Resource
	Hop bool // at the gateway's second hop to the object, not at the object
}

// String is what aud says.
func (a Audience) String() string {
	if a.Hop {
		return "hop:" + a.Resource.String()
	}
	return a.Resource.String()
}

// Passport is what a valid passport says.
type Passport struct {
	Caller access.Caller
	// Until is its end in Unix seconds: what is made of it ends then too.
	Until int64
}

// claims are what a passport says.
type claims struct {
	Issuer    string       `json:"iss"`
	Audience  jwt.Audience `json:"aud"`
	Subject   string       `json:"sub"`
	IssuedAt  int64        `json:"iat"`
	NotBefore int64        `json:"nbf"`
	Expires   int64        `json:"exp"`
	Groups    []string     `json:"groups,omitempty"`
	Proven    bool         `json:"proven"`
	Kind      access.Kind  `json:"kind,omitempty"`
}

// New makes a first key from a source of random bytes (crypto/rand.Reader).
func New(rand io.Reader) (*Keys, error) {
	k := &Keys{rand: rand}
	if err := k.Rotate(); err != nil {
		return nil, err
	}
	return k, nil
}

// Rotate makes a new key the current one. The last current key is accepted until
// the next rotation, which must be more than Life away; older ones are forgotten.
// Sidecars must know the public key (JWKS) before passports signed with it reach
// them: handing the new set out first is the caller's to do.
func (k *Keys) Rotate() error {
	next, err := newKey(k.rand)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.previous, k.current = k.current, next
	k.minted, k.checked = map[mintKey]cached{}, map[checkKey]cached{}
	return nil
}

func newKey(rand io.Reader) (*key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, fmt.Errorf("passport key: %w", err)
	}
	return keyOf(private)
}

func keyOf(private *ecdsa.PrivateKey) (*key, error) {
	public := jose.JSONWebKey{Key: private.Public(), Algorithm: string(jose.ES256), Use: "sig"}
	print, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("passport key: %w", err)
	}
	public.KeyID = base64.RawURLEncoding.EncodeToString(print[:16])
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: public.KeyID}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("passport key: %w", err)
	}
	return &key{id: public.KeyID, public: public, signer: signer}, nil
}

// JWKS is the public key set, as a sidecar's RequestAuthentication takes it
// inline, current key first.
func (k *Keys) JWKS() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k.current.public}}
	if k.previous != nil {
		set.Keys = append(set.Keys, k.previous.public)
	}
	out, err := json.Marshal(set)
	if err != nil {
		return []byte(`{"keys":[]}`) // cannot happen; a set without keys lets nobody in
	}
	return out
}

// Mint makes a passport for a caller and an audience, or gives the one made
// before while it has long enough to go.
func (k *Keys) Mint(c access.Caller, a Audience, now time.Time) (string, error) {
	return k.mint(mintKey{fingerprint(c), a, 0}, c, now)
}

// Renew makes a passport for another audience of one that was checked. It ends
// when that one does, or a model could keep its caller for ever.
func (k *Keys) Renew(p Passport, a Audience, now time.Time) (string, error) {
	return k.mint(mintKey{fingerprint(p.Caller), a, p.Until}, p.Caller, now)
}

func (k *Keys) mint(id mintKey, c access.Caller, now time.Time) (string, error) {
	if r := id.audience; c.User == "" || r.Namespace == "" || r.Resource.Resource == "" || r.Name == "" {
		return "", errors.New("passport: got an empty caller or object")
	}
	k.mu.Lock()
	have, ok := k.minted[id]
	current := k.current
	k.mu.Unlock()
	at := now.Unix()
	until, left := at+int64(Life/time.Second), int64(renew/time.Second)
	if id.until != 0 {
		until, left = min(until, id.until), 1
	}
	known := ok && have.from <= at && at+left <= have.until
	if k.mints.Note(known); known {
		return have.token, nil
	}
	cl := claims{
		Issuer: Issuer, Audience: jwt.Audience{id.audience.String()}, Subject: c.User,
		IssuedAt: at, NotBefore: at, Expires: until,
		Groups: c.Groups, Proven: c.Proven, Kind: c.Kind,
	}
	token, err := jwt.Signed(current.signer).Claims(cl).Serialize()
	if err != nil {
		return "", fmt.Errorf("passport: %w", err)
	}
	if len(token) > maxToken {
		return "", fmt.Errorf("passport: %d bytes, want at most %d: the caller has too many groups", len(token), maxToken)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == current { // else rotated in between: valid, but not worth keeping
		put(k.minted, id, cached{token: token, from: at, until: cl.Expires}, at)
	}
	return token, nil
}

// Check reads a passport for that audience. The error is an *Error.
func (k *Keys) Check(token string, a Audience, now time.Time) (Passport, error) {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return Passport{}, &Error{Reason: Malformed}
	}
	id := checkKey{Sum(token), a}
	at := now.Unix()
	k.mu.Lock()
	have, ok := k.checked[id]
	keys := []*key{k.current, k.previous}
	k.mu.Unlock()
	known := ok && have.from <= at && at < have.until
	if k.checks.Note(known); known {
		return Passport{have.caller, have.until}, nil
	}
	cl, err := verify(token, keys)
	if err != nil {
		return Passport{}, err
	}
	if reason := cl.refuse(a, at); reason != "" {
		return Passport{}, &Error{Reason: reason}
	}
	c := access.Caller{User: cl.Subject, Groups: cl.Groups, Proven: cl.Proven, Kind: cl.Kind}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == keys[0] {
		put(k.checked, id, cached{caller: c, from: cl.NotBefore, until: cl.Expires}, at)
	}
	return Passport{c, cl.Expires}, nil
}

// verify checks form and signature: ES256 and nothing else, one of our keys.
func verify(token string, keys []*key) (claims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return claims{}, &Error{Reason: Malformed, cause: errors.New("no ES256 JWT")} // go-jose's text may quote the token
	}
	if len(parsed.Headers) != 1 {
		return claims{}, &Error{Reason: Malformed}
	}
	i := slices.IndexFunc(keys, func(have *key) bool { return have != nil && have.id == parsed.Headers[0].KeyID })
	if i < 0 {
		return claims{}, &Error{Reason: UnknownKey}
	}
	var cl claims
	if err := parsed.Claims(keys[i].public.Key, &cl); err != nil {
		if errors.Is(err, jose.ErrCryptoFailure) {
			return claims{}, &Error{Reason: BadSignature}
		}
		return claims{}, &Error{Reason: Malformed}
	}
	return cl, nil
}

// refuse is the reason why signed claims are not taken, empty when they are.
func (c claims) refuse(a Audience, at int64) string {
	switch {
	case c.Issuer != Issuer:
		return WrongIssuer
	case len(c.Audience) != 1 || c.Audience[0] != a.String():
		return WrongAudience
	case c.Expires <= at:
		return Expired
	case c.NotBefore > at+int64(skew/time.Second) || c.IssuedAt > at+int64(skew/time.Second):
		return NotYetValid
	case c.Expires-c.IssuedAt > int64(Life/time.Second) || c.Expires-c.NotBefore > int64(Life/time.Second):
		return TooLong
	case c.Subject == "":
		return NoSubject
	}
	return ""
}

// put keeps a value and the map bounded: when it is full, what has expired goes,
// and if nothing has, all of it.
func put[K comparable](m map[K]cached, id K, c cached, at int64) {
	if len(m) >= maxCached {
		for k, v := range m {
			if v.until <= at {
				delete(m, k)
			}
		}
		if len(m) >= maxCached {
			clear(m)
		}
	}
	m[id] = c
}

// Sum is the SHA-256 of a token, by which caches know it. It makes no copy of a
// token of usual length on the heap.
func Sum(token string) [sha256.Size]byte {
	var usual [1024]byte
	if len(token) > len(usual) {
		return sha256.Sum256([]byte(token))
	}
	return sha256.Sum256(usual[:copy(usual[:], token)])
}

// fingerprint is a value that differs when callers differ: each text goes in
// with its length.
func fingerprint(c access.Caller) [sha256.Size]byte {
	b := make([]byte, 0, 256)
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	text(strconv.FormatBool(c.Proven))
	text(string(c.Kind))
	text(c.User)
	for _, g := range c.Groups {
		text(g)
	}
	return sha256.Sum256(b)
}
