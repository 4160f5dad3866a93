package apikey

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"postern.dev/postern/internal/manifest"
)

func newKey(t testing.TB, namespace, name string) (string, manifest.APIKeySpec) {
	t.Helper()
	text, spec, err := New(rand.Reader, namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	return text, spec
}

func TestNew(t *testing.T) {
	text, spec := newKey(t, "team", "robot")
	k, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ReadSpec(spec)
	if err != nil {
		t.Fatal(err)
	}
	if k.ID != spec.ID || !k.Verify(h, "team", "robot") {
		t.Errorf("the key does not fit its own object")
	}
	for _, o := range [][2]string{{"team", "robot2"}, {"team2", "robot"}, {"tea", "mrobot"}, {"", ""}} {
		if k.Verify(h, o[0], o[1]) {
			t.Errorf("the key fits %v, to which its object was copied", o)
		}
	}
	other, _ := newKey(t, "team", "robot")
	if o, err := Parse(other); err != nil || o.Verify(h, "team", "robot") || o.ID == k.ID {
		t.Errorf("another key fits: %v", err)
	}
	if secret := text[len(Prefix)+IDLen+1:]; strings.Contains(fmt.Sprintf("%+v", spec), secret[:20]) {
		t.Error("the object holds the secret")
	}
	for _, o := range [][2]string{{"", "x"}, {"x", ""}} {
		if _, _, err := New(rand.Reader, o[0], o[1]); err == nil {
			t.Errorf("%v: made a key", o)
		}
	}
	if _, _, err := New(strings.NewReader("short"), "a", "b"); err == nil {
		t.Error("made a key without enough random bytes")
	}
}

// TestFormat holds the format: keys that are out there must go on.
func TestFormat(t *testing.T) {
	text, spec, err := New(bytes.NewReader(bytes.Repeat([]byte{0x5a}, 42)), "team", "robot")
	if err != nil {
		t.Fatal(err)
	}
	const want = "postern_ljnfuws2ljnfuws2_ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnajpzsyaq2"
	const hash = "efb40ee5b625f67974d54f692d041080b957fbcc1c5fda85ca65cf768b5a33d2"
	if text != want || spec.ID != "ljnfuws2ljnfuws2" || spec.Hash != hash {
		t.Errorf("got %s %+v", text, spec)
	}
}

func TestParse(t *testing.T) {
	text, _ := newKey(t, "team", "robot")
	for i := range text { // one character wrong, anywhere
		for _, c := range []byte("b7_A= \x00") {
			if c == text[i] {
				continue
			}
			if _, err := Parse(text[:i] + string(c) + text[i+1:]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%q in place %d: got %v", c, i, err)
			}
		}
	}
	body := strings.Repeat("a", IDLen) + "_" + strings.Repeat("a", secretLen-1) + "b"
	for name, bad := range map[string]string{
		"empty": "", "prefix": Prefix, "cut": text[:Len-1], "longer": text + "a", "upper case": strings.ToUpper(text),
		"space": " " + text[1:], "two": text + "," + text, "huge": strings.Repeat("a", 1<<20),
		"not canonical": Prefix + body + check(Prefix+body),
		"two swapped":   text[:40] + text[41:42] + text[40:41] + text[42:],
	} {
		if bad == text {
			continue // the two were the same
		}
		if _, err := Parse(bad); !errors.Is(err, ErrMalformed) || err.Error() != ErrMalformed.Error() {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for text, want := range map[string]bool{text: true, Prefix: true, "POSTERN_x": true, "postern": false, "": false, "sk-x": false, "Bearer " + text: false} {
		if Is(text) != want {
			t.Errorf("Is: got %t, want %t", Is(text), want)
		}
	}
}

func TestReadSpec(t *testing.T) {
	_, good := newKey(t, "a", "b")
	for name, change := range map[string]func(*manifest.APIKeySpec){
		"no id":            func(s *manifest.APIKeySpec) { s.ID = "" },
		"id in upper case": func(s *manifest.APIKeySpec) { s.ID = strings.ToUpper(s.ID) },
		"no hash":          func(s *manifest.APIKeySpec) { s.Hash = "" },
		"hash too long":    func(s *manifest.APIKeySpec) { s.Hash += "00" },
		"hash in upper":    func(s *manifest.APIKeySpec) { s.Hash = "A" + s.Hash[1:] },
		"hash no hex":      func(s *manifest.APIKeySpec) { s.Hash = "g" + s.Hash[1:] },
	} {
		s := good
		change(&s)
		if _, err := ReadSpec(s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPrintsNoSecret(t *testing.T) {
	text, _ := newKey(t, "a", "b")
	k, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "in", struct{ K Key }{k})
	for _, out := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s %q", k, k, k, k, k), log.String(), fmt.Sprintf("%+v", struct{ K Key }{k})} {
		if strings.Contains(out, k.secret) {
			t.Errorf("a print holds the secret: %s", out)
		}
	}
}

func FuzzKeyParse(f *testing.F) {
	good, _ := newKey(f, "a", "b")
	f.Add(good)
	f.Add(Prefix)
	f.Add("postern_ljnfuws2ljnfuws2_")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := Parse(text)
		if err != nil {
			return
		}
		// What is taken is the one text of that key.
		body := Prefix + k.ID + "_" + k.secret
		if !Is(text) || len(text) != Len || body+check(body) != text {
			t.Errorf("%q was taken", text)
		}
	})
}

func BenchmarkParseAndVerify(b *testing.B) {
	text, spec := newKey(b, "team", "robot")
	h, err := ReadSpec(spec)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		k, err := Parse(text)
		if err != nil || !k.Verify(h, "team", "robot") {
			b.Fatal(err)
		}
	}
}
