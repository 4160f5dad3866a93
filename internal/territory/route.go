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
}

func (c *claim) matches(path, method string) bool {
	return slices.ContainsFunc(c.routes, func(r route) bool {
		return (r.path == nil || r.path(path)) && (r.method == nil || r.method(method))
	})
}

// told compiles a VirtualService's matches at a door, if they look at nothing
// but path and method. A model's look at the authority as well, which the host
// has already decided: it takes every path. Later filters can write any other
// header, and choose the route again.
func (c *compiler) told(cl *claim) (routes []route, ok bool) {
	if cl.kind == Model {
		for _, h := range cl.spec.GetHttp() {
			for _, m := range h.GetMatch() {
				if m.GetUri() != nil {
					return nil, false // path templates: not built yet
				}
			}
		}
		return []route{{}}, true
	}
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
			r, ok := pathOnly(m)
			if !ok {
				return nil, false
			}
			routes = append(routes, r)
		}
	}
	return routes, true
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
	return route{path: path, method: method}, ok
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
