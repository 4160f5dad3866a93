package dashboard

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func testConfig(models ...Model) Config {
	return Config{
		UserHeader: "kubeflow-userid",
		Models:     func(string) []Model { return models },
		Gateway:    func() string { return "http://localhost:8080" },
		LogoutPath: "/authservice/logout",
	}
}

func iris() Model {
	return Model{
		Name: "sklearn-iris", Namespace: "kserve-test",
		InClusterURL: "http://sklearn-iris.kserve-test.svc.cluster.local",
		ExternalHost: "sklearn-iris.kserve-test.example.com",
		Commands: []Command{{
			Label: "From outside",
			Line:  `curl -s -d '{"instances": [[6.8, 2.8]]}' "http://localhost:8080/v1/models/sklearn-iris:predict?a=1&b=2"`,
		}},
	}
}

func ask(t *testing.T, h http.Handler, method, target string, header http.Header) *http.Response {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	req, err := http.NewRequest(method, server.URL+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func text(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func user(values ...string) http.Header { return http.Header{"Kubeflow-Userid": values} }

func TestPage(t *testing.T) {
	res := ask(t, New(testConfig(iris())), "GET", "/", user("user@example.com"))
	body := text(t, res)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("got %d", res.StatusCode)
	}
	for _, want := range []string{
		"user@example.com",
		`sklearn-iris <span class="namespace">in kserve-test</span>`,
		"http://sklearn-iris.kserve-test.svc.cluster.local",
		"Host: sklearn-iris.kserve-test.example.com",
		// As a browser shows it, and so as it is copied: the command itself.
		`curl -s -d &#39;{&#34;instances&#34;: [[6.8, 2.8]]}&#39; &#34;http://localhost:8080/v1/models/sklearn-iris:predict?a=1&amp;b=2&#34;</code>`,
		`<form method="post" action="/authservice/logout">`,
		"needs a credential",
		"authservice_session",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q:\n%s", want, body)
		}
	}
	for _, never := range []string{"<script", "onclick", "ZgotmplZ", "None yet"} {
		if strings.Contains(body, never) {
			t.Errorf("the page has %q", never)
		}
	}
}

// The policy allows the page's own style and nothing else: the hash must be
// that of the text as it stands in the page.
func TestStyleIsAllowedByItsPolicy(t *testing.T) {
	res := ask(t, New(testConfig()), "GET", "/", user("a@b.c"))
	_, rest, _ := strings.Cut(text(t, res), "<style>")
	style, _, ok := strings.Cut(rest, "</style>")
	if !ok || style == "" {
		t.Fatal("no style in the page")
	}
	sum := sha256.Sum256([]byte(style))
	if policy, want := res.Header.Get("Content-Security-Policy"), "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'"; !strings.Contains(policy, want) {
		t.Errorf("got policy %q, want it to have %s", policy, want)
	}
}

func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, method, target string
		header               http.Header
		status               int
		want                 string
	}{
		{"home", "GET", "/", user("a@b.c"), 200, "None yet"},
		{"home with a query", "GET", "/?x=1", user("a@b.c"), 200, "None yet"},
		{"head", "HEAD", "/", user("a@b.c"), 200, ""},
		{"unknown path", "GET", "/pipelines", user("a@b.c"), 404, "no such page"},
		{"nearly home", "GET", "//", user("a@b.c"), 404, "no such page"},
		{"no user", "GET", "/", nil, 401, "did not name a user"},
		{"no user, unknown path", "GET", "/x", nil, 401, "did not name a user"},
		{"an empty user", "GET", "/", user(""), 401, "did not name a user"},
		{"two users", "GET", "/", user("a@b.c", "d@e.f"), 401, "did not name a user"},
		{"a post", "POST", "/", user("a@b.c"), 405, "only be read"},
		{"options", "OPTIONS", "/", user("a@b.c"), 405, "only be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := ask(t, New(testConfig()), tt.method, tt.target, tt.header)
			body := text(t, res)
			if res.StatusCode != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("got %d %s, want %d with %q", res.StatusCode, body, tt.status, tt.want)
			}
			for name, want := range map[string]string{
				"X-Content-Type-Options":  "nosniff",
				"X-Frame-Options":         "DENY",
				"Cache-Control":           "no-store",
				"Referrer-Policy":         "same-origin",
				"Content-Security-Policy": "frame-ancestors 'none'",
				"Content-Type":            "text/html",
			} {
				if got := res.Header.Get(name); !strings.Contains(got, want) {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
			if policy := res.Header.Get("Content-Security-Policy"); strings.Contains(policy, "unsafe") || !strings.Contains(policy, "default-src 'none'") {
				t.Errorf("got policy %q", policy)
			}
		})
	}
}

func TestNothingEscapesItsPlace(t *testing.T) {
	const evil = `"'><script>alert(1)</script><a href=javascript:x>`
	m := Model{Name: evil, Namespace: evil, InClusterURL: evil, ExternalHost: evil, Commands: []Command{{evil, evil}}}
	c := testConfig(m)
	c.Gateway = func() string { return evil }
	c.LogoutPath = evil
	for _, c := range []Config{c, testConfig()} {
		body := text(t, ask(t, New(c), "GET", "/", user(evil)))
		if strings.Contains(body, "<script") || strings.Contains(body, "<a href=javascript") {
			t.Errorf("unescaped:\n%s", body)
		}
	}
}

func TestUserIsOneShellWord(t *testing.T) {
	body := text(t, ask(t, New(testConfig()), "GET", "/", user(`o'neil;rm@b.c`)))
	if want := `--user=&#39;o&#39;\&#39;&#39;neil;rm@b.c&#39;</code>`; !strings.Contains(body, want) {
		t.Errorf("the page lacks %s:\n%s", want, body)
	}
}

func TestAbsent(t *testing.T) {
	const want = "jupyter-web-app is not part of this system: postern up runs the gateway, login, models and dashboard only"
	for _, tt := range []struct {
		accept string
		json   bool
	}{
		{"", false},
		{"*/*", false},
		{"text/html,application/xhtml+xml", false},
		{"application/json", true},
		{"text/plain;q=0.5, Application/JSON; charset=utf-8", true},
		{"application/problem+json", true},
		{"application/jsonp", false},
	} {
		t.Run(tt.accept, func(t *testing.T) {
			res := ask(t, Absent("jupyter-web-app"), "GET", "/jupyter/", http.Header{"Accept": {tt.accept}})
			body := text(t, res)
			if res.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("got %d", res.StatusCode)
			}
			if !tt.json {
				if body != want+"\n" || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") {
					t.Errorf("got %q", body)
				}
				return
			}
			var got struct{ Error string }
			if err := json.Unmarshal([]byte(body), &got); err != nil || got.Error != want {
				t.Errorf("got %q (%v)", body, err)
			}
		})
	}
}
