// Package apikey makes and reads the texts of API keys. A key's text is
//
//	postern_ID_SECRETCHECK
//
// in lower case: the prefix by which people, scanners and Postern tell it from
// any other credential; ID, 80 random bits in base32, by which its object is
// found; SECRET, 256 random bits in base32; CHECK, 40 bits made of all the rest,
// by which a mistyped or cut key is told from an unknown one without looking for
// it. The object holds the id and a hash, never the secret.
package apikey

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"postern.dev/postern/internal/manifest"
)

// Prefix begins every key.
const Prefix = "postern_"

const (
	idBytes     = 10
	secretBytes = 32
	checkBytes  = 5

	// IDLen is the length of an id.
	IDLen     = 16 // characters
	secretLen = 52
	checkLen  = 8

	// Len is the length of a key's text.
	Len = len(Prefix) + IDLen + 1 + secretLen + checkLen

	// Each hash has a domain of its own, so that none can stand for another.
	hashDomain  = "postern.dev/apikey/v1"
	checkDomain = "postern.dev/apikey/check/v1"
)

// ErrMalformed is what Parse returns for a text that is no key. It does not say
// where: a key that is nearly right is still a secret.
var ErrMalformed = errors.New("no API key of Postern's: a character is wrong or missing")

// encoding is base32 in lower case, without padding.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func encode(b []byte) string { return encoding.EncodeToString(b) }

// Key is a key as its caller shows it. It keeps its secret out of every print.
type Key struct {
	ID     string
	secret string
}

// String names the key by its id.
func (k Key) String() string { return Prefix + k.ID }

// GoString is String: %#v must not show the secret either.
func (k Key) GoString() string { return k.String() }

// LogValue is String.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// New makes a key for the object NAMESPACE/NAME from a source of random bytes
// (crypto/rand.Reader). text is to be shown once; spec is the object's.
func New(rand io.Reader, namespace, name string) (text string, spec manifest.APIKeySpec, err error) {
	if namespace == "" || name == "" {
		return "", spec, fmt.Errorf("an API key needs a namespace and a name, got %q and %q", namespace, name)
	}
	random := make([]byte, idBytes+secretBytes)
	if _, err := io.ReadFull(rand, random); err != nil {
		return "", spec, fmt.Errorf("making an API key: %w", err)
	}
	k := Key{ID: encode(random[:idBytes]), secret: encode(random[idBytes:])}
	body := Prefix + k.ID + "_" + k.secret
	sum := hash(k.secret, namespace, name)
	return body + check(body), manifest.APIKeySpec{ID: k.ID, Hash: hex.EncodeToString(sum[:])}, nil
}

// Is tells whether a text means to be a key of Postern's, a good one or not.
func Is(text string) bool {
	return len(text) >= len(Prefix) && strings.EqualFold(text[:len(Prefix)], Prefix)
}

// Parse reads a key's text. There is one text for a key: other cases, paddings
// and lengths are malformed.
func Parse(text string) (Key, error) {
	if len(text) != Len || text[:len(Prefix)] != Prefix || text[len(Prefix)+IDLen] != '_' {
		return Key{}, ErrMalformed
	}
	body, end := text[:Len-checkLen], text[Len-checkLen:]
	if subtle.ConstantTimeCompare([]byte(check(body)), []byte(end)) != 1 {
		return Key{}, ErrMalformed
	}
	k := Key{ID: body[len(Prefix) : len(Prefix)+IDLen], secret: body[len(Prefix)+IDLen+1:]}
	if !canonical(k.ID) || !canonical(k.secret) {
		return Key{}, ErrMalformed
	}
	return k, nil
}

// canonical tells whether a text is one that encode writes for its length.
func canonical(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	// 52 characters hold four bits more than 256: they are zero.
	return len(text) != secretLen || text[secretLen-1] == 'a' || text[secretLen-1] == 'q'
}

func check(body string) string {
	var b [256]byte
	sum := sha256.Sum256(append(append(append(b[:0], checkDomain...), 0), body...))
	return encode(sum[:checkBytes])
}

// Hash is a stored hash, read once.
type Hash [sha256.Size]byte

// hash binds a secret to its object. No part can hold a NUL.
func hash(secret, namespace, name string) Hash {
	var room [512]byte
	b := append(append(room[:0], hashDomain...), 0)
	for _, s := range []string{namespace, "\x00", name, "\x00", secret} {
		b = append(b, s...)
	}
	return sha256.Sum256(b)
}

// Verify tells, in a time that does not depend on how near it is, whether the
// key is the one whose hash an object holds.
func (k Key) Verify(h Hash, namespace, name string) bool {
	sum := hash(k.secret, namespace, name)
	return subtle.ConstantTimeCompare(sum[:], h[:]) == 1
}

// ReadSpec checks what an object says of its key.
func ReadSpec(spec manifest.APIKeySpec) (Hash, error) {
	var h Hash
	if len(spec.ID) != IDLen || !canonical(spec.ID) {
		return h, fmt.Errorf("spec.id: got %q, want %d characters of a-z and 2-7", spec.ID, IDLen)
	}
	raw, err := hex.DecodeString(spec.Hash)
	if err != nil || len(raw) != len(h) || hex.EncodeToString(raw) != spec.Hash {
		return h, fmt.Errorf("spec.hash: want a SHA-256 as %d characters of 0-9 and a-f, got %d characters", 2*len(h), len(spec.Hash))
	}
	return Hash(raw), nil
}
