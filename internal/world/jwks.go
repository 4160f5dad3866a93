package world

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	security "istio.io/api/security/v1beta1"

	"postern.dev/postern/internal/manifest"
)

// MaxJWKS bounds a key set, in bytes.
const MaxJWKS = 1 << 20

// secretMembers are those of a JSON Web Key that only signing needs (RFC 7518,
// sections 6.2.2, 6.3.2 and 6.4).
var secretMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// CheckJWKS says what is wrong with a key set that is to stand for what istiod
// would fetch.
func CheckJWKS(text []byte) error {
	if len(text) > MaxJWKS {
		return fmt.Errorf("got a key set longer than %d bytes", MaxJWKS)
	}
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil || len(set.Keys) == 0 {
		return errors.New(`got no key set, want {"keys":[...]} (RFC 7517) with a key`)
	}
	for i, key := range set.Keys {
		for _, member := range secretMembers {
			if _, ok := key[member]; ok {
				return fmt.Errorf("keys[%d] has %q, which only signing needs: want public keys alone", i, member)
			}
		}
	}
	return nil
}

// tokenRule is a rule of a RequestAuthentication without inline keys: istiod
// would fetch them.
type tokenRule struct {
	object        *manifest.Object
	index         int
	issuer, place string // place is where the keys are: jwksUri, or else the issuer
}

func (w *World) tokenRules() []tokenRule {
	var out []tokenRule
	for o, ra := range manifest.Of[*security.RequestAuthentication](w.Set) {
		for i, r := range ra.JwtRules {
			if r.Jwks != "" {
				continue
			}
			t := tokenRule{object: o, index: i, issuer: r.Issuer, place: r.JwksUri}
			if t.place == "" {
				t.place = r.Issuer
			}
			out = append(out, t)
		}
	}
	return out
}

// keys turns key sets by issuer into what the translator wants, by place, and
// finds the issuers that are left without. An issuer that no rule names is
// noted: it may be misspelt.
func (w *World) keys(byIssuer map[string]string) (map[string]string, error) {
	byPlace := map[string]string{}
	used := map[string]bool{}
	w.Placeholders = map[string]string{}
	for _, t := range w.tokenRules() {
		set, given := byIssuer[t.issuer]
		if !given {
			w.Placeholders[t.issuer] = fmt.Sprintf("%s: %s spec.jwtRules[%d]: the keys of issuer %s are not known here, and Istio's placeholder stands in, which accepts no token that the issuer signed: "+
				"the cluster's istiod has the keys if it could fetch them (--jwks %s=FILE gives them)", t.object.Source, t.object, t.index, t.issuer, t.issuer)
			continue
		}
		used[t.issuer] = true
		if old, ok := byPlace[t.place]; ok && old != set {
			return nil, t.object.Errorf(fmt.Sprintf("spec.jwtRules[%d].jwksUri", t.index), "two issuers have their keys at %s, and other keys were given for %s", t.place, t.issuer)
		}
		byPlace[t.place] = set
	}
	for _, issuer := range slices.Sorted(maps.Keys(byIssuer)) {
		if !used[issuer] {
			w.Notes = append(w.Notes, fmt.Sprintf("keys were given for issuer %s: no RequestAuthentication without inline keys has it (%s)", issuer, list(w.fetching(), "there is none")))
		}
	}
	if len(byPlace) == 0 {
		return nil, nil
	}
	return byPlace, nil
}

func (w *World) fetching() map[string]bool {
	out := map[string]bool{}
	for _, t := range w.tokenRules() {
		out[t.issuer] = true
	}
	return out
}

// placeholders are the notes about keys that stand in, in a stable order.
func (w *World) placeholders() []string {
	var out []string
	for _, issuer := range slices.Sorted(maps.Keys(w.Placeholders)) {
		out = append(out, strings.TrimSpace(w.Placeholders[issuer]))
	}
	return out
}
