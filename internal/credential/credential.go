// Package credential turns what a request shows into a caller, one file per
// kind: passport, API key, token (OIDC and ServiceAccount), session, pod address,
// nobody. A credential that is present and not good is refused with its reason;
// it is never ignored.
package credential

import (
	"strings"

	"postern.dev/postern/internal/access"
)

// Headers are a request's headers: names in lower case, each value as it came.
// An adapter that gets several values of a name joined by commas gives the
// joined text as one value.
type Headers map[string][]string

// Has tells whether a header is present, an empty one included.
func (h Headers) Has(name string) bool { return len(h[name]) > 0 }

// Only is the value of a header that is there exactly once.
func (h Headers) Only(name string) (string, bool) {
	if v := h[name]; len(v) == 1 {
		return v[0], true
	}
	return "", false
}

// Reasons for refusing a credential. Those of a passport are in its package.
const (
	UnsupportedCredential = "unsupported_credential"
	SeveralCredentials    = "several_credentials"
	InvalidSession        = "invalid_session"
	ReservedName          = "reserved_name"
	CrossSite             = "cross_site"
	LoginUnavailable      = "login_unavailable"
)

// Refusal is why a credential is not taken. Its text is for the caller and
// holds no part of the credential.
type Refusal struct {
	Reason  string
	Message string
	// Unavailable is set when nobody could tell whether the credential is good.
	Unavailable bool
	// Forbidden is set when the credential is good and must not be used here.
	Forbidden bool
	cause     error
}

func (r *Refusal) Error() string {
	if r.cause == nil {
		return r.Reason + ": " + r.Message
	}
	return r.Reason + ": " + r.Message + ": " + r.cause.Error()
}

func (r *Refusal) Unwrap() error { return r.cause }

// reserved refuses a caller from outside who bears one of the names that
// Kubernetes or Postern give out themselves.
func reserved(c access.Caller) error {
	for _, name := range append([]string{c.User}, c.Groups...) {
		if strings.HasPrefix(name, "system:") || strings.HasPrefix(name, "postern:") {
			return &Refusal{Reason: ReservedName, Message: "the user or a group has a name that begins with system: or postern:"}
		}
	}
	return nil
}
