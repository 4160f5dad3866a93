package authservice

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	stateCookie = "oidc_state_csrf" // state.go of oidc-authservice e236439; 28c59ef has none
	loginLife   = 20 * time.Minute
	browserLife = time.Hour // of a state cookie's value; each login of it still has loginLife
	maxEnded    = 4096
)

// login is a login that has begun: somebody was sent to the provider and has
// not come back. It is not kept here: it travels, sealed, in the state.
type login struct {
	nonce    string // must be in the ID token
	verifier string // PKCE
	returnTo string // a returnPath
}

// startLogin sends the client to the provider. The state in the URL holds the
// login, sealed for this browser: only beside the cookie, which is in no URL, can
// it be opened.
func (s *Service) startLogin(r *http.Request, d *discovered) (answer, error) {
	browser := s.browser(r)
	l := login{nonce: secret(), verifier: secret(), returnTo: returnPath(r.URL.RequestURI())}
	state := s.sealer.seal(forBrowser(browser), loginLife, []byte(l.nonce+l.verifier+l.returnTo))
	// With a relative OIDC_AUTH_URL this is relative: the browser stays on the
	// host it asked, which serves Dex and the callback too.
	location := d.oauth.AuthCodeURL(state, oidc.Nonce(l.nonce), oauth2.S256ChallengeOption(l.verifier))
	return redirect(http.StatusFound, location, cookie(stateCookie, browser, loginLife)), nil
}

const asBrowser = "browser"

func forBrowser(browser string) string { return "login of " + browser }

// browser is the state cookie's value for this browser: a new one, or that of
// a login it may have under way. A page loads more than itself, and people have
// more than one tab: a new cookie for each would undo the login before it. A value
// that this process did not give out is not taken up.
func (s *Service) browser(r *http.Request) string {
	if c, err := r.Cookie(stateCookie); err == nil {
		if _, ok := s.sealer.open(asBrowser, c.Value); ok {
			return c.Value
		}
	}
	return s.sealer.seal(asBrowser, browserLife, nil)
}

// finishLogin is the callback: the browser brings the code. Every failure
// leaves it without a session.
func (s *Service) finishLogin(r *http.Request, d *discovered) (answer, error) {
	l, err := s.pending(r)
	if err != nil {
		// Back from the history, or a second tab: this browser is logged in.
		if _, ok := s.sessionOf(r); ok {
			return redirect(http.StatusFound, "/"), nil
		}
		return answer{}, err
	}
	code, err := one(r.URL.Query(), "code")
	if err != nil {
		// The provider's own words (error, error_description) come with the
		// URL, which anybody can write: they are not repeated.
		return answer{}, refuse(http.StatusForbidden, "the identity provider did not log you in", err)
	}
	user, err := s.provider.identify(r.Context(), d, code, l)
	if err != nil {
		return answer{}, err
	}
	id := secret()
	s.sessions.put(keyOf(id), session{user: s.settings.userPrefix + user})
	if old, err := r.Cookie(sessionCookie); err == nil {
		s.sessions.remove(keyOf(old.Value)) // replaced by the new one in this browser
	}
	return redirect(http.StatusFound, l.returnTo, cookie(sessionCookie, id, sessionLife)), nil
}

// pending opens the login that this callback ends, once. Where so many have ended
// that one is forgotten, its code is still good only once, which the provider sees to.
func (s *Service) pending(r *http.Request) (login, error) {
	const hint = "; go to / to log in again"
	state, err := one(r.URL.Query(), "state")
	if err != nil {
		return login{}, refuse(http.StatusBadRequest, "this is not the end of a login"+hint, err)
	}
	c, err := r.Cookie(stateCookie)
	if err != nil {
		return login{}, refuse(http.StatusBadRequest, "this browser has not begun this login, or it took longer than 20 minutes"+hint, errors.New("no state cookie"))
	}
	content, ok := s.sealer.open(forBrowser(c.Value), state)
	if !ok || len(content) < 2*secretLen || !s.ended.put(keyOf(string(content)), struct{}{}) {
		return login{}, refuse(http.StatusBadRequest, "this login is not known, has ended, or took longer than 20 minutes"+hint, errors.New("no such login of this browser"))
	}
	text := string(content)
	return login{nonce: text[:secretLen], verifier: text[secretLen : 2*secretLen], returnTo: text[2*secretLen:]}, nil
}

// one is the value of a parameter that must be there once.
func one(query url.Values, name string) (string, error) {
	if values := query[name]; len(values) == 1 && values[0] != "" {
		return values[0], nil
	}
	return "", errors.New("want one parameter " + name)
}
