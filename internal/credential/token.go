package credential

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/keyset"
	"postern.dev/postern/internal/passport"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// Reasons for refusing a token. A name that only Kubernetes or Postern give out
// has ReservedName.
const (
	TokenMalformed        = "token_malformed"
	TokenAlgorithmRefused = "token_algorithm_refused"
	TokenUnknownIssuer    = "token_unknown_issuer"
	TokenWrongAudience    = "token_wrong_audience"
	TokenExpired          = "token_expired"
	TokenNotYetValid      = "token_not_yet_valid"
	TokenUnknownKey       = "token_unknown_key"
	TokenBadSignature     = "token_bad_signature"
	TokenWithoutUser      = "token_without_user"
	TooManyGroups         = "too_many_groups"
	EmailNotVerified      = "email_not_verified"
	NotLive               = "not_live"         // a ServiceAccount or pod that is gone
	KeysUnavailable       = "keys_unavailable" // nobody can tell now
)

const (
	maxToken = 16 << 10 // bytes
	maxSeen  = 16 << 10 // verified tokens that are remembered
	// skew is how much later than ours an issuer's clock may be. There is none for
	// the end: the caller's own clock is as likely to be late.
	skew = 30 * time.Second
)

// TokenRules say what tokens of one issuer are worth.
type TokenRules struct {
	Issuer     string
	Audiences  []string // one of these must be among the token's
	Algorithms []string // nil: keyset.DefaultAlgorithms
	Keys       *keyset.Set

	// User and Groups say how a person is named.
	User, Groups Claim
	// Cluster is set for the issuer of the cluster's ServiceAccounts, whose tokens
	// name the ServiceAccount instead.
	Cluster bool
	// SkipLiveness takes a ServiceAccount's token although it is not known whether
	// the account and the pod are still there.
	SkipLiveness bool
}

// Tokens judges JWTs (RFC 7519; RFC 8725 is followed). A token that has been
// verified is remembered by its SHA-256 until it expires, the issuer's keys
// change, or there are too many; whether what it is bound to lives is looked at
// every time. It is safe for use by several goroutines.
type Tokens struct {
	rules    []TokenRules
	prefixes Prefixes
	allowed  []jose.SignatureAlgorithm
	now      func() time.Time

	count Count
	mu    sync.Mutex
	seen  map[[sha256.Size]byte]*verified
}

// verified is what a good token says.
type verified struct {
	rules       *TokenRules
	keys        *keyset.Keys
	caller      access.Caller
	bound       bound // of a cluster's token
	id          string
	from, until int64 // Unix seconds
}

// NewTokens makes a judge of the tokens of these issuers. One issuer may have
// several rules, for audiences of their own.
func NewTokens(rules []TokenRules, now func() time.Time) *Tokens {
	t := &Tokens{now: now, prefixes: PrefixesOf(rules), seen: map[[sha256.Size]byte]*verified{}}
	for _, alg := range keyset.Algorithms() {
		t.allowed = append(t.allowed, jose.SignatureAlgorithm(alg))
	}
	for _, r := range rules {
		if r.Algorithms == nil {
			r.Algorithms = keyset.DefaultAlgorithms()
		}
		t.rules = append(t.rules, r)
	}
	return t
}

// Close ends what is done in the background.
func (t *Tokens) Close() {
	for _, r := range t.rules {
		r.Keys.Close()
	}
}

// Caller is whose token it is. id is the token's own (jti), for the log. The error
// is a *Refusal and holds no part of the token.
func (t *Tokens) Caller(ctx context.Context, c Credential, live Live) (caller access.Caller, id string, err error) {
	sum := passport.Sum(c.text)
	at := t.now().Unix()
	t.mu.Lock()
	v := t.seen[sum]
	t.mu.Unlock()
	hit := v != nil && at >= v.from && at < v.until && v.rules.Keys.Current() == v.keys
	if t.count.Note(hit); !hit {
		if v, err = t.verify(ctx, c.text, at); err != nil {
			return access.Caller{}, "", err
		}
		t.remember(sum, v, at)
	} else {
		v.rules.Keys.Renew()
	}
	if v.rules.Cluster {
		if err := v.bound.live(live, v.rules.SkipLiveness); err != nil {
			return access.Caller{}, v.id, err
		}
	}
	return v.caller, v.id, nil
}

// remember keeps the cache bounded: when it is full, what has expired goes, and if
// nothing has, all of it.
func (t *Tokens) remember(sum [sha256.Size]byte, v *verified, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.seen) >= maxSeen {
		for k, have := range t.seen {
			if have.until <= at {
				delete(t.seen, k)
			}
		}
		if len(t.seen) >= maxSeen {
			clear(t.seen)
		}
	}
	t.seen[sum] = v
}

// verify looks at a token for the first time. What needs no signature to be
// refused is refused before keys are fetched for it.
func (t *Tokens) verify(ctx context.Context, text string, at int64) (*verified, error) {
	parsed, claims, err := t.read(text)
	if err != nil {
		return nil, err
	}
	header := parsed.Signatures[0].Protected
	rules, err := t.rulesFor(claims)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(rules.Algorithms, header.Algorithm) {
		return nil, &Refusal{Reason: TokenAlgorithmRefused, Message: "the token's algorithm is not one of " + strings.Join(rules.Algorithms, ", ")}
	}
	from, until, err := valid(claims, at)
	if err != nil {
		return nil, err
	}
	keys, set, err := rules.Keys.Find(ctx, header.KeyID, header.Algorithm)
	if errors.Is(err, keyset.ErrUnknown) {
		return nil, &Refusal{Reason: TokenUnknownKey, Message: err.Error()}
	}
	if err != nil {
		return nil, &Refusal{Reason: KeysUnavailable, Message: "the issuer's keys cannot be had at the moment, try again", Unavailable: true, cause: err}
	}
	if !slices.ContainsFunc(keys, func(k jose.JSONWebKey) bool { _, err := parsed.Verify(k.Key); return err == nil }) {
		return nil, &Refusal{Reason: TokenBadSignature, Message: "the token's signature is wrong"}
	}
	v := &verified{rules: rules, keys: set, id: claims.text("jti"), from: from, until: until}
	if len(v.id) > 64 || !printable(v.id) {
		v.id = ""
	}
	if !rules.Cluster {
		v.caller, err = claims.person(rules.User, rules.Groups, t.prefixes)
		return v, err
	}
	var ok bool
	if v.bound, ok = boundOf(claims); !ok {
		return nil, malformed("the token is not one of a ServiceAccount, as the API server makes them")
	}
	v.caller = v.bound.caller()
	return v, nil
}

// read takes a token apart. Nothing in it is true yet.
func (t *Tokens) read(text string) (*jose.JSONWebSignature, claimSet, error) {
	if len(text) > maxToken || strings.Count(text, ".") != 2 {
		return nil, nil, malformed("this is neither an API key of Postern's nor a signed JWT")
	}
	parsed, err := jose.ParseSignedCompact(text, t.allowed)
	if e := (*jose.ErrUnexpectedSignatureAlgorithm)(nil); errors.As(err, &e) {
		return nil, nil, &Refusal{Reason: TokenAlgorithmRefused, Message: "the token's algorithm is none by which a token can be trusted"}
	}
	if err != nil || len(parsed.Signatures) != 1 {
		return nil, nil, malformed("the JWT cannot be read") // go-jose's text may quote the token
	}
	var claims claimSet
	if json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &claims) != nil || claims == nil {
		return nil, nil, malformed("the JWT's claims cannot be read")
	}
	return parsed, claims, nil
}

func malformed(message string) error { return &Refusal{Reason: TokenMalformed, Message: message} }

// rulesFor finds the issuer's rules, and of several the one that has the token's
// audience.
func (t *Tokens) rulesFor(claims claimSet) (*TokenRules, error) {
	issuer := claims.text("iss")
	audience, valid := claims.audience()
	if !valid {
		return nil, malformed("the token's claim aud is neither a text nor a list of texts")
	}
	var needed, trusted []string
	for i, r := range t.rules {
		trusted = append(trusted, r.Issuer)
		if r.Issuer != issuer {
			continue
		}
		if slices.ContainsFunc(audience, func(a string) bool { return slices.Contains(r.Audiences, a) }) {
			return &t.rules[i], nil
		}
		needed = append(needed, r.Audiences...)
	}
	if needed != nil {
		return nil, &Refusal{Reason: TokenWrongAudience, Message: "the token is for another audience, needed is " + strings.Join(needed, " or ")}
	}
	if trusted == nil {
		return nil, &Refusal{Reason: TokenUnknownIssuer, Message: "no issuer of tokens is trusted here"}
	}
	slices.Sort(trusted)
	return nil, &Refusal{Reason: TokenUnknownIssuer, Message: "the token's issuer is not trusted here, trusted is " + strings.Join(slices.Compact(trusted), " or ")}
}

// valid is the time for which a token counts. It must end.
func valid(claims claimSet, at int64) (from, until int64, err error) {
	until, ends, ok := claims.seconds("exp")
	nbf, _, ok2 := claims.seconds("nbf")
	iat, _, ok3 := claims.seconds("iat")
	from = max(nbf, iat) - int64(skew/time.Second)
	switch {
	case !ok || !ok2 || !ok3:
		return 0, 0, malformed("a time in the token is no number")
	case !ends:
		return 0, 0, malformed("the token does not expire (exp)")
	case at >= until:
		return 0, 0, &Refusal{Reason: TokenExpired, Message: fmt.Sprintf("the token expired %s ago", time.Duration(min(at-until, 1e9))*time.Second)}
	case at < from:
		return 0, 0, &Refusal{Reason: TokenNotYetValid, Message: fmt.Sprintf("the token is valid in %s, or a clock is wrong", time.Duration(min(from-at, 1e9))*time.Second)}
	}
	return from, until, nil
}
