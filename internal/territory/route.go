package territory

import (
	"regexp"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// route is one alternative of a VirtualService's matches: what the path and the
// method must be. A nil function is no condition.
type route struct {
	path, method func(string) bool
	// literal is what the path begins with, when that ends with a slash or is all of
	// the path; empty when it is neither.
	literal string
	claim   *claim
}

// paths are the routes of a host whose VirtualServices are told apart by path and
// method. A host may serve thousands of models: those whose path begins in one way
// are found by that.
type paths struct {
	begin   map[string][]route // by literal
	longest int                // of the literals
	others  []route
	narrow  bool // no route takes every path
}

func newPaths(routes []route) *paths {
	p := &paths{begin: map[string][]route{}, narrow: len(routes) > 0}
	for _, r := range routes {
		p.narrow = p.narrow && r.path != nil
		if r.literal == "" {
			p.others = append(p.others, r)
			continue
		}
		p.begin[r.literal] = append(p.begin[r.literal], r)
		p.longest = max(p.longest, len(r.literal))
	}
	return p
}

// find is the one VirtualService that has a route for a path and a method; nil when
// there is none, or more than one.
func (p *paths) find(path, method string) (hit *claim) {
	several := false
	look := func(routes []route) {
		for _, r := range routes {
			if r.claim != hit && (r.path == nil || r.path(path)) && (r.method == nil || r.method(method)) {
				several = several || hit != nil
				hit = r.claim
			}
		}
	}
	look(p.others)
	for i := 0; i < len(path) && i < p.longest; i++ {
		if path[i] == '/' || i == len(path)-1 {
			look(p.begin[path[:i+1]])
		}
	}
	if several {
		return nil
	}
	return hit
}

// told compiles the matches of a host's VirtualServices at a door, if they look at
// nothing but path and method. Later filters can write any other header, and choose
// the route again.
func (c *compiler) told(host string, claims []*claim) (*paths, bool) {
	var all []route
	for _, cl := range claims {
		routes, ok := cl.told(host)
		if !ok {
			return nil, false
		}
		for _, r := range routes {
			r.claim = cl
			all = append(all, r)
		}
	}
	return newPaths(all), true
}

func (cl *claim) told(host string) (routes []route, ok bool) {
	for _, h := range cl.spec.GetHttp() {
		if h.GetDelegate() != nil {
			return nil, false
		}
		if len(h.GetMatch()) == 0 {
			routes = append(routes, route{})
		}
		for _, m := range h.GetMatch() {
			if in := gatewaysOf(m.GetGateways(), cl.namespace); len(m.GetGateways()) > 0 && !slices.ContainsFunc(in, func(g string) bool { return slices.Contains(cl.gateways, g) }) {
				continue // for another door
			}
			r, here, ok := cl.route(m, host)
			if !ok {
				return nil, false
			}
			if here {
				routes = append(routes, r)
			}
		}
	}
	return routes, true
}

// route reads one match. A model's looks at the authority, which the host decides,
// and net-istio's at a header, by which its prober is led to the same revision: both
// are what the controllers write, and lead to that model only. here is false for a
// match on another host.
func (cl *claim) route(m *networking.HTTPMatchRequest, host string) (r route, here, ok bool) {
	if cl.kind == Model {
		authority, ok := matcher(m.GetAuthority(), false)
		if !ok {
			return route{}, false, false
		}
		if authority != nil && !authority(host) {
			return route{}, false, true
		}
		m = &networking.HTTPMatchRequest{Uri: m.GetUri(), IgnoreUriCase: m.GetIgnoreUriCase()}
	}
	r, ok = pathOnly(m)
	return r, true, ok
}

func pathOnly(m *networking.HTTPMatchRequest) (route, bool) {
	if m.GetScheme() != nil || m.GetAuthority() != nil || len(m.GetHeaders()) > 0 || m.GetPort() != 0 || len(m.GetSourceLabels()) > 0 ||
		len(m.GetQueryParams()) > 0 || len(m.GetWithoutHeaders()) > 0 || m.GetSourceNamespace() != "" {
		return route{}, false
	}
	path, ok := matcher(m.GetUri(), m.GetIgnoreUriCase())
	if !ok {
		return route{}, false
	}
	method, ok := matcher(m.GetMethod(), false)
	return route{path: path, method: method, literal: literal(m)}, ok
}

// literal is what a match's path must begin with, where paths can be found by it.
func literal(m *networking.HTTPMatchRequest) string {
	if m.GetIgnoreUriCase() {
		return ""
	}
	if p := m.GetUri().GetPrefix(); strings.HasSuffix(p, "/") {
		return p
	}
	return m.GetUri().GetExact()
}

// matcher compiles a StringMatch. A regular expression is RE2 in Envoy as in Go
// and must match the whole text.
func matcher(s *networking.StringMatch, fold bool) (func(string) bool, bool) {
	norm := func(t string) string { return t }
	if fold {
		norm = strings.ToLower
	}
	switch m := s.GetMatchType().(type) {
	case nil:
		return nil, s == nil
	case *networking.StringMatch_Exact:
		return func(t string) bool { return norm(t) == norm(m.Exact) }, true
	case *networking.StringMatch_Prefix:
		return func(t string) bool { return strings.HasPrefix(norm(t), norm(m.Prefix)) }, true
	case *networking.StringMatch_Regex:
		if _, err := regexp.Compile(m.Regex); err != nil || fold {
			return nil, false // by itself first: "a)|(b" is none
		}
		re, err := regexp.Compile("^(?:" + m.Regex + ")$")
		if err != nil {
			return nil, false
		}
		return re.MatchString, true
	}
	return nil, false
}
