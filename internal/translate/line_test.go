package translate

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLine(t *testing.T) {
	known := []string{"1.9", "1.17", "1.31"}
	for _, tt := range []struct{ version, want, err string }{
		{"1.17", "1.17", ""},
		{"1.17.5", "1.17", ""},
		{"v1.17.5", "1.17", ""},
		{"1.17.5-distroless", "1.17", ""},
		{"1.31-alpha.eed52ebb66ad", "1.31", ""},
		{"docker.io/istio/pilot:1.17.5", "1.17", ""},
		{"istio/pilot:1.17.5@sha256:0123", "1.17", ""},
		{"localhost:5000/istio/pilot:1.17.5", "1.17", ""},
		{"newest", "1.31", ""},
		{"1.9.6", "1.9", ""},

		{"1.18", "", "there is no translator for istio 1.18, only for 1.9, 1.17, 1.31"},
		{"11.17", "", "no translator for istio 11.17"},
		{"1.170", "", "no translator for istio 1.170"},
		{"1.017", "", "want a version such as"},
		{"1", "", "want a version such as"},
		{"1.17.x", "", "want a version such as"},
		{"1.17.5.1", "", "want a version such as"},
		{"1.17.5 ", "", "want a version such as"},
		{"1.17/../1.31", "", "image without a tag"},
		{"Newest", "", "want a version such as"},
		{"latest", "", "there are translators for 1.9, 1.17, 1.31"},
		{"", "", "want a version such as"},
		{"docker.io/istio/pilot", "", "image without a tag"},
		{"localhost:5000/istio/pilot", "", "image without a tag"},
		{"docker.io/istio/pilot:latest", "", "want a version such as"},
		{"docker.io/istio/pilot@sha256:0123", "", "image without a tag"},
	} {
		got, err := lineOf(tt.version, known)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: got %q, %v, want %q, %q", tt.version, got, err, tt.want, tt.err)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"1.9", "1.17", "1.22", "1.31"}
	for asked, want := range map[string]string{
		"1.8": "1.9", "0.31": "1.9", "1.10": "1.9", "1.16": "1.9", "1.18": "1.17", "1.30": "1.22", "1.32": "1.31", "2.0": "1.31",
		"1.19": "1.22", "1.21": "1.22", // 1.17 would say that a login is in force which is gone
	} {
		if got := nearest(asked, known); got != want {
			t.Errorf("%s: got %s, want %s", asked, got, want)
		}
	}
}

// TestKnownLines: what a program without a checkout believes is what this checkout has.
func TestKnownLines(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if got := findCheckout(); got != root {
		t.Fatalf("got checkout %q, want %q", got, root)
	}
	if got := linesOf(root); !slices.Equal(got, knownLines) {
		t.Errorf("got lines %q in translator/, want knownLines %q", got, knownLines)
	}
	if got, err := Line("newest"); err != nil || got != knownLines[len(knownLines)-1] {
		t.Errorf("got newest line %q (%v), want %q", got, err, knownLines[len(knownLines)-1])
	}
	t.Chdir(t.TempDir())
	if got := findCheckout(); got != "" {
		t.Errorf("got checkout %q in an empty directory, want none", got)
	}
	if got, err := Line("docker.io/istio/pilot:1.17.5"); err != nil || got != "1.17" {
		t.Errorf("got line %q (%v) without a checkout, want 1.17", got, err)
	}
}
