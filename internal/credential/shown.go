package credential

import (
	"strings"

	"postern.dev/postern/internal/apikey"
)

const (
	authorization = "authorization"
	apiKeyHeader  = "x-api-key"
	sessionToken  = "x-auth-token" // authservice's
)

// Credential is what a program shows on purpose: an API key, or a token. It
// keeps its text out of every print.
type Credential struct {
	Key  bool // an API key of Postern's, by its prefix; else a token
	text string
}

// String says what it is and not what is in it.
func (c Credential) String() string {
	if c.Key {
		return "API key"
	}
	return "token"
}

// GoString is String.
func (c Credential) GoString() string { return c.String() }

// Shown is the credential in Authorization (scheme Bearer in any case, RFC 6750
// section 2.1) or in x-api-key. Both may hold the same key; two that differ are
// refused, as nobody can know which is meant. ok is false when there is none.
func Shown(h Headers) (c Credential, ok bool, err error) {
	if !h.Has(authorization) && !h.Has(apiKeyHeader) {
		return Credential{}, false, nil
	}
	if h.Has(sessionToken) {
		return Credential{}, true, several(sessionToken)
	}
	var bearer, key string
	if h.Has(authorization) {
		if bearer, err = bearerOf(h[authorization]); err != nil {
			return Credential{}, true, err
		}
		c = Credential{Key: apikey.Is(bearer), text: bearer}
	}
	if h.Has(apiKeyHeader) {
		if key, ok = h.Only(apiKeyHeader); !ok {
			return Credential{}, true, several("a second " + apiKeyHeader)
		}
		if h.Has(authorization) && key != bearer {
			return Credential{}, true, several(apiKeyHeader)
		}
		c = Credential{Key: true, text: key}
	}
	return c, true, nil
}

func several(what string) error {
	return &Refusal{Reason: SeveralCredentials, Message: "the request shows more than one credential, and they differ: leave out Authorization or " + what}
}

func bearerOf(values []string) (string, error) {
	if len(values) != 1 {
		return "", several("a second Authorization")
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", &Refusal{Reason: UnsupportedCredential, Message: "Authorization is taken with the scheme Bearer only"}
	}
	text = strings.Trim(text, " ")
	if text == "" {
		return "", &Refusal{Reason: TokenMalformed, Message: "Authorization: Bearer with nothing behind it"}
	}
	return text, nil
}

// HoldsKey tells whether a request shows what means to be an API key of
// Postern's, good or not, in Authorization under any scheme or in x-api-key.
func HoldsKey(h Headers) bool {
	for _, name := range []string{authorization, apiKeyHeader} {
		for _, value := range h[name] {
			for part := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '"' }) {
				if apikey.Is(part) {
					return true
				}
			}
		}
	}
	return false
}
