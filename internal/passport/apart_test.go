package passport

import (
	"testing"

	"postern.dev/postern/internal/access"

	"github.com/go-jose/go-jose/v4/jwt"
)

// TestCallersApart: nobody gets the passport that was kept for another caller, however
// alike the two look.
func TestCallersApart(t *testing.T) {
	k := newKeys(t)
	callers := []access.Caller{
		{User: "ada"}, {User: "eve"}, {User: "ada", Proven: true}, {User: "ada", Kind: access.Key}, {User: "ada", Kind: access.Pod},
		{User: "ada", Groups: []string{"a", "bc"}}, {User: "ada", Groups: []string{"ab", "c"}}, {User: "ada", Groups: []string{"abc"}}, {User: "adaa", Groups: []string{"bc"}},
	}
	for range 2 { // the second comes from the cache
		for _, c := range callers {
			p, err := k.Check(mint(t, k, c, iris, noon), iris, noon)
			if err != nil || !p.Caller.Equal(c) {
				t.Errorf("%+v got the passport of %+v (%v)", c, p.Caller, err)
			}
		}
	}
}

// TestEachTime: each of a passport's times counts by itself, to the second.
func TestEachTime(t *testing.T) {
	k := newKeys(t)
	at := noon.Unix()
	for _, tt := range []struct {
		name          string
		nbf, iat, exp int64
		want          string
	}{
		{"a minute", 0, 0, 60, ""},
		{"made in 5 s", 5, 5, 60, ""},
		{"made in 6 s", 0, 6, 60, NotYetValid},
		{"valid in 6 s", 6, 0, 60, NotYetValid},
		{"a minute and a second from its beginning", -1, 0, 60, TooLong},
		{"from its making", 0, -1, 60, TooLong},
		{"over", -60, -60, 0, Expired},
		{"the last second", -59, -59, 1, ""},
	} {
		c := claims{Issuer: Issuer, Audience: jwt.Audience{iris.String()}, Subject: "ada", IssuedAt: at + tt.iat, NotBefore: at + tt.nbf, Expires: at + tt.exp}
		token, err := jwt.Signed(k.current.signer).Claims(c).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Check(token, iris, noon); reasonOf(err) != tt.want {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}
