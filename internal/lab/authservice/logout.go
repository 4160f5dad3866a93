package authservice

import (
	"net/http"
	"strings"
)

// logout ends the session on this side and expires the cookie.
//
// A 200 would be a yes to Envoy, and the request went on to an application:
// hence 201 for scripts, as in oidc-authservice e236439 ("returning a 200 will
// result in the request being proxied upstream", server.go), and 303 for forms,
// as in 28c59ef. That one logs out on GET /logout, so any page or link can do
// it; e236439 wants a POST with the session as a bearer token. Here: a POST with
// the session in a header, or from a page of the same origin.
func (s *Service) logout(r *http.Request) (answer, error) {
	if r.Method != http.MethodPost {
		a := respond(http.StatusMethodNotAllowed, "logging out takes a POST\n")
		a.header.Set("Allow", http.MethodPost)
		return a, nil
	}
	if id := headerSession(r.Header); id != "" {
		if !s.sessions.remove(keyOf(id)) {
			return answer{}, refuse(http.StatusUnauthorized, "no such session", nil)
		}
		a := respond(http.StatusCreated, `{"afterLogoutURL":"/"}`+"\n", cookie(sessionCookie, "", 0))
		a.header.Set("Content-Type", "application/json")
		return a, nil
	}
	// Kubeflow's authn-filter passes neither header that this looks at; then
	// SameSite=Lax on the cookie is what stops other sites: their POST comes without
	// it. Postern's check passes them (examples/story/4-postern).
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		return answer{}, refuse(http.StatusForbidden, "logging out from a page of another origin", err)
	}
	if c, err := r.Cookie(sessionCookie); err == nil {
		s.sessions.remove(keyOf(c.Value))
	}
	return redirect(http.StatusSeeOther, "/", cookie(sessionCookie, "", 0)), nil
}

// headerSession is the session's id where only a script that knows it can put it.
func headerSession(h http.Header) string {
	if scheme, value, ok := strings.Cut(h.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(value)
	}
	return h.Get(tokenHeader)
}
