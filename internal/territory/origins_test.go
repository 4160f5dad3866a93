package territory

import (
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/internal/manifest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOrigins(t *testing.T) {
	for _, tt := range []struct {
		text string
		want string // joined by spaces
		bad  int    // entries that are reported
	}{
		{"", "", 0},
		{"https://app.example.com", "https://app.example.com", 0},
		{" https://a.example.com ,http://localhost:3000,, https://a.example.com", "https://a.example.com http://localhost:3000", 0},
		{"https://[::1]:8443", "https://[::1]:8443", 0},
		{"*", "", 1},
		{"https://*.example.com", "", 1},
		{"null", "", 1},
		{"https://a.example.com/, https://b.example.com", "https://b.example.com", 1},
		{"https://a.example.com/x", "", 1},
		{"https://A.example.com", "", 1},
		{"HTTPS://a.example.com", "", 1},
		{"https://a.example.com:443", "", 1},
		{"http://a.example.com:80", "", 1},
		{"http://a.example.com:443", "http://a.example.com:443", 0},
		{"https://a.example.com:", "", 1},
		{"https://user@a.example.com", "", 1},
		{"https://a.example.com?x", "", 1},
		{"https://a.example.com#x", "", 1},
		{"https://", "", 1},
		{"a.example.com", "", 1},
		{"file:///x", "", 1},
		{"chrome-extension://abc", "", 1},
		{"https://bücher.example", "", 1},
		{"https://a b", "", 1},
		{"https://a.example.com\r\nx: y", "", 1},
		{"https://a.example.com;https://b.example.com", "", 1},
	} {
		got, err := originsOf(&manifest.Object{Kind: "InferenceService", Meta: metav1.ObjectMeta{Name: "m", Namespace: "n", Annotations: map[string]string{OriginsAnnotation: tt.text}}})
		bad := 0
		if err != nil {
			bad = strings.Count(err.Error(), "InferenceService n/m: metadata.annotations[postern.dev/allowed-origins]: got ")
		}
		if !slices.Equal(got, strings.Fields(tt.want)) || bad != tt.bad {
			t.Errorf("%q: got %q %v", tt.text, got, err)
		}
	}
}

func TestOriginsOfModels(t *testing.T) {
	annotate := func(origins string) string {
		return strings.Replace("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: paged, namespace: kserve-test, annotations: {postern.dev/allowed-origins: 'X'}}\nspec: {predictor: {sklearn: {}}}\n", "X", origins, 1)
	}
	m := compileMap(t, Config{}, annotate("https://app.example.com, *"))
	if got := m.At(8080, "paged.kserve-test.example.com", "/", "GET"); got.Kind != Model || !slices.Equal(got.Origins, []string{"https://app.example.com"}) {
		t.Errorf("got %s %v", got.Kind, got.Origins)
	}
	if got := m.At(8080, "iris.kserve-test.example.com", "/", "GET"); got.Kind != Model || got.Origins != nil {
		t.Errorf("another model: got %v", got.Origins)
	}
	if err := m.Underived(); err == nil || !strings.Contains(err.Error(), "postern.dev/allowed-origins") {
		t.Errorf("the entry that is no origin is not reported: %v", err)
	}
	if m := compileMap(t, Config{}, annotate("https://app.example.com")); m.Underived() != nil {
		t.Error(m.Underived())
	}
}
