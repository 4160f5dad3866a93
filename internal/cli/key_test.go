package cli

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"postern.dev/postern/internal/manifest"
)

// TestShowKeys: a key is valid only if posternd would take it.
func TestShowKeys(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	hash := strings.Repeat("a", 64)
	key := func(name, id string, change func(*manifest.Object, *manifest.APIKeySpec)) *manifest.Object {
		v := &manifest.APIKey{Spec: manifest.APIKeySpec{ID: id, Hash: hash, Owner: "ada"}}
		o := &manifest.Object{Kind: "ApiKey", Meta: metav1.ObjectMeta{Namespace: "n", Name: name}, Value: v}
		if change != nil {
			change(o, &v.Spec)
		}
		return o
	}
	id := func(c string) string { return strings.Repeat(c, 16) }
	got := showKeys([]*manifest.Object{
		key("valid", id("a"), nil),
		key("later", id("b"), func(_ *manifest.Object, s *manifest.APIKeySpec) { s.Expires = &metav1.Time{Time: now.Add(time.Second)} }),
		key("expired", id("c"), func(_ *manifest.Object, s *manifest.APIKeySpec) { s.Expires = &metav1.Time{Time: now} }),
		key("disabled", id("d"), func(_ *manifest.Object, s *manifest.APIKeySpec) { s.Disabled = true }),
		key("deleted", id("e"), func(o *manifest.Object, _ *manifest.APIKeySpec) { o.Meta.DeletionTimestamp = &metav1.Time{Time: now} }),
		key("malformed", "A", nil),
		key("unread", id("f"), func(o *manifest.Object, _ *manifest.APIKeySpec) { o.Unread = errors.New("x") }),
		key("twin", id("g"), nil), key("other-twin", id("g"), nil),
	}, now)
	want := []string{"valid valid", "later valid", "expired expired", "disabled disabled", "deleted deleted", "malformed invalid", "unread invalid", "twin invalid", "other-twin invalid"}
	for i, k := range got {
		if k.Name+" "+k.State != want[i] {
			t.Errorf("got %s %s, want %s", k.Name, k.State, want[i])
		}
	}
	var table strings.Builder
	got[0].Owner = "a\x1b[2Jb"
	if err := writeKeys(&table, got, false); err != nil || strings.Contains(table.String(), "\x1b") || strings.Count(table.String(), "\n") != len(want)+1 {
		t.Errorf("got %q %v", table.String(), err)
	}
}
