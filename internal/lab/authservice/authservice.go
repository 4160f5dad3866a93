// Package authservice stands in the place of arrikto/oidc-authservice, the
// login of Kubeflow up to 1.8: an HTTP service that Envoy's ext_authz filter
// asks about every request. It reads the same ConfigMap and gives the same
// answers: 200 with kubeflow-userid for a session, otherwise a redirect to
// Dex, for everybody, curl included.
//
// It does not repeat what is unsafe in the original (commit 28c59ef, the image
// of Kubeflow 1.3 to 1.6): OPTIONS is judged like any other method (the
// original wraps its handlers in gorilla's CORS(), which answers OPTIONS with
// 200 by itself: main.go), logging out takes a POST, the login is bound to the
// browser that began it, with PKCE and a nonce, and every random value is from
// crypto/rand. Where the original is lax and Kubeflow depends on it, it is lax
// too, and the code says so (Service.skips).
//
// Envoy allows a request when, and only when, the answer is 200: every other
// answer goes to the client as it is, except 5xx, which Envoy's HTTP client
// for ext_authz takes for an error of the service (403 with an empty body
// unless status_on_error says otherwise).
package authservice

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

const (
	sessionCookie = "authservice_session" // handlers.go of 28c59ef
	tokenHeader   = "X-Auth-Token"        // holds a session's id: handlers.go of 28c59ef

	sessionLife = 24 * time.Hour // SESSION_MAX_AGE's default in 28c59ef; absolute
	maxSessions = 10_000
)

// Config says how people log in.
type Config struct {
	// Settings is the data of ConfigMap istio-system/oidc-authservice-parameters.
	// Required are OIDC_PROVIDER, OIDC_SCOPES and REDIRECT_URL; an unknown key
	// is an error.
	Settings map[string]string
	// ClientID and ClientSecret are those of Secret istio-system/oidc-authservice-client.
	ClientID, ClientSecret string
	// HTTPClient reaches the provider by the names of the cluster. If nil,
	// http.DefaultClient. Its answers are read up to a bound and its redirects
	// are not followed, whatever it says itself.
	HTTPClient *http.Client
	// Logger gets the causes of failed logins: never a token, a code or a
	// cookie. If nil, they are dropped.
	Logger *slog.Logger
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
}

// Service answers Envoy's checks. It keeps sessions and which logins have ended in
// memory, both bounded: when there are too many the oldest go. Of who has not
// logged in it keeps nothing.
type Service struct {
	settings settings
	provider *provider
	log      *slog.Logger
	sealer   sealer
	sessions *expiring[session]
	ended    *expiring[struct{}] // logins that have come back
}

// session is a person who has logged in.
type session struct {
	user string // the value of the user id header, prefix included
}

// New checks the configuration. It asks the provider nothing yet: Dex may
// start later.
func New(c Config) (*Service, error) {
	set, err := parseSettings(c.Settings)
	if err != nil {
		return nil, fmt.Errorf("authservice settings: %w", err)
	}
	if c.ClientID == "" || c.ClientSecret == "" {
		return nil, errors.New("authservice: want a client id and a client secret")
	}
	now := c.Now
	if now == nil {
		now = time.Now
	}
	logger := c.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	sealer, err := newSealer(now)
	if err != nil {
		return nil, fmt.Errorf("authservice: %w", err)
	}
	return &Service{
		settings: set,
		provider: newProvider(set, c.ClientID, c.ClientSecret, c.HTTPClient, now),
		log:      logger,
		sealer:   sealer,
		sessions: newExpiring[session](maxSessions, sessionLife, now),
		ended:    newExpiring[struct{}](maxEnded, loginLife, now),
	}, nil
}

// ServeHTTP judges one request: method, path with query, Host, and of the
// headers only authorization, cookie and x-auth-token (Kubeflow's EnvoyFilter
// authn-filter lets no other through). There never is a body.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a, err := s.judge(r)
	if err != nil {
		a = refusalOf(err)
		// The path without its query, which may hold a code.
		s.log.WarnContext(r.Context(), "refused", "method", r.Method, "path", r.URL.Path, "status", a.status, "cause", err)
	}
	a.write(w)
}

func (s *Service) judge(r *http.Request) (answer, error) {
	// First, and without Dex: Dex itself is behind the skipped prefix
	// (whitelistMiddleware, main.go of 28c59ef).
	if s.skips(r.URL.Path) {
		return allow(), nil
	}
	found, err := s.provider.discover(r.Context())
	if err != nil {
		return answer{}, refuse(http.StatusServiceUnavailable, "the identity provider cannot be reached, try again", err)
	}
	switch {
	case r.URL.Path == s.settings.callback && r.Method == http.MethodGet:
		return s.finishLogin(r, found)
	case r.URL.Path == "/logout" || r.URL.Path == "/authservice/logout":
		return s.logout(r)
	}
	if who, ok := s.sessionOf(r); ok {
		return allowUser(s.settings.userHeader, who.user), nil
	}
	return s.startLogin(r, found)
}

// skips tells whether nobody needs to be logged in for this path. The original
// compares bare prefixes of the decoded path (strings.HasPrefix(r.URL.Path,
// prefix) in whitelistMiddleware, main.go of 28c59ef): /dex skips /dexter as
// well, and nothing removes a kubeflow-userid which the client sent there.
// That is kept, as the story shows it. A path that names another one by . or ..
// (as %2e or behind %2f, where Envoy does not see them) is not skipped.
func (s *Service) skips(p string) bool {
	if hasDots(p) || strings.Contains(p, `\`) {
		return false
	}
	for _, prefix := range s.settings.skip {
		if strings.HasPrefix(p, prefix) {
			return true
		}
	}
	return false
}

// sessionOf finds the session a request belongs to. The cookie comes before
// the header: the original appends the header's value to the cookies and takes
// the first (handlers.go of 28c59ef).
func (s *Service) sessionOf(r *http.Request) (session, bool) {
	if c, err := r.Cookie(sessionCookie); err == nil {
		return s.sessions.get(keyOf(c.Value))
	}
	return s.sessions.get(keyOf(r.Header.Get(tokenHeader)))
}

// secretLen is the length of a secret's text.
const secretLen = 43

// secret is a new 256-bit random value, as text that fits cookies and URLs.
func secret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// key is the SHA-256 of a secret. Secrets are kept and looked up by it only, so
// that neither memory nor the time of a look-up tells one.
type key [sha256.Size]byte

func keyOf(secret string) key { return sha256.Sum256([]byte(secret)) }

func cookie(name, value string, life time.Duration) *http.Cookie {
	c := &http.Cookie{
		Name: name, Value: value, Path: "/",
		MaxAge: int(life / time.Second),
		// Neither Secure nor a __Host- name: the gateway speaks plain http,
		// where Safari refuses both even on localhost.
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
	}
	if life <= 0 {
		c.MaxAge = -1
	}
	return c
}

// waitAtMost bounds a call to the provider, and keeps it going when the client
// that happened to cause it goes away.
func waitAtMost(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}
