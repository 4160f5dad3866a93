package idp

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"
)

func newDex(t *testing.T, c Config) (*Server, *httptest.Server) {
	t.Helper()
	if c.YAML == nil {
		c.YAML = []byte(kubeflowYAML(t))
	}
	c.Env = env
	dex, err := New(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dex.Close() })
	server := httptest.NewServer(dex)
	t.Cleanup(server.Close)
	return dex, server
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestDexUnderItsIssuersPath(t *testing.T) {
	_, server := newDex(t, Config{})
	for _, tt := range []struct {
		path   string
		status int
		want   string
	}{
		{"/dex/.well-known/openid-configuration", 200, `"issuer": "http://dex.auth.svc.cluster.local:5556/dex"`},
		{"/dex/keys", 200, `"kty"`},
		{"/dex/healthz", 200, "Health check passed"},
		{"/dex/static/main.css", 200, ".dex-"},
		{"/dex/theme/styles.css", 200, ".theme-"},
		{"/dex/auth?client_id=nobody&redirect_uri=/x&response_type=code&scope=openid", 404, "Invalid client_id"},
		{"/dex/auth?client_id=kubeflow-oidc-authservice&redirect_uri=http://evil/&response_type=code&scope=openid", 400, "Unregistered redirect_uri"},
		{"/dex/auth?client_id=kubeflow-oidc-authservice&redirect_uri=/login/oidc&response_type=code&scope=openid", 200, "Log in to Your Account"},
		{"/", 404, ""},
		{"/keys", 404, ""},
		{"/dexter", 404, ""},
	} {
		status, body := get(t, server.URL+tt.path)
		if status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s: got %d, want %d with %q:\n%s", tt.path, status, tt.status, tt.want, body)
		}
	}
}

// Dex's own page, filled in as a browser would, ends with a code at Kubeflow's
// relative redirect address.
func TestPasswordPage(t *testing.T) {
	_, server := newDex(t, Config{})
	for _, tt := range []struct{ user, password, want string }{
		{"user@example.com", "12341234", "/login/oidc?code="},
		{"USER@example.com", "12341234", "/login/oidc?code="},
		{"user@example.com", "1234123", "Invalid Email Address and password"},
		{"user@example.com", "", "Invalid Email Address and password"},
		{"nobody@example.com", "12341234", "Invalid Email Address and password"},
	} {
		jar, _ := cookiejar.New(nil)
		client := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			if strings.HasPrefix(r.URL.Path, "/login/oidc") {
				return http.ErrUseLastResponse
			}
			return nil
		}}
		res, err := client.Get(server.URL + "/dex/auth?client_id=kubeflow-oidc-authservice&redirect_uri=%2Flogin%2Foidc&response_type=code&scope=openid+email&state=s&nonce=n")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		res, err = client.PostForm(res.Request.URL.String(), url.Values{"login": {tt.user}, "password": {tt.password}})
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if got := res.Header.Get("Location") + string(body); !strings.Contains(got, tt.want) {
			t.Errorf("%s %q: got %d %s, want %q", tt.user, tt.password, res.StatusCode, got, tt.want)
		}
	}
}

// The first day of a Dex with a clock of its own: the key's rotation is its.
func TestNow(t *testing.T) {
	start := time.Date(2031, 5, 6, 7, 8, 9, 0, time.FixedZone("", 3600))
	_, server := newDex(t, Config{Now: func() time.Time { return start }})
	_, body := get(t, server.URL+"/dex/keys")
	var keys struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal([]byte(body), &keys); err != nil || len(keys.Keys) != 1 {
		t.Errorf("got %s (%v)", body, err)
	}
}

func TestLoggerGetsDexsLog(t *testing.T) {
	var log bytes.Buffer
	_, server := newDex(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	get(t, server.URL+"/dex/auth?client_id=nobody")
	server.Close() // waits for the handler, which writes the log
	if !strings.Contains(log.String(), "invalid client_id provided") {
		t.Errorf("got %q", log.String())
	}
}

func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	dex, err := New(context.Background(), Config{YAML: []byte(kubeflowYAML(t)), Env: env})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := dex.Close(); err != nil {
			t.Error(err)
		}
	}
	w := httptest.NewRecorder()
	dex.ServeHTTP(w, httptest.NewRequest("GET", "/dex/keys", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("after Close: got %d", w.Code)
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, want %d", runtime.NumGoroutine(), before)
		}
	}
}

func TestTwoDexesInOneProcess(t *testing.T) {
	_, a := newDex(t, Config{})
	_, b := newDex(t, Config{})
	_, keysA := get(t, a.URL+"/dex/keys")
	_, keysB := get(t, b.URL+"/dex/keys")
	if keysA == keysB {
		t.Error("two Dexes with one key")
	}
}

func TestNewRefusesABadFile(t *testing.T) {
	_, err := New(context.Background(), Config{YAML: []byte("issuer: 3\nfoo: bar\n")})
	if err == nil || !strings.Contains(err.Error(), `dex config.yaml: line 2: unknown field "foo"`) {
		t.Errorf("got %v", err)
	}
}

// What anybody sends is kept within bounds: the oldest logins that have begun go,
// a newer one still comes to its end.
func TestBegunLoginsAreBounded(t *testing.T) {
	s, server := newDex(t, Config{})
	const begin = "/dex/auth/local?client_id=kubeflow-oidc-authservice&redirect_uri=%2Flogin%2Foidc&response_type=code&scope=openid"
	form := func() string {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", begin, nil))
		if w.Code != http.StatusFound {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		return w.Header().Get("Location")
	}
	first := form()
	var second string
	for i := range maxLogins {
		if at := form(); i == 0 {
			second = at
		}
	}
	for at, want := range map[string]int{first: http.StatusBadRequest, second: http.StatusOK} { // Dex: "Requested resource does not exist."
		if status, body := get(t, server.URL+at); status != want {
			t.Errorf("got %d, want %d: %s", status, want, body)
		}
	}
}

func TestWhatDexDoesNotGet(t *testing.T) {
	s, _ := newDex(t, Config{})
	for target, want := range map[string]int{
		"/dex/device":           404,
		"/dex/device/code":      404,
		"/dex//device/code":     404,
		"/dex/x/../device/code": 404,
		"/dex/%64evice/code":    404,
		"/dex/keys":             200,
		"/dex/keys?" + strings.Repeat("a", maxTarget): 414,
	} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("POST", target, nil))
		if get := httptest.NewRecorder(); want == 200 {
			s.ServeHTTP(get, httptest.NewRequest("GET", target, nil))
			w = get
		}
		if w.Code != want {
			t.Errorf("%.40s: got %d %s, want %d", target, w.Code, w.Body, want)
		}
	}
}
