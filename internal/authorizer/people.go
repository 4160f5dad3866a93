package authorizer

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/territory"
)

// people asks the login that is there and passes on what it says.
//
// Of the request nothing changes that the login does not change, but for this:
// Postern's own headers are removed, and so are headers that name a caller and
// that the login did not set this time. Nobody but the login may name a person,
// and authservice lets some paths through without looking (its skipped prefixes,
// /dex): there a client's own kubeflow-userid would arrive with the gateway's
// trusted identity.
func (a *Authorizer) people(ctx context.Context, req Request, t territory.Territory) Verdict {
	if credential.HoldsKey(req.Headers) {
		return a.refuse(req, http.StatusForbidden, WrongDoor, "API keys open models and applications that a rule opens, not this")
	}
	if a.login.skips(req) {
		v := Verdict{Reason: LoginSkipped, How: ByLogin}
		v.Remove = a.strip.identity.names(req.Headers, nil)
		return a.allow(v)
	}
	said, err := a.login.request(ctx, req)
	if err != nil {
		return a.unasked(req, err)
	}
	if said.status != http.StatusOK {
		return a.loginRefuses(said)
	}
	v := Verdict{Reason: LoginAllowed, How: ByLogin}
	named := map[string]bool{}
	for _, name := range a.login.rules.ResponseHeaders {
		// As Envoy: each value takes the place of the one before.
		if values := said.header.Values(name); len(values) > 0 && !named[name] {
			value := values[len(values)-1]
			if !utf8.ValidString(value) { // a check's answer holds only UTF-8
				return a.unasked(req, errors.New("the login's answer has a header that is no UTF-8: "+name))
			}
			named[name] = true
			v.Set = append(v.Set, Header{name, value})
		}
	}
	if user := said.header.Get(a.login.rules.UserHeader); user != "" {
		v.Caller = access.Caller{User: user, Proven: true, Kind: access.Person}
	}
	v.Remove = a.strip.identity.names(req.Headers, v.Set)
	return a.allow(v)
}

// unasked is the refusal when the login gave no answer.
func (a *Authorizer) unasked(req Request, err error) Verdict {
	if errors.Is(err, errUnrepresentable) {
		v := a.refuse(req, http.StatusBadRequest, Unrepresentable, err.Error())
		v.cause = err
		return v
	}
	v := a.refuse(req, http.StatusServiceUnavailable, LoginUnavailable, "the login cannot be reached, try again")
	v.cause = err
	return v
}

// loginRefuses hands the login's answer to the client as it is: status, headers,
// body. What belongs to the connection between Postern and the login stays
// behind, and so does the length, which Envoy counts itself; and what the gateway
// did not pass on before (refusalHeaders).
func (a *Authorizer) loginRefuses(said answer) Verdict {
	v := Verdict{Reason: LoginRefused, How: ByLogin, Status: said.status, Body: said.body}
	drop := map[string]bool{
		"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Proxy-Authenticate": true, "Te": true,
		"Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Content-Length": true,
	}
	for _, list := range said.header.Values("Connection") {
		for name := range strings.SplitSeq(list, ",") {
			drop[http.CanonicalHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	for name, values := range said.header {
		if drop[name] || !a.login.passes(name) {
			continue
		}
		for _, value := range values {
			v.Headers = append(v.Headers, Header{strings.ToLower(name), value})
		}
	}
	sortHeaders(v.Headers)
	return v
}
