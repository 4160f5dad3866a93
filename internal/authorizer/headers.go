package authorizer

import (
	"slices"
	"strings"

	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/passport"
)

const (
	passportHeader = passport.Header
	callerHeader   = "x-postern-caller"
)

// stripper knows the headers that must not reach a backend. Envoy removes by
// exact name, so the list is made from the names the request has; a backend may
// read kubeflow_userid as kubeflow-userid (WSGI and CGI do), so _ counts as -.
type stripper struct {
	identity *patterns // headers that name a caller
	machine  *patterns // those, and headers that hold a credential
}

type patterns struct {
	exact    map[string]bool
	prefixes []string
	always   []string        // removed even when the check does not show them, sorted
	listed   map[string]bool // the members of always
	first    [256]bool       // what a name that matches begins with
	usual    []without       // what remains of always for what admit sets
}

func newStripper(cfg Config) stripper {
	identity := append([]string{}, cfg.Identity.Headers...)
	for _, h := range []string{cfg.Login.Delegate.UserHeader, cfg.Login.Delegate.GroupsHeader, cfg.Identity.UserHeader, cfg.Identity.GroupsHeader} {
		if h != "" {
			identity = append(identity, h)
		}
	}
	secrets := []string{"authorization", "x-api-key", "x-auth-token"}
	for _, h := range cfg.Login.Delegate.RequestHeaders {
		if holdsSecret(strings.ToLower(h)) {
			secrets = append(secrets, h)
		}
	}
	s := stripper{identity: newPatterns(identity), machine: newPatterns(append(secrets, identity...))}
	s.machine.expect(callerHeader, passportHeader, cfg.Identity.UserHeader, cfg.Identity.GroupsHeader)
	s.machine.expect(callerHeader, passportHeader, cfg.Identity.UserHeader)
	s.machine.expect(callerHeader, passportHeader)
	return s
}

// looked are the headers that a verdict or its line depends on, beside those that are
// removed because of what they say and those that the login is asked with.
var looked = []string{
	"cookie", "origin", "sec-fetch-site", "access-control-request-method", "access-control-request-headers",
	"accept", "content-type", "connection", "traceparent", "tracestate", "x-forwarded-proto",
}

// Looks tells whether a request's header matters to Postern: a gateway that does not
// put it into its checks (ext_authz' disallowed_headers) would have it overlooked.
func (c Config) Looks(header string) bool {
	c = c.withDefaults()
	header = strings.ToLower(header)
	return newStripper(c).machine.match(header) || slices.Contains(looked, header) ||
		slices.Contains(c.Login.Delegate.RequestHeaders, header) || slices.Contains(c.Login.Delegate.Skip.Headers, header)
}

func newPatterns(names []string) *patterns {
	p := &patterns{exact: map[string]bool{}}
	for _, n := range names {
		n = dashed(n)
		if prefix, ok := strings.CutSuffix(n, "*"); ok {
			p.prefixes = append(p.prefixes, prefix)
			continue
		}
		if !p.exact[n] {
			p.exact[n] = true
			p.always = append(p.always, n)
		}
	}
	if !p.exact[passportHeader] {
		p.always = append(p.always, passportHeader)
	}
	slices.Sort(p.always)
	p.listed = map[string]bool{}
	for _, n := range p.always {
		p.listed[n] = true
	}
	for _, n := range append(slices.Clone(p.prefixes), p.always...) {
		switch {
		case n == "": // matches all
			for i := range p.first {
				p.first[i] = true
			}
		case n[0] == '-':
			p.first['_'] = true
			fallthrough
		default:
			p.first[n[0]], p.first[strings.ToUpper(n[:1])[0]] = true, true
		}
	}
	return p
}

func dashed(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }

func (p *patterns) match(name string) bool {
	if name == "" || !p.first[name[0]] {
		return false
	}
	name = dashed(name)
	if p.exact[name] {
		return true
	}
	for _, prefix := range p.prefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// nominated tells whether a client's Connection names one of the headers that say who
// calls. Of an upgrade Envoy passes Connection on (it removes what is named before any
// filter of other requests only), and a proxy before the model takes the named headers
// away, ours among them: net/http/httputil's does, which is Knative's queue-proxy.
func (s stripper) nominated(connection []string) bool {
	for _, list := range connection {
		for name := range strings.SplitSeq(list, ",") {
			if s.identity.match(strings.ToLower(strings.TrimSpace(name))) {
				return true
			}
		}
	}
	return false
}

// without is what remains of a list of names when some are set.
type without struct{ set, rest []string }

// expect makes ready for requests of which these headers, and perhaps others that
// are not removed, are set.
func (p *patterns) expect(set ...string) {
	set = lower(set)
	var rest []string
	for _, name := range p.always {
		if !slices.Contains(set, name) {
			rest = append(rest, name)
		}
	}
	p.usual = append(p.usual, without{set, rest})
}

// names are the headers to remove, sorted, each once, but for those that are set.
// The list may be a shared one.
func (p *patterns) names(h credential.Headers, set []Header) []string {
	out, shared := p.rest(set), true
	for name := range h {
		if p.match(name) && !p.listed[name] && !sets(set, name) {
			if shared {
				out, shared = append(make([]string, 0, len(out)+4), out...), false
			}
			out = append(out, name)
		}
	}
	if !shared {
		slices.Sort(out)
	}
	return out
}

// rest is what remains of always.
func (p *patterns) rest(set []Header) []string {
	if len(set) == 0 {
		return p.always
	}
	for _, u := range p.usual {
		if len(set) >= len(u.set) && slices.EqualFunc(set[:len(u.set)], u.set, func(h Header, name string) bool { return h.Name == name }) &&
			!slices.ContainsFunc(set[len(u.set):], func(h Header) bool { return p.listed[strings.ToLower(h.Name)] }) {
			return u.rest
		}
	}
	out := make([]string, 0, len(p.always))
	for _, name := range p.always {
		if !sets(set, name) {
			out = append(out, name)
		}
	}
	return out
}

// sets tells whether one of the headers has this name, which is in lower case.
func sets(list []Header, name string) bool {
	for _, h := range list {
		if len(h.Name) == len(name) && strings.EqualFold(h.Name, name) {
			return true
		}
	}
	return false
}
