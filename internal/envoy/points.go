package envoy

import (
	"fmt"
	"slices"

	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/proto"
)

// Point is something a request can reach on its way through a listener: an
// outcome of a filter, or a policy of an RBAC filter that matches. Tests measure
// by points how much of a configuration their requests have tried.
type Point struct {
	Port   uint16
	Filter string // the filter's place and name, "2 envoy.filters.http.rbac"
	Policy bool   // Text is the name of a policy that matched
	Text   string
}

// pointer is a filter that knows its points on a listener.
type pointer interface {
	points(l *listener) []Point
}

// Points are the points of all listeners. What a single listener's
// configuration rules out is left out: a policy behind one that matches
// everything, a missing route where some route matches whatever comes.
func (p *Proxy) Points() []Point {
	var out []Point
	for port, l := range p.each {
		for i, f := range l.filters {
			at, ok := f.filter.(pointer)
			if !ok || l.off&(1<<i) != 0 && !l.routes.configured(f.name) { // off, and nobody switches it on
				continue
			}
			for _, pt := range at.points(l) {
				pt.Port, pt.Filter = port, l.place(i)
				out = append(out, pt)
			}
		}
	}
	return out
}

func (l *listener) place(i int) string { return fmt.Sprintf("%d %s", i, l.filters[i].name) }

// reach notes an outcome of the filter that is being run.
func (s *stream) reach(text string) { s.reached(text, false) }

func (s *stream) reached(text string, policy bool) {
	if s.trace != nil {
		s.trace.Points = append(s.trace.Points, Point{Port: s.destination.Port(), Filter: s.listener.place(s.at), Policy: policy, Text: text})
	}
}

func outcomes(texts ...string) []Point {
	out := make([]Point, len(texts))
	for i, t := range texts {
		out[i].Text = t
	}
	return out
}

// total is whether every request finds a route.
func (t *routeTable) total() bool {
	if t.any == nil {
		return false
	}
	for _, vh := range t.hosts() {
		if !vh.total() {
			return false
		}
	}
	return true
}

func (vh *virtualHost) total() bool {
	for _, r := range vh.routes {
		if m := &r.matches; m.text == "prefix /" && len(m.headers)+len(m.query)+len(m.unmodelled) == 0 {
			return true
		}
	}
	return false
}

// configured is whether a route or virtual host has per-route configuration
// for a filter.
func (t *routeTable) configured(filter string) bool {
	for _, vh := range t.hosts() {
		if vh.perFilter[filter] != nil {
			return true
		}
		for _, r := range vh.routes {
			if r.perFilter[filter] != nil {
				return true
			}
		}
	}
	return false
}

func (f *extAuthz) points(l *listener) []Point {
	out := outcomes("allowed", "refused", "failed")
	if !l.routes.total() {
		out = append(out, outcomes("no route")...)
	}
	if l.routes.configured(f.name) {
		out = append(out, outcomes("disabled by the route")...)
	}
	if f.enabled != nil && !l.shadowsAll() {
		out = append(out, outcomes("not enabled")...)
	}
	return out
}

// shadowsAll is whether a shadow policy matches whatever comes.
func (l *listener) shadowsAll() bool {
	return slices.ContainsFunc(l.filters, func(f named) bool {
		r, ok := f.filter.(*rbacFilter)
		return ok && r.shadow != nil && slices.ContainsFunc(r.shadow.policies, func(p policy) bool { return p.matches == yes })
	})
}

func (f *rbacFilter) points(*listener) []Point {
	return append(f.shadow.points("shadow "), f.rules.points("")...)
}

// whatever is whether a permission or a principal matches whatever comes, nothing, or
// what it looks at decides. The two are built alike, under names of their own.
func whatever(m proto.Message) truth {
	r := m.ProtoReflect()
	f := r.WhichOneof(r.Descriptor().Oneofs().Get(0))
	if f == nil {
		return maybe
	}
	value := r.Get(f)
	each := func(start truth, join func(truth, truth) truth) truth {
		inner := value.Message() // a Set
		list := inner.Get(inner.Descriptor().Fields().Get(0)).List()
		for i := range list.Len() {
			start = join(start, whatever(list.Get(i).Message().Interface()))
		}
		return start
	}
	switch f.Name() {
	case "any":
		return truthOf(value.Bool())
	case "and_rules", "and_ids":
		return each(yes, func(a, b truth) truth { return min(a, b) })
	case "or_rules", "or_ids":
		return each(no, func(a, b truth) truth { return max(a, b) })
	case "not_rule", "not_id":
		return whatever(value.Message().Interface()).not()
	}
	return maybe
}

// always is that for a policy.
func always(p *rbacconfigv3.Policy) truth {
	permitted, principal := no, no
	for _, x := range p.Permissions {
		permitted = max(permitted, whatever(x))
	}
	for _, x := range p.Principals {
		principal = max(principal, whatever(x))
	}
	return min(permitted, principal)
}

// points are the policies up to the first that matches everything, and "none"
// unless there is such a one.
func (set *policySet) points(prefix string) []Point {
	if set == nil {
		return nil
	}
	var out []Point
	for _, p := range set.policies {
		if p.matches != no {
			out = append(out, Point{Policy: true, Text: prefix + p.name})
		}
		if p.matches == yes {
			return out
		}
	}
	return append(out, outcomes(prefix+"none")...)
}

// reach notes what matching the set came to.
func (set *policySet) reach(s *stream, prefix, name string, t truth) {
	switch {
	case s.trace == nil: // without making the text
	case t == yes:
		s.reached(prefix+name, true)
	default:
		s.reach(prefix + "none")
	}
}

func (f *jwtAuthn) points(*listener) []Point {
	var out []Point
	if f.bypassPreflight {
		out = outcomes("preflight")
	}
	if len(f.providers) == 0 {
		return out
	}
	out = append(out, outcomes("token accepted")...)
	can := map[jwtStatus]bool{jwtBadFormat: true, jwtUnknownIssuer: true, jwtExpired: true, jwtNotYetValid: true, jwtBadSignature: true}
	for _, p := range f.providers {
		can[jwtAudience] = can[jwtAudience] || len(p.audiences) > 0
		can[jwtNoKey] = can[jwtNoKey] || !slices.ContainsFunc(p.keys, func(k jose.JSONWebKey) bool { return k.KeyID == "" && k.Algorithm == "" })
	}
	for _, r := range []jwtStatus{jwtBadFormat, jwtUnknownIssuer, jwtExpired, jwtNotYetValid, jwtBadSignature, jwtAudience, jwtNoKey} {
		if can[r] {
			out = append(out, outcomes(string(r))...)
		}
	}
	return out
}

func (f cors) points(l *listener) []Point {
	policy := l.routes.configured(f.name)
	for _, vh := range l.routes.hosts() {
		policy = policy || vh.cors != nil || slices.ContainsFunc(vh.routes, func(r *route) bool { return r.cors != nil })
	}
	if !policy {
		return outcomes("no policy")
	}
	return outcomes("no policy", "no origin", "origin not allowed", "origin allowed", "preflight answered")
}

func (f fault) points(l *listener) []Point {
	if f.abort != no || l.routes.configured(f.name) {
		return outcomes("none", "aborted")
	}
	return outcomes("none")
}

func (f *headerMutation) points(*listener) []Point { return outcomes("headers changed") }

func (f forwardedHost) points(*listener) []Point { return outcomes("header added") }

func (r router) points(l *listener) []Point {
	seen := map[string]bool{"no route": !l.routes.total()}
	for _, vh := range l.routes.hosts() {
		for _, rt := range vh.routes {
			switch {
			case rt.direct != nil && rt.direct.redirect != nil:
				seen["redirected"] = true
			case rt.direct != nil:
				seen["answered"] = true
			case rt.action != nil && r.clusters[rt.action.clusters[0].Cluster]:
				seen["forwarded"] = true
			case rt.action != nil:
				seen["no cluster"] = true
			}
		}
	}
	var out []Point
	for _, text := range []string{"no route", "redirected", "answered", "forwarded", "no cluster"} {
		if seen[text] {
			out = append(out, outcomes(text)...)
		}
	}
	return out
}
