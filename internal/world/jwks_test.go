package world

import (
	"strings"
	"testing"

	"postern.dev/postern/internal/manifest"
)

const (
	someKeys  = `{"keys":[{"kty":"RSA","kid":"one","n":"AQAB","e":"AQAB"}]}`
	otherKeys = `{"keys":[{"kty":"RSA","kid":"two","n":"AQAB","e":"AQAB"}]}`
)

func TestCheckJWKS(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{someKeys, ""},
		{`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQAB"}]}`, `keys[0] has "d"`},
		{`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`, `keys[0] has "k"`},
		{`{"keys":[]}`, "got no key set"},
		{`[]`, "got no key set"},
		{strings.Repeat(" ", MaxJWKS+1), "longer than"},
	} {
		err := CheckJWKS([]byte(tt.text))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.40s: got %v, want %q", tt.text, err, tt.want)
		}
	}
}

func rules(text string) string {
	return "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: istio-system}\nspec: {jwtRules: [" + text + "]}\n"
}

// Keys go to the translator by where istiod would fetch them; an issuer without
// any has a placeholder.
func TestKeys(t *testing.T) {
	for _, tt := range []struct {
		name, rules string
		given       map[string]string
		places      map[string]string
		missing     []string
		note, err   string
	}{
		{"by URI", `{issuer: a, jwksUri: "http://a/keys"}`, map[string]string{"a": someKeys}, map[string]string{"http://a/keys": someKeys}, nil, "", ""},
		{"by issuer", `{issuer: a}`, map[string]string{"a": someKeys}, map[string]string{"a": someKeys}, nil, "", ""},
		{"inline", `{issuer: a, jwks: '` + otherKeys + `'}`, nil, nil, nil, "", ""},
		{"none given", `{issuer: a}, {issuer: b}`, map[string]string{"b": someKeys}, map[string]string{"b": someKeys}, []string{"a"}, "the keys of issuer a are not known here", ""},
		{"misspelt", `{issuer: a}`, map[string]string{"A": someKeys}, nil, []string{"a"}, "keys were given for issuer A: no RequestAuthentication without inline keys has it (a)", ""},
		{"one URI, two key sets", `{issuer: a, jwksUri: u}, {issuer: b, jwksUri: u}`, map[string]string{"a": someKeys, "b": otherKeys}, nil, nil, "", "two issuers have their keys at u"},
		{"one URI, one key set", `{issuer: a, jwksUri: u}, {issuer: b, jwksUri: u}`, map[string]string{"a": someKeys, "b": someKeys}, map[string]string{"u": someKeys}, nil, "", ""},
	} {
		set, err := manifest.Bytes("r.yaml", []byte(rules(tt.rules)))
		if err != nil {
			t.Fatal(err)
		}
		w := &World{Set: set}
		got, err := w.keys(tt.given)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.err)
		}
		if err != nil {
			continue
		}
		if len(got) != len(tt.places) || len(w.Placeholders) != len(tt.missing) {
			t.Errorf("%s: got keys for %v and placeholders %v, want %v and %v", tt.name, got, w.Placeholders, tt.places, tt.missing)
		}
		for place, keys := range tt.places {
			if got[place] != keys {
				t.Errorf("%s: got %q at %s, want %q", tt.name, got[place], place, keys)
			}
		}
		for _, issuer := range tt.missing {
			if w.Placeholders[issuer] == "" {
				t.Errorf("%s: got placeholders %v, want one for %s", tt.name, w.Placeholders, issuer)
			}
		}
		if notes := strings.Join(append(w.Notes, w.placeholders()...), "\n"); !strings.Contains(notes, tt.note) {
			t.Errorf("%s: got notes %q, want %q", tt.name, notes, tt.note)
		}
	}
}
