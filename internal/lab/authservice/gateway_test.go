package authservice

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"postern.dev/postern/internal/lab/idp"
)

const (
	issuer       = "http://dex.auth.svc.cluster.local:5556/dex"
	clientID     = "kubeflow-oidc-authservice"
	clientSecret = "pUBnBOY80SnXgjibTYM9ZWNzY2xreNGQok"
)

// kubeflow is ConfigMap istio-system/oidc-authservice-parameters of Kubeflow
// v1.4.0, with changes.
func kubeflow(changes ...string) map[string]string {
	m := map[string]string{
		"OIDC_AUTH_URL": "/dex/auth",
		"OIDC_PROVIDER": issuer,
		"OIDC_SCOPES":   "profile email groups",
		"PORT":          `"8080"`,
		"REDIRECT_URL":  "/login/oidc",
		"SKIP_AUTH_URI": "/dex",
		"STORE_PATH":    "/var/lib/authservice/data.db",
		"USERID_CLAIM":  "email",
		"USERID_HEADER": "kubeflow-userid",
		"USERID_PREFIX": "",
	}
	for i := 0; i < len(changes); i += 2 {
		m[changes[i]] = changes[i+1]
	}
	return m
}

// network is the cluster's network: a transport that reaches a handler by the
// host of its URL, without a socket.
type network map[string]http.Handler

func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	h, ok := n[r.URL.Host]
	if !ok || h == nil {
		return nil, fmt.Errorf("no such host: %s", r.URL.Host)
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	in := r.Clone(r.Context())
	in.RequestURI, in.Host = r.URL.RequestURI(), r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, in)
	return w.Result(), nil
}

// gateway does what Kubeflow's gateway does: it asks the service as ext_authz
// with authn-filter's headers, then routes /dex/ to Dex and the rest to an
// application that tells which user it saw.
type gateway struct {
	check http.Handler
	dex   http.Handler
}

func (g gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	verdict := g.ask(r)
	if verdict.Code != http.StatusOK {
		for name, values := range verdict.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(verdict.Code)
		_, _ = w.Write(verdict.Body.Bytes())
		return
	}
	if user := verdict.Header().Values("kubeflow-userid"); user != nil { // allowed_upstream_headers: overwrites
		r.Header["Kubeflow-Userid"] = user
	}
	if strings.HasPrefix(r.URL.Path, "/dex/") {
		g.dex.ServeHTTP(w, r)
		return
	}
	_, _ = fmt.Fprintf(w, "%s saw %q", r.URL.RequestURI(), r.Header.Values("kubeflow-userid"))
}

// ask makes Envoy's check request. Envoy sends no body.
func (g gateway) ask(r *http.Request) *httptest.ResponseRecorder {
	check := httptest.NewRequest(r.Method, "/", nil)
	check.URL, check.RequestURI, check.Host = r.URL, r.RequestURI, r.Host
	for _, name := range []string{"Authorization", "Cookie", "X-Auth-Token"} {
		if values := r.Header.Values(name); values != nil {
			check.Header[name] = values
		}
	}
	check.Header.Set("Content-Length", "0")
	w := httptest.NewRecorder()
	g.check.ServeHTTP(w, check)
	return w
}

// newGateway runs service and dex behind a gateway on a real listener.
func newGateway(t *testing.T, service, dex http.Handler) string {
	t.Helper()
	server := httptest.NewServer(gateway{check: service, dex: dex})
	t.Cleanup(server.Close)
	return server.URL
}

// realDex runs Dex with Kubeflow's own configuration.
func realDex(t *testing.T) *idp.Server {
	t.Helper()
	text, err := os.ReadFile("../idp/testdata/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"OIDC_CLIENT_ID": clientID, "OIDC_CLIENT_SECRET": clientSecret}
	dex, err := idp.New(context.Background(), idp.Config{YAML: text, Env: func(n string) string { return env[n] }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dex.Close() })
	return dex
}

// newService makes a service that reaches dex by the cluster's name.
func newService(t *testing.T, dex http.Handler, c Config) *Service {
	t.Helper()
	if c.Settings == nil {
		c.Settings = kubeflow()
	}
	c.ClientID, c.ClientSecret = clientID, clientSecret
	c.HTTPClient = &http.Client{Transport: network{"dex.auth.svc.cluster.local:5556": dex}}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// browser is a client with a cookie jar that does not follow redirects by itself.
type browser struct {
	t    *testing.T
	base string
	*http.Client
}

func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, base, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
}

type reply struct {
	status   int
	location string
	body     string
	header   http.Header
	cookies  []*http.Cookie
}

// send requests target, which is a path or a whole URL of the gateway.
func (b *browser) send(method, target string, form url.Values, header http.Header) reply {
	b.t.Helper()
	if !strings.HasPrefix(target, "http") {
		target = b.base + target
	}
	req, err := http.NewRequest(method, target, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := b.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header.Get("Location"), string(body), res.Header, res.Cookies()}
}

func (b *browser) get(target string) reply { b.t.Helper(); return b.send("GET", target, nil, nil) }

// cookie is the value the jar sends to the gateway.
func (b *browser) cookie(name string) string {
	u, err := url.Parse(b.base)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// logBuffer is a log that tests search for secrets.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
