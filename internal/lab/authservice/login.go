package authservice

import (
	"crypto/subtle"
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
	maxLogins   = 4096
)

// login is a login that has begun: somebody was sent to the provider and has
// not come back.
type login struct {
	browser  key    // of the state cookie's value
	nonce    string // must be in the ID token
	verifier string // PKCE
	returnTo string // a returnPath
}

func (l login) of(browser key) bool {
	return subtle.ConstantTimeCompare(l.browser[:], browser[:]) == 1
}

// startLogin sends the client to the provider. The state in the URL names the
// record kept here; the cookie, which is in no URL, binds it to this browser.
func (s *Service) startLogin(r *http.Request, d *discovered) (answer, error) {
	browser, err := s.browser(r)
	if err != nil {
		return answer{}, err
	}
	var state string
	l := login{browser: keyOf(browser), returnTo: returnPath(r.URL.RequestURI())}
	for _, to := range []*string{&state, &l.nonce, &l.verifier} {
		if *to, err = s.secret(); err != nil {
			return answer{}, err
		}
	}
	s.logins.put(keyOf(state), l)
	// With a relative OIDC_AUTH_URL this is relative: the browser stays on the
	// host it asked, which serves Dex and the callback too.
	location := d.oauth.AuthCodeURL(state, oidc.Nonce(l.nonce), oauth2.S256ChallengeOption(l.verifier))
	return redirect(http.StatusFound, location, cookie(stateCookie, browser, loginLife)), nil
}

// browser is the state cookie's value for this browser: a new one, or that of
// a login it has under way. A page loads more than itself, and people have
// more than one tab: a new cookie for each would undo the login before it.
func (s *Service) browser(r *http.Request) (string, error) {
	if c, err := r.Cookie(stateCookie); err == nil && s.underWay(keyOf(c.Value)) {
		return c.Value, nil
	}
	return s.secret()
}

func (s *Service) underWay(browser key) bool {
	return s.logins.any(func(l login) bool { return l.of(browser) })
}

// finishLogin is the callback: the browser brings the code. Every failure
// leaves it without a session.
func (s *Service) finishLogin(r *http.Request, d *discovered) (answer, error) {
	l, browser, err := s.pending(r)
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
	id, err := s.secret()
	if err != nil {
		return answer{}, err
	}
	s.sessions.put(keyOf(id), session{user: s.settings.userPrefix + user})
	if old, err := r.Cookie(sessionCookie); err == nil {
		s.sessions.remove(keyOf(old.Value)) // replaced by the new one in this browser
	}
	cookies := []*http.Cookie{cookie(sessionCookie, id, sessionLife)}
	if !s.underWay(browser) {
		cookies = append(cookies, cookie(stateCookie, "", 0))
	}
	return redirect(http.StatusFound, l.returnTo, cookies...), nil
}

// pending takes the login that this callback ends, once. A state that another
// browser began stays where it is: who merely saw it cannot end it either.
func (s *Service) pending(r *http.Request) (login, key, error) {
	const hint = "; go to / to log in again"
	state, err := one(r.URL.Query(), "state")
	if err != nil {
		return login{}, key{}, refuse(http.StatusBadRequest, "this is not the end of a login"+hint, err)
	}
	c, err := r.Cookie(stateCookie)
	if err != nil {
		return login{}, key{}, refuse(http.StatusBadRequest, "this browser has not begun this login, or it took longer than 20 minutes"+hint, errors.New("no state cookie"))
	}
	browser := keyOf(c.Value)
	l, ok := s.logins.take(keyOf(state), func(l login) bool { return l.of(browser) })
	if !ok {
		return login{}, key{}, refuse(http.StatusBadRequest, "this login is not known, has ended, or took longer than 20 minutes"+hint, errors.New("no such login of this browser"))
	}
	return l, browser, nil
}

// one is the value of a parameter that must be there once.
func one(query url.Values, name string) (string, error) {
	if values := query[name]; len(values) == 1 && values[0] != "" {
		return values[0], nil
	}
	return "", errors.New("want one parameter " + name)
}
