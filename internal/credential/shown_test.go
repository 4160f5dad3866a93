package credential

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/apikey"
	"postern.dev/postern/internal/manifest"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func TestShown(t *testing.T) {
	const key = "postern_x"
	for _, tt := range []struct {
		name string
		h    Headers
		key  bool
		text string
		want string
	}{
		{"nothing", Headers{"accept": {"*/*"}}, false, "", ""},
		{"a key", Headers{"authorization": {"Bearer " + key}}, true, key, ""},
		{"in lower case", Headers{"authorization": {"bearer " + key}}, true, key, ""},
		{"in upper case, two spaces", Headers{"authorization": {"BEARER  " + key + " "}}, true, key, ""},
		{"a key as OpenAI's older clients and others send it", Headers{"x-api-key": {key}}, true, key, ""},
		{"both the same", Headers{"authorization": {"Bearer " + key}, "x-api-key": {key}}, true, key, ""},
		{"both, different", Headers{"authorization": {"Bearer " + key}, "x-api-key": {key + "y"}}, false, "", SeveralCredentials},
		{"a token and a key", Headers{"authorization": {"Bearer a.b.c"}, "x-api-key": {key}}, false, "", SeveralCredentials},
		{"a key and a session's token", Headers{"x-api-key": {key}, "x-auth-token": {"t"}}, false, "", SeveralCredentials},
		{"a key and a session's cookie", Headers{"x-api-key": {key}, "cookie": {"authservice_session=x"}}, true, key, ""},
		{"a token", Headers{"authorization": {"Bearer a.b.c"}}, false, "a.b.c", ""},
		{"another's key", Headers{"authorization": {"Bearer sk-x"}}, false, "sk-x", ""},
		{"another's key in x-api-key", Headers{"x-api-key": {"sk-x"}}, true, "sk-x", ""},
		{"an empty x-api-key", Headers{"x-api-key": {""}}, true, "", ""},
		{"two keys", Headers{"x-api-key": {key, key}}, false, "", SeveralCredentials},
		{"two Authorizations", Headers{"authorization": {"Bearer a", "Bearer a"}}, false, "", SeveralCredentials},
		{"Basic", Headers{"authorization": {"Basic x"}}, false, "", UnsupportedCredential},
		{"no scheme", Headers{"authorization": {key}}, false, "", UnsupportedCredential},
		{"a tab", Headers{"authorization": {"Bearer\t" + key}}, false, "", UnsupportedCredential},
		{"empty", Headers{"authorization": {""}}, false, "", UnsupportedCredential},
		{"Bearer alone", Headers{"authorization": {"Bearer "}}, false, "", TokenMalformed},
	} {
		c, ok, err := Shown(tt.h)
		if got := reasonOf(err); got != tt.want || c.Key != tt.key || c.text != tt.text || ok != (tt.name != "nothing") {
			t.Errorf("%s: got %+v %q %t %v", tt.name, c, c.text, ok, err)
		}
		if out := fmt.Sprintf("%v %+v %#v", c, struct{ C Credential }{c}, c); tt.text != "" && strings.Contains(out, tt.text) {
			t.Errorf("%s: a print shows it: %s", tt.name, out)
		}
	}
}

func TestHoldsKey(t *testing.T) {
	for value, want := range map[string]bool{
		"Bearer postern_x": true, "bearer  POSTERN_x": true, "postern_x": true, "Token token=\"postern_x\"": true, "Basic postern_x": true,
		"Bearer a,Bearer postern_x": true, "Bearer a,postern_x": true, "Bearer\tpostern_x": true, "Bearer a.postern_.c": false, "": false, "Bearer posternx": false,
	} {
		for _, name := range []string{"authorization", "x-api-key"} {
			if got := HoldsKey(Headers{name: {"x", value}}); got != want {
				t.Errorf("%s: %s: got %t", name, value, got)
			}
		}
		if HoldsKey(Headers{"x-other": {value}}) {
			t.Errorf("another header: %s", value)
		}
	}
}

// keyObjects makes ApiKeys as YAML and gives their texts.
type keyObjects struct {
	t    testing.TB
	yaml []string
}

func (k *keyObjects) add(namespace, name, more string) (text string) {
	k.t.Helper()
	text, spec, err := apikey.New(rand.Reader, namespace, name)
	if err != nil {
		k.t.Fatal(err)
	}
	k.put(namespace, name, spec, more)
	return text
}

func (k *keyObjects) put(namespace, name string, spec manifest.APIKeySpec, more string) {
	k.yaml = append(k.yaml, fmt.Sprintf("{apiVersion: apikeys.postern.dev/v1alpha1, kind: ApiKey, metadata: {name: %s, namespace: %s}, spec: {id: %q, hash: %q%s}}", name, namespace, spec.ID, spec.Hash, more))
}

func (k *keyObjects) keys() *APIKeys {
	k.t.Helper()
	set, err := manifest.Bytes("keys.yaml", []byte(strings.Join(k.yaml, "\n---\n")))
	if err != nil {
		k.t.Fatal(err)
	}
	return NewAPIKeys(set)
}

func TestAPIKeys(t *testing.T) {
	o := &keyObjects{t: t}
	good := o.add("team", "robot", "")
	timed := o.add("team", "timed", `, expires: "2026-11-24T12:00:01Z", owner: ada`)
	over := o.add("team", "over", `, expires: "2026-11-24T12:00:00Z"`)
	late := o.add("team", "late", `, expires: "9999-12-31T23:59:59Z"`)
	early := o.add("team", "early", `, expires: "0001-01-02T00:00:00Z"`)
	off := o.add("team", "off", ", disabled: true")
	text, spec, err := apikey.New(rand.Reader, "team", "twin")
	if err != nil {
		t.Fatal(err)
	}
	o.put("team", "twin", spec, "")
	text2, spec2, err := apikey.New(rand.Reader, "other", "twin")
	if err != nil {
		t.Fatal(err)
	}
	spec2.ID = spec.ID // somebody takes another's id
	o.put("other", "twin", spec2, "")
	copied, spec3, err := apikey.New(rand.Reader, "team", "original")
	if err != nil {
		t.Fatal(err)
	}
	o.put("thief", "copy", spec3, "") // the object alone, under another name
	broken, spec4, err := apikey.New(rand.Reader, "team", "broken")
	if err != nil {
		t.Fatal(err)
	}
	spec4.Hash = strings.Repeat("0", 10)
	o.put("team", "broken", spec4, "")
	foreign, _, err := apikey.New(rand.Reader, "team", "foreign")
	if err != nil {
		t.Fatal(err)
	}
	keys := o.keys()
	for _, tt := range []struct{ name, text, want, user string }{
		{"good", good, "", "postern:key:team:robot"},
		{"not over yet", timed, "", "postern:key:team:timed"},
		{"over", over, KeyExpired, ""},
		{"over in the year 9999", late, "", "postern:key:team:late"},
		{"over since long ago", early, KeyExpired, ""},
		{"disabled", off, KeyRevoked, ""},
		{"its id twice", text, KeyAmbiguous, ""},
		{"the other of the two", text2, KeyUnknown, ""}, // its own text has its own id
		{"copied to another object", copied, KeyUnknown, ""},
		{"an object with a broken hash", broken, KeyUnknown, ""},
		{"made elsewhere", foreign, KeyUnknown, ""},
		{"mistyped", good[:30] + "2" + good[31:], KeyMalformed, ""},
		{"cut", good[:len(good)-1], KeyMalformed, ""},
		{"another's", "sk-abc", KeyMalformed, ""},
		{"empty", "", KeyMalformed, ""},
	} {
		if tt.want == KeyMalformed && tt.text == good {
			continue
		}
		c, id, err := keys.Caller(Credential{Key: true, text: tt.text}, noon)
		if reasonOf(err) != tt.want || c.User != tt.user {
			t.Errorf("%s: got %+v %v, want %s %s", tt.name, c, err, tt.want, tt.user)
		}
		if err != nil && len(tt.text) > 30 && strings.Contains(err.Error(), tt.text[26:40]) {
			t.Errorf("%s: the error holds the secret: %v", tt.name, err)
		}
		if err == nil && (id == "" || !c.Proven || c.Kind != access.Key || fmt.Sprint(c.Groups) != "[postern:keys:team system:authenticated]") {
			t.Errorf("%s: got %+v, id %q", tt.name, c, id)
		}
	}
	if p := keys.Problems(); p == nil || !strings.Contains(p.Error(), "keys.yaml:1: ") && !strings.Contains(p.Error(), "ApiKey team/broken: spec.hash") || !strings.Contains(p.Error(), "ApiKey other/twin: spec.id") {
		t.Errorf("got problems %v", p)
	}
	var none *APIKeys
	if _, _, err := none.Caller(Credential{Key: true, text: good}, noon); reasonOf(err) != KeyUnknown || none.Problems() != nil {
		t.Errorf("nil: got %v", err)
	}
}

func BenchmarkKey(b *testing.B) {
	o := &keyObjects{t: b}
	text := o.add("team", "robot", "")
	keys := o.keys()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := keys.Caller(Credential{Key: true, text: text}, noon); err != nil {
			b.Fatal(err)
		}
	}
}

// TestUnreadKey: a key of which a field is not understood, such as a limit of a later
// version, is not taken, and still holds its id.
func TestUnreadKey(t *testing.T) {
	text, spec, err := apikey.New(rand.Reader, "team", "limited")
	if err != nil {
		t.Fatal(err)
	}
	object := func(namespace, name string, unread error) *manifest.Object {
		o := &manifest.Object{APIVersion: "apikeys.postern.dev/v1alpha1", Kind: "ApiKey", Value: &manifest.APIKey{Spec: spec}, Unread: unread}
		o.Meta.Namespace, o.Meta.Name = namespace, name
		return o
	}
	for _, tt := range []struct {
		name    string
		objects []*manifest.Object
		want    string
	}{
		{"read", []*manifest.Object{object("team", "limited", nil)}, ""},
		{"not read whole", []*manifest.Object{object("team", "limited", errors.New("spec.from: unknown field"))}, KeyUnknown},
		{"another one's, with its id", []*manifest.Object{object("team", "limited", nil), object("other", "x", errors.New("x"))}, KeyAmbiguous},
	} {
		set, err := manifest.New(tt.objects...)
		if err != nil {
			t.Fatal(err)
		}
		keys := NewAPIKeys(set)
		_, _, err = keys.Caller(Credential{Key: true, text: text}, time.Now())
		got := ""
		if r := (*Refusal)(nil); errors.As(err, &r) {
			got = r.Reason
		}
		if got != tt.want || tt.want != "" && keys.Problems() == nil {
			t.Errorf("%s: got %q %v, want %q", tt.name, got, keys.Problems(), tt.want)
		}
	}
}
