// Package credential turns what a request shows into a caller, one file per
// kind: passport, API key, token (OIDC and ServiceAccount), session, pod address,
// nobody. A credential that is present and not good is refused with its reason;
// it is never ignored.
package credential

import (
	"slices"
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

// Prefixes are what the names of issuers begin with that have a prefix.
type Prefixes struct{ Users, Groups []string }

// add takes in the prefixes of one issuer.
func (p *Prefixes) add(user, groups Claim) {
	if user.Name != "" && user.Prefix != "" {
		p.Users = append(p.Users, user.Prefix)
	}
	if groups.Name != "" && groups.Prefix != "" {
		p.Groups = append(p.Groups, groups.Prefix)
	}
}

// PrefixesOf are those of several issuers.
func PrefixesOf(rules []TokenRules) (p Prefixes) {
	for _, r := range rules {
		p.add(r.User, r.Groups)
	}
	return p
}

// refuse refuses names that have no prefix of their own and begin with one that
// another issuer has: they would be the names of its people.
func (p Prefixes) refuse(user string, groups []string) error {
	begins := func(name string, list []string) bool {
		return slices.ContainsFunc(list, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	}
	if begins(user, p.Users) || slices.ContainsFunc(groups, func(g string) bool { return begins(g, p.Groups) }) {
		return &Refusal{Reason: ReservedName, Message: "the user or a group has a name that begins as those of another issuer do"}
	}
	return nil
}

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
