package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// privateMembers are those of an RSA or EC key that only signing needs: RFC 7518, sections 6.2.2 and 6.3.2.
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth"}

// Keys are the key set for a rule of a RequestAuthentication that has none inline. The real istiod fetches it; here nothing is fetched,
// so it is the caller's, or else what this Istio uses as long as fetching fails, with a warning. Of Istio's only the public members are
// passed on: 1.22 to 1.28 carry the private ones along.
func (w *World) Keys(o Object, rule int, jwksURI, issuer string, fallback func(jwksURI string) string) (string, error) {
	place := jwksURI
	if place == "" {
		place = issuer // istiod asks the issuer for the place
	}
	if keys, ok := w.keys[place]; ok {
		return keys, nil
	}
	keys, forgeable, err := public(fallback(jwksURI))
	if err != nil {
		return "", fmt.Errorf("istio's fallback keys: %w", err)
	}
	message := fmt.Sprintf("spec.jwtRules[%d]: the keys of issuer %s were not fetched (nothing is fetched here) and none were given for %s: "+
		"the real istiod would hold fetched keys. Translated as this Istio does while it cannot fetch them: with a placeholder key", rule, issuer, place)
	if forgeable {
		message += ". No token that the issuer signed is accepted, and any that somebody signs with the key's private half, which is published in Istio's source (CVE-2026-31837)"
	} else {
		message += ". No token that the issuer signed is accepted"
	}
	w.warnings = append(w.warnings, Warning{Kind: o.Kind, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, Message: message})
	return keys, nil
}

// public leaves out a key set's private members, and says whether there were any.
func public(jwks string) (keys string, private bool, err error) {
	set, err := readKeys(jwks)
	if err != nil {
		return "", false, err
	}
	for _, key := range set.Keys {
		for _, member := range privateMembers {
			if _, ok := key[member]; ok {
				private = true
				delete(key, member)
			}
		}
	}
	if !private {
		return jwks, false, nil
	}
	b, err := marshal(set)
	return strings.TrimSpace(string(b)), true, err
}

// keySet is a JSON Web Key Set.
type keySet struct {
	Keys []map[string]any `json:"keys"`
}

func readKeys(jwks string) (keySet, error) {
	var set keySet
	if err := json.Unmarshal([]byte(jwks), &set); err != nil {
		return set, err
	}
	if set.Keys == nil {
		return set, errors.New("got no list keys, want a JSON Web Key Set")
	}
	return set, nil
}

// warned are all warnings, sorted, each once.
func (w *World) warned() []Warning {
	return sortedOnce(w.warnings, func(r Warning) string {
		return strings.Join([]string{r.Kind, r.Namespace, r.Name, r.Message}, "\x00")
	})
}
