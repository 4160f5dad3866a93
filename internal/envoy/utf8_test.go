package envoy

import "testing"

func TestUTF8Only(t *testing.T) {
	for text, want := range map[string]string{"": "", "é\ufffd": "é\ufffd", "\xff": "!", "a\xe9b": "a!b", "\xe2\x82": "!!", "\xff\xfeé": "!!é"} {
		if got := utf8Only(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
