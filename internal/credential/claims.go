package credential

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"postern.dev/postern/internal/access"
)

const (
	maxName   = 512     // bytes of a user's or group's name
	maxGroups = 8 << 10 // bytes of all groups of one token, which a passport must hold
)

// Claim says which claim of a token is a name, and what is put in front of it.
type Claim struct {
	Name   string // empty: none
	Prefix string // empty: none
}

// claimSet is a token's payload. It comes from go-jose's JSON reader, which
// refuses a name that occurs twice and takes none for another in other case.
type claimSet map[string]any

func (c claimSet) text(name string) string {
	s, _ := c[name].(string)
	return s
}

// seconds is a NumericDate (RFC 7519 section 2). ok is false when it is absent;
// what is there and no number is no date.
func (c claimSet) seconds(name string) (at int64, ok, valid bool) {
	v, ok := c[name]
	if !ok {
		return 0, false, true
	}
	f, is := v.(float64)
	if !is || f != f || f < 0 || f > 1<<53 {
		return 0, true, false
	}
	return int64(f), true, true
}

// audience is aud, a text or a list of texts.
func (c claimSet) audience() (out []string, valid bool) { return texts(c["aud"]) }

// texts is a claim that is a text or a list of texts.
func texts(v any) (out []string, valid bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case string:
		return []string{v}, true
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, false
			}
			out = append(out, s)
		}
		return out, true
	}
	return nil, false
}

// person reads the user and the groups from the claims that an issuer's rules
// name. others are the prefixes of all issuers.
func (c claimSet) person(user, groups Claim, others Prefixes) (access.Caller, error) {
	name := c.text(user.Name)
	if !printable(name) {
		return access.Caller{}, &Refusal{Reason: TokenWithoutUser, Message: "the token has no usable claim " + user.Name + ", by which its user is named here"}
	}
	if verified, _ := c["email_verified"].(bool); user.Name == "email" && !verified {
		return access.Caller{}, &Refusal{Reason: EmailNotVerified, Message: "the token names its user by an e-mail address that the issuer has not verified (email_verified)"}
	}
	caller := access.Caller{User: user.Prefix + name, Proven: true, Kind: access.Token}
	if user.Prefix == "" {
		caller.Kind = access.Person // the same names as the login's
	}
	given := []string{name}
	if groups.Name != "" {
		list, valid := texts(c[groups.Name])
		if !valid {
			return access.Caller{}, malformed("the token's claim " + groups.Name + " is no list of names")
		}
		size := 0
		for _, g := range list {
			if g == "" {
				continue
			}
			if size += len(groups.Prefix) + len(g) + len(`"",`); size > maxGroups {
				return access.Caller{}, &Refusal{Reason: TooManyGroups, Message: "the token's claim " + groups.Name + " is too long: let the issuer name only the groups that matter here"}
			}
			if !printable(g) {
				return access.Caller{}, malformed("a name in the token's claim " + groups.Name + " is not usable")
			}
			given = append(given, g)
			caller.Groups = append(caller.Groups, groups.Prefix+g)
		}
	}
	// With and without its prefix: a claim that asks for such a name is no
	// accident.
	for _, c := range []access.Caller{caller, {Groups: given}} {
		if err := reserved(c); err != nil {
			return access.Caller{}, err
		}
	}
	var bare access.Caller // the names that stand as the token says them
	if user.Prefix == "" {
		bare.User = caller.User
	}
	if groups.Prefix == "" {
		bare.Groups = caller.Groups
	}
	if err := others.refuse(bare.User, bare.Groups); err != nil {
		return access.Caller{}, err
	}
	caller.Groups = append(caller.Groups, access.AuthenticatedGroup)
	return caller, nil
}

// printable tells whether a name can stand in a header and a log line.
func printable(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name) && strings.TrimSpace(name) == name &&
		strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
