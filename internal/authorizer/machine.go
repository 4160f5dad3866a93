package authorizer

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/passport"
	"postern.dev/postern/internal/territory"
)

// identity is who calls and how that was found out.
type identity struct {
	caller  access.Caller
	how     string
	id      string            // public, of the credential
	shown   passport.Passport // what it was read from, where that was a passport
	note    string            // why a pod was not recognised
	second  bool              // the gateway's own second hop
	stale   bool              // whose address it is cannot be told now
	sibling bool              // a pod of the model itself
}

// called judges a call to a model or an application, and what a browser asks
// before it calls.
func (a *Authorizer) called(ctx context.Context, req Request, snap *Snapshot, t territory.Territory, inCluster bool) Verdict {
	second := inCluster && snap.Pods.Gateway(req.Source)
	if second { // browsers have been answered at the first hop
		return a.machine(ctx, req, snap, t, inCluster, second)
	}
	if v, ok := a.preflight(req, t); ok {
		return v
	}
	if v, ok := a.metadata(req, t); ok {
		return v
	}
	return crossOrigin(req, t, sandboxed(t, a.machine(ctx, req, snap, t, inCluster, second)))
}

// machine judges a call to a model or an application. second is whether it is the
// gateway's own second hop.
func (a *Authorizer) machine(ctx context.Context, req Request, snap *Snapshot, t territory.Territory, inCluster, second bool) Verdict {
	bound := snap.Rules.Bound(t.Resource)
	if !bound && t.Kind == territory.Application {
		// Nobody was given a rule: it stays where it was, behind login.
		return a.people(ctx, req, t)
	}
	if !bound {
		if v, ok := a.bearer(ctx, req, t, snap, inCluster, second); ok {
			return v
		}
	}
	id, err := a.identify(ctx, req, snap, t, inCluster, second)
	if err != nil {
		v := a.refuseCredential(req, t, inCluster, err)
		v.How, v.Credential = id.how, id.id
		return v
	}
	v := Verdict{Caller: id.caller, How: id.how, Credential: id.id, Resource: t.Resource}
	if !bound && id.stale {
		return a.unrecognised(req, t, id)
	}
	if !bound && !id.sibling {
		// The same for a model: a session that the login knows goes in, as it does
		// today. Everything else would be redirected today, which no program can
		// use; it is told so.
		if id.how != BySession && !(id.how == ByPassport && id.caller.Kind == access.Person) {
			return a.challenge(req, t, inCluster, id, LoginRequired, "no rule opens this model, it is behind login: log in, or have a RoleBinding made for you")
		}
		v.Reason = LoginAllowed
		return a.admit(req, t, v, id)
	}
	verb := id.caller.Verb(t.Resource)
	v.Decision = snap.Rules.May(id.caller, verb, t.Resource)
	if v.Decision.Allowed {
		v.Reason = Allowed
		return a.admit(req, t, v, id)
	}
	if id.sibling {
		v.Reason = Sibling
		return a.admit(req, t, v, id)
	}
	if id.caller.Proven {
		refused := a.refuse(req, http.StatusForbidden, NotAllowed, id.caller.User+" has no rule with the verb "+verb+" on "+t.Resource.String())
		refused.Caller, refused.How, refused.Credential, refused.Resource = id.caller, id.how, id.id, t.Resource
		return refused
	}
	if id.stale {
		return a.unrecognised(req, t, id)
	}
	if t.Kind == territory.Application && id.how == ByAnonymous && !id.second && navigation(req) {
		// A browser, perhaps with an old session's cookie: a person who can log in.
		return a.sendToLogin(ctx, req, t, inCluster, id, verb)
	}
	return a.challenge(req, t, inCluster, id, CredentialRequired, id.caller.User+" has no rule with the verb "+verb+" on "+t.Resource.String())
}

// unrecognised refuses who may be a pod with a rule, while that cannot be told.
func (a *Authorizer) unrecognised(req Request, t territory.Territory, id identity) Verdict {
	v := a.refuse(req, http.StatusServiceUnavailable, PodsStale, "it cannot be told now which pod calls, the API server is away: try again, or show a credential")
	v.Caller, v.How, v.Resource = id.caller, id.how, t.Resource
	return v
}

// identify finds the caller, in the order of the design. On the gateway's own
// second hop only a passport tells anything: the address is the gateway's, and a
// session there has come along a route that may have dropped Origin and
// Sec-Fetch-Site, by which another site's page is told from the person.
func (a *Authorizer) identify(ctx context.Context, req Request, snap *Snapshot, t territory.Territory, inCluster, second bool) (identity, error) {
	fresh := a.podsFresh()
	sibling := inCluster && !second && fresh && snap.Pods.Sibling(req.Source, t.Resource)
	if second || sibling {
		// One that a model was given counts for its own pods only: its owner, or who
		// reads its log, can have a route of theirs send it to the gateway's second hop.
		p, ok, err := credential.Passport(req.Headers, a.keys, passport.Audience{Resource: t.Resource, Hop: second}, a.now())
		if err != nil {
			return identity{}, err
		}
		if ok {
			return identity{caller: p.Caller, how: ByPassport, shown: p}, nil
		}
	}
	shown, ok, err := credential.Shown(req.Headers)
	switch {
	case err != nil:
		return identity{}, err
	case ok && second:
		return identity{}, &credential.Refusal{Reason: PassportRequired, Message: "on the gateway's own second hop only a passport counts"}
	case ok:
		return a.known(ctx, shown, snap)
	case second:
		return identity{caller: credential.Anonymous(), how: ByAnonymous, second: true, note: "from the gateway itself, without a passport"}, nil
	}
	c, ok, err := a.sessions.Caller(ctx, req.Headers)
	if err != nil {
		return identity{}, err
	}
	if ok {
		// An application's pages are visited from other sites' links; whether it
		// takes other sites' requests is its own affair, as it is behind login
		// today. A model has no pages.
		if t.Kind == territory.Model {
			if err := credential.SameSite(req.Headers, t.Origins); err != nil {
				return identity{}, err
			}
		}
		return identity{caller: c, how: BySession}, nil
	}
	note := "the door is not declared in-cluster"
	if inCluster && !fresh {
		return identity{caller: credential.Anonymous(), how: ByAnonymous, stale: true}, nil
	}
	if inCluster {
		pod, ok, why := snap.Pods.Caller(req.Source)
		if ok {
			return identity{caller: pod, how: ByPod, sibling: sibling}, nil
		}
		note = why
	}
	return identity{caller: credential.Anonymous(), how: ByAnonymous, note: note}, nil
}

// known judges what a program shows. What it was stays known when it is refused.
func (a *Authorizer) known(ctx context.Context, shown credential.Credential, snap *Snapshot) (id identity, err error) {
	if shown.Key {
		id.how = ByKey
		id.caller, id.id, err = snap.APIKeys.Caller(shown, a.now())
		return id, err
	}
	id.how = ByToken
	id.caller, id.id, err = a.tokens.Caller(ctx, shown, credential.Live{Pods: snap.Pods, Accounts: snap.Accounts})
	if id.caller.Kind == access.Account {
		id.how = ByAccount
	}
	return id, err
}

// bearer asks the login about a token for a model that nobody was given a rule
// for: where the login takes tokens (oauth2-proxy since Kubeflow 1.9), such a call
// goes on as it did. ok is false when the login does not know the token.
func (a *Authorizer) bearer(ctx context.Context, req Request, t territory.Territory, snap *Snapshot, inCluster, second bool) (Verdict, bool) {
	shown, ok, err := credential.Shown(req.Headers)
	if a.bearers == nil || !ok || err != nil || shown.Key || second {
		return Verdict{}, false
	}
	c, found, err := a.bearers.Caller(ctx, credential.Headers{"authorization": req.Headers["authorization"]})
	if r := (*credential.Refusal)(nil); errors.As(err, &r) && r.Unavailable {
		return a.refuseCredential(req, t, inCluster, err), true
	}
	if err != nil || !found {
		return Verdict{}, false
	}
	return a.admit(req, t, Verdict{Caller: c, How: ByLogin, Resource: t.Resource, Reason: LoginAllowed}, identity{caller: c}), true
}

// admit lets a call in: every credential and every header that names a caller
// goes, ours come instead.
//
// The header that Kubeflow's backends trust to name a person (kubeflow-userid;
// a profile's policy ns-owner-access-istio lets its owner's name in from the
// gateway) is set only for a person the login named. A pod's or nobody's name
// goes into x-postern-caller, which no policy of Kubeflow's reads: a policy must
// not come to hold for a caller who proved nothing because of how it is called.
func (a *Authorizer) admit(req Request, t territory.Territory, v Verdict, id identity) Verdict {
	token, err := a.passport(id, passport.Audience{Resource: v.Resource, Hop: t.Onward})
	if err != nil {
		refused := a.refuse(req, http.StatusServiceUnavailable, Internal, "internal error")
		refused.cause = err
		return refused
	}
	v.Set = append(slices.Grow(v.Set, 5), Header{callerHeader, id.caller.User}, Header{passportHeader, token})
	if id.caller.Kind == access.Person {
		v.Set = append(v.Set, Header{a.cfg.Identity.UserHeader, id.caller.User})
		if groups := a.cfg.Identity.GroupsHeader; groups != "" {
			v.Set = append(v.Set, Header{groups, strings.Join(peopleGroups(id.caller.Groups), ",")})
		}
	}
	if rest, removed := credential.WithoutCookies(req.Headers["cookie"], a.cfg.Login.Delegate.Cookies); removed {
		if rest == "" {
			v.Remove = append(v.Remove, "cookie")
		} else {
			v.Set = append(v.Set, Header{"cookie", rest})
		}
	}
	remove := a.strip.machine.names(req.Headers, v.Set)
	if len(v.Remove) > 0 { // the list may be a shared one
		remove = slices.Concat(v.Remove, remove)
		slices.Sort(remove)
	}
	v.Remove = remove
	return a.allow(v)
}

// passport is the one to go on with.
func (a *Authorizer) passport(id identity, to passport.Audience) (string, error) {
	if id.how == ByPassport {
		return a.keys.Renew(id.shown, to, a.now())
	}
	return a.keys.Mint(id.caller, to, a.now())
}

// peopleGroups are a person's own groups, without Kubernetes'.
func peopleGroups(groups []string) []string {
	var out []string
	for _, g := range groups {
		if g != access.AuthenticatedGroup {
			out = append(out, g)
		}
	}
	return out
}

// navigation tells whether a browser goes to a page.
func navigation(req Request) bool {
	return (req.Method == http.MethodGet || req.Method == http.MethodHead) && strings.Contains(strings.Join(req.Headers["accept"], ","), "text/html")
}

// sendToLogin gives a browser that shows nothing the login's own answer. It can
// only refuse: the login's 200 (for a path it does not look at) says nothing of
// this application, for which RBAC has just said no.
func (a *Authorizer) sendToLogin(ctx context.Context, req Request, t territory.Territory, inCluster bool, id identity, verb string) Verdict {
	said, err := a.login.request(ctx, req)
	switch {
	case err != nil:
		return a.unasked(req, err)
	case said.status == http.StatusOK:
		return a.challenge(req, t, inCluster, id, CredentialRequired, id.caller.User+" has no rule with the verb "+verb+" on "+t.Resource.String())
	}
	v := a.loginRefuses(said)
	v.Caller, v.Resource = id.caller, t.Resource
	return v
}

// refuseCredential answers a credential that is present and not good.
func (a *Authorizer) refuseCredential(req Request, t territory.Territory, inCluster bool, err error) Verdict {
	r := (*credential.Refusal)(nil)
	if !errors.As(err, &r) {
		v := a.refuse(req, http.StatusServiceUnavailable, Internal, "internal error")
		v.cause = err
		return v
	}
	status := http.StatusUnauthorized
	switch {
	case r.Unavailable:
		status = http.StatusServiceUnavailable
	case r.Forbidden:
		status = http.StatusForbidden
	}
	v := a.refuseWith(req, t, status, r.Reason, r.Message, a.accepts(inCluster))
	v.Resource, v.cause = t.Resource, err
	return v
}
