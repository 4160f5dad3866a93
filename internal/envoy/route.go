package envoy

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// routeTable is a compiled RouteConfiguration.
type routeTable struct {
	name       string
	ignorePort bool
	exact      map[string]*virtualHost
	suffix     wildcards // "*.example.com"
	prefix     wildcards // "example.*"
	any        *virtualHost
	change     headerChange
	perFilter  perFilter
	switches   bool // some level switches a filter off
	unmodelled []string
}

// wildcards are hosts that begin or end with a star, by the rest of their text.
type wildcards struct {
	hosts   map[string]*virtualHost
	lengths []int // of those texts, longest first
}

// add keeps what came first: Envoy refuses a wildcard that is given twice.
func (w *wildcards) add(text string, vh *virtualHost) error {
	if w.hosts == nil {
		w.hosts = map[string]*virtualHost{}
	}
	if w.hosts[text] != nil {
		return fmt.Errorf("wildcard domain of %q given twice", text)
	}
	w.hosts[text] = vh
	at, found := slices.BinarySearchFunc(w.lengths, len(text), func(have, want int) int { return want - have })
	if !found {
		w.lengths = slices.Insert(w.lengths, at, len(text))
	}
	return nil
}

type virtualHost struct {
	name       string
	routes     []*route
	index      *routeIndex
	change     headerChange
	attempts   bool // include_request_attempt_count
	perFilter  perFilter
	cors       *corsPolicy
	unmodelled []string
}

// route is one compiled route of a virtual host.
type route struct {
	info      RouteInfo
	host      *virtualHost
	matches   routeMatch
	action    *action // nil: the action is a direct one, or not modelled
	direct    *direct
	change    headerChange
	decorator string
	context   atomic.Pointer[corev3.Metadata] // see metadataContext
	perFilter perFilter
	cors      *corsPolicy
	// unmodelled makes every answer through this route unknown.
	unmodelled []string
}

// compileRoutes compiles a route configuration. clusters are those there are, nil for
// any.
func compileRoutes(rc *routev3.RouteConfiguration, clusters map[string]bool) (*routeTable, error) {
	if err := validRoutes(rc); err != nil {
		return nil, err
	}
	t := &routeTable{name: rc.Name, ignorePort: rc.IgnorePortInHostMatching, exact: map[string]*virtualHost{}}
	t.unmodelled = fieldsBut(rc, "name", "virtual_hosts", "validate_clusters", "ignore_port_in_host_matching", "max_direct_response_body_size_bytes", "typed_per_filter_config",
		"request_headers_to_add", "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove")
	var err error
	if t.change, err = compileChange(rc); err != nil {
		return nil, err
	}
	if t.perFilter, err = compilePerFilter(rc.TypedPerFilterConfig); err != nil {
		return nil, err
	}
	for _, v := range rc.VirtualHosts {
		vh, err := compileVirtualHost(v, clusters)
		if err != nil {
			return nil, fmt.Errorf("virtual host %s: %w", v.Name, err)
		}
		for _, d := range v.Domains {
			if err := t.domain(strings.ToLower(d), vh); err != nil {
				return nil, fmt.Errorf("virtual host %s: %w", v.Name, err)
			}
		}
	}
	t.switches = t.anySwitch()
	return t, nil
}

func (t *routeTable) domain(d string, vh *virtualHost) error {
	switch {
	case d == "*":
		if t.any != nil {
			return fmt.Errorf("domain %q given twice", d)
		}
		t.any = vh
	case strings.HasPrefix(d, "*"):
		return t.suffix.add(d[1:], vh)
	case strings.HasSuffix(d, "*"):
		return t.prefix.add(d[:len(d)-1], vh)
	default:
		if t.exact[d] != nil {
			return fmt.Errorf("domain %q given twice", d)
		}
		t.exact[d] = vh
	}
	return nil
}

// virtualHost chooses by :authority: exact, then the longest suffix wildcard,
// then the longest prefix wildcard, then "*" (RouteMatcher::findVirtualHost).
func (t *routeTable) virtualHost(authority string) *virtualHost {
	host := lowerASCII(authority)
	if t.ignorePort {
		if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
			host = host[:i]
		}
	}
	if vh := t.exact[host]; vh != nil {
		return vh
	}
	for _, n := range t.suffix.lengths {
		if n < len(host) {
			if vh := t.suffix.hosts[host[len(host)-n:]]; vh != nil {
				return vh
			}
		}
	}
	for _, n := range t.prefix.lengths {
		if n < len(host) {
			if vh := t.prefix.hosts[host[:n]]; vh != nil {
				return vh
			}
		}
	}
	return t.any
}

func compileVirtualHost(v *routev3.VirtualHost, clusters map[string]bool) (*virtualHost, error) {
	vh := &virtualHost{name: v.Name, attempts: v.IncludeRequestAttemptCount}
	vh.unmodelled = fieldsBut(v, "name", "domains", "routes", "include_request_attempt_count", "typed_per_filter_config", "cors",
		"request_headers_to_add", "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove")
	var err error
	if vh.perFilter, err = compilePerFilter(v.TypedPerFilterConfig); err != nil {
		return nil, err
	}
	if v.Cors != nil { //nolint:staticcheck // what old Istio writes
		if vh.cors, err = compileCors(v.Cors); err != nil { //nolint:staticcheck // the same
			return nil, err
		}
	}
	if vh.change, err = compileChange(v); err != nil {
		return nil, err
	}
	together := make([]route, len(v.Routes)) // a request looks at several
	vh.routes = make([]*route, len(v.Routes))
	for i, r := range v.Routes {
		vh.routes[i] = &together[i]
		err := refused(r, clusters)
		if err == nil {
			err = compileRoute(r, vh, vh.routes[i])
		}
		if err != nil {
			return nil, fmt.Errorf("route %d: %w", i, err)
		}
	}
	vh.index = newRouteIndex(vh.routes)
	return vh, nil
}

func compileRoute(r *routev3.Route, vh *virtualHost, c *route) error {
	c.host, c.decorator = vh, r.Decorator.GetOperation()
	c.info = RouteInfo{VirtualHost: vh.name, Name: r.Name, Config: istioConfig(r.Metadata)}
	c.unmodelled = append(vh.unmodelled[:len(vh.unmodelled):len(vh.unmodelled)], fieldsBut(r, "name", "match", "route", "redirect", "direct_response", "metadata", "decorator", "typed_per_filter_config", "tracing", "stat_prefix",
		"request_headers_to_add", "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove")...)
	var err error
	if c.perFilter, err = compilePerFilter(r.TypedPerFilterConfig); err != nil {
		return err
	}
	if c.change, err = compileChange(r); err != nil {
		return err
	}
	if c.matches, err = compileMatch(r.Match); err != nil {
		return err
	}
	var extra []string
	c.direct, extra = compileDirect(r)
	c.unmodelled = append(c.unmodelled, extra...)
	if a := r.GetRoute(); a != nil {
		if c.action, extra, err = compileAction(r, a); err != nil {
			return err
		}
		c.unmodelled = append(c.unmodelled, extra...)
		if a.Cors != nil { //nolint:staticcheck // what old Istio writes
			c.cors, err = compileCors(a.Cors) //nolint:staticcheck // the same
		}
	}
	return err
}

// istioConfig reads what Istio writes into each route's metadata.
func istioConfig(m *corev3.Metadata) string {
	return m.GetFilterMetadata()["istio"].GetFields()["config"].GetStringValue()
}

// routeMatch is envoy.config.route.v3.RouteMatch.
type routeMatch struct {
	path       stringMatcher // on the path without its query
	headers    []headerMatcher
	query      []queryMatcher
	text       string
	unmodelled []string
}

type queryMatcher struct {
	name    string
	present bool
	value   stringMatcher
}

func compileMatch(m *routev3.RouteMatch) (routeMatch, error) {
	c := routeMatch{}
	c.unmodelled = fieldsBut(m, "prefix", "path", "safe_regex", "path_separated_prefix", "case_sensitive", "headers", "query_parameters")
	fold := m.CaseSensitive != nil && !m.CaseSensitive.Value
	switch p := m.PathSpecifier.(type) {
	case *routev3.RouteMatch_Prefix:
		c.path, c.text = text(textPrefix, p.Prefix, fold), "prefix "+p.Prefix
	case *routev3.RouteMatch_Path:
		c.path, c.text = text(textExact, p.Path, fold), "path "+p.Path
	case *routev3.RouteMatch_PathSeparatedPrefix:
		c.path, c.text = text(textSeparated, p.PathSeparatedPrefix, fold), "path-separated prefix "+p.PathSeparatedPrefix
	case *routev3.RouteMatch_SafeRegex:
		re, err := compileRegex(p.SafeRegex)
		if err != nil {
			return c, err
		}
		c.path, c.text = re, "regex "+p.SafeRegex.GetRegex()
	default: // left to unmodelled
		c.path = text(textPrefix, "", false)
	}
	if len(m.Headers) > 0 {
		c.headers = make([]headerMatcher, len(m.Headers))
	}
	for i, h := range m.Headers {
		var err error
		if c.headers[i], err = compileHeader(h); err != nil {
			return c, err
		}
	}
	return c, c.compileQuery(m)
}

func (c *routeMatch) compileQuery(m *routev3.RouteMatch) error {
	for _, q := range m.QueryParameters {
		qm := queryMatcher{name: q.Name}
		switch p := q.QueryParameterMatchSpecifier.(type) {
		case nil:
			qm.present = true
		case *routev3.QueryParameterMatcher_PresentMatch:
			qm.present = true
			if !p.PresentMatch {
				c.unmodelled = append(c.unmodelled, "QueryParameterMatcher.present_match=false")
			}
		case *routev3.QueryParameterMatcher_StringMatch:
			var err error
			if qm.value, err = compileString(p.StringMatch); err != nil {
				return fmt.Errorf("query parameter %s: %w", q.Name, err)
			}
		}
		c.query = append(c.query, qm)
	}
	return nil
}

// test is whether the route matches; maybe when something unmodelled decides.
func (m *routeMatch) test(s *stream) truth {
	path, query, _ := strings.Cut(s.path, "?")
	return m.testPath(s, path, query)
}

// testPath is test with the path and query of s.path told apart.
func (m *routeMatch) testPath(s *stream, path, query string) truth {
	if !m.path.match(path) {
		return no
	}
	result := yes
	for i := range m.headers {
		if result = min(result, m.headers[i].test(s)); result == no {
			return no
		}
	}
	for _, q := range m.query {
		result = min(result, q.test(s, query))
	}
	if result == yes && len(m.unmodelled) > 0 {
		s.unknown = strings.Join(m.unmodelled, ", ")
		return maybe
	}
	return result
}

// test looks at the first parameter of the name, not decoded
// (Http::Utility::QueryParamsMulti::getFirstValue over the raw query).
func (q queryMatcher) test(s *stream, query string) truth {
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name == q.name {
			if q.present {
				return yes
			}
			return q.value.test(s, value)
		}
	}
	return no
}

// choose fills the cached route if it is empty. False: the choice depends on
// something not modelled, and s.unknown names it.
func (s *stream) choose() bool {
	if s.chosen {
		return true
	}
	if len(s.routes.unmodelled) > 0 {
		s.unknown = strings.Join(s.routes.unmodelled, ", ")
		return false
	}
	s.route = nil
	if s.hostOf != s.authority || s.host == nil {
		s.host, s.hostOf = s.routes.virtualHost(s.authority), s.authority
	}
	if vh := s.host; vh != nil && s.path != "" && !s.protoless { // CONNECT has no path, and no route here is for it
		path, query, _ := strings.Cut(s.path, "?")
		r, t := vh.find(s, path, query)
		if t == maybe {
			s.unknown = fmt.Sprintf("whether a route of virtual host %s matches: %s", vh.name, s.unknown)
			return false
		}
		s.route = r
	}
	s.chosen = true
	if s.route != nil && s.route.action != nil {
		s.branch = s.route.action.pick(s.env.Random)
	}
	if s.egress && s.route != nil && s.route.decorator != "" {
		s.headers.Set("x-envoy-decorator-operation", s.route.decorator)
	}
	s.traceRoute()
	return true
}

// clearRoute makes the next filter that looks choose the route again.
func (s *stream) clearRoute() { s.chosen, s.route, s.branch = false, nil, nil }

func (s *stream) traceRoute() {
	if s.trace == nil {
		return
	}
	if s.route == nil {
		s.trace.add(Step{Stage: "route", Text: fmt.Sprintf("no route of %s matches host %q and path %s", s.routes.name, s.authority, s.path)})
		return
	}
	s.trace.add(Step{Stage: "route", Object: s.route.info.Object(), Rule: s.route.matches.text,
		Text: fmt.Sprintf("virtual host %s, %s", s.route.host.name, s.route.matches.text)})
}
