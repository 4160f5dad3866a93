package envoy

import (
	"fmt"
	"regexp"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// action is a RouteAction that leads to one cluster, or to one of several.
type action struct {
	clusters    []branch // one, or those among which the weight decides
	total       uint64   // of the weights
	hostRewrite string
	rewrite     rewrite
	regex       *regexp.Regexp // what it matches of the path is replaced by substitute
	substitute  string
	mirrors     []string
	timeouts    timeouts
	notFound    int // the status where the cluster is not there
}

// branch is a cluster of an action, with what a weighted one has of its own.
type branch struct {
	Share
	hostRewrite string
	change      headerChange
	perFilter   perFilter
}

// Share is a cluster and its weight among those a route leads to.
type Share struct {
	Cluster string
	Weight  uint32
}

// compileAction also names what is not modelled.
func compileAction(r *routev3.Route, a *routev3.RouteAction) (*action, []string, error) {
	extra := fieldsBut(a, "cluster", "weighted_clusters", "host_rewrite_literal", "prefix_rewrite", "regex_rewrite", "timeout", "request_mirror_policies", "hash_policy", "cors", "priority",
		// one attempt is made; what a retry would answer is the upstream's matter
		"retry_policy", "max_grpc_timeout", "grpc_timeout_offset", "max_stream_duration", "cluster_not_found_response_code", "idle_timeout", "flush_timeout")
	c := &action{hostRewrite: a.GetHostRewriteLiteral(), rewrite: compileRewrite(r.Match, a.PrefixRewrite), timeouts: compileTimeouts(a)}
	c.notFound = map[routev3.RouteAction_ClusterNotFoundResponseCode]int{
		routev3.RouteAction_SERVICE_UNAVAILABLE: 503, routev3.RouteAction_NOT_FOUND: 404, routev3.RouteAction_INTERNAL_SERVER_ERROR: 500,
	}[a.ClusterNotFoundResponseCode]
	for _, p := range a.HashPolicy { // which endpoint: no answer of ours, but a cookie that is made
		if p.GetCookie().GetTtl() != nil {
			extra = append(extra, "RouteAction.hash_policy with a cookie that is made")
		}
	}
	if rw := a.RegexRewrite; rw != nil {
		re, err := regexp.Compile(latin1(rw.GetPattern().GetRegex()))
		if err != nil {
			return nil, nil, fmt.Errorf("regex_rewrite: %w", err)
		}
		text, ok := substitution(rw.Substitution, re.NumSubexp())
		if !ok {
			text = "${0}" // what is found stays
		}
		c.regex, c.substitute = re, text
	}
	for _, m := range a.RequestMirrorPolicies {
		extra = append(extra, fieldsBut(m, "cluster", "runtime_fraction", "trace_sampled", "disable_shadow_host_suffix_append")...)
		if m.RuntimeFraction == nil || chance(m.RuntimeFraction.GetDefaultValue()) != no {
			c.mirrors = append(c.mirrors, m.Cluster)
		}
	}
	w := a.GetWeightedClusters()
	if w == nil {
		c.clusters, c.total = []branch{{Share: Share{a.GetCluster(), 1}}}, 1
		return c, extra, nil
	}
	extra = append(extra, fieldsBut(w, "clusters", "total_weight", "runtime_key_prefix")...)
	for _, x := range w.Clusters {
		extra = append(extra, fieldsBut(x, "name", "weight", "host_rewrite_literal", "typed_per_filter_config",
			"request_headers_to_add", "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove")...)
		b := branch{Share: Share{x.Name, x.GetWeight().GetValue()}, hostRewrite: x.GetHostRewriteLiteral()}
		var err error
		if b.change, err = compileChange(x); err != nil {
			return nil, nil, err
		}
		if b.perFilter, err = compilePerFilter(x.TypedPerFilterConfig); err != nil {
			return nil, nil, err
		}
		if b.Weight > 0 {
			c.clusters = append(c.clusters, b)
		}
		c.total += uint64(b.Weight)
	}
	if c.total == 0 {
		return nil, nil, fmt.Errorf("weighted_clusters: the sum of the weights is 0")
	}
	return c, extra, nil
}

// substitution turns RE2's \1 into Go's ${1}. From an escape of anything but a digit or
// a backslash on the text is lost (RE2::Rewrite). False: it names a group that the
// pattern lacks, and nothing is replaced (RE2::GlobalReplace).
func substitution(s string, groups int) (string, bool) {
	var b strings.Builder
	lost := false
	write := func(text string) {
		if !lost {
			b.WriteString(text)
		}
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			write(strings.ReplaceAll(s[i:i+1], "$", "$$"))
			continue
		}
		switch i++; {
		case i < len(s) && '0' <= s[i] && s[i] <= '9':
			if int(s[i]-'0') > groups {
				return "", false
			}
			write("${" + s[i:i+1] + "}")
		case i < len(s) && s[i] == '\\':
			write(`\`)
		default:
			lost = true
		}
	}
	return latin1(b.String()), true
}

// pick is the cluster a random number chooses (WeightedClusterEntry).
func (a *action) pick(random uint64) *branch {
	n := random % a.total
	for i := range a.clusters {
		if w := uint64(a.clusters[i].Weight); n < w {
			return &a.clusters[i]
		} else {
			n -= w
		}
	}
	return &a.clusters[0]
}

// shares are the clusters of a route that leads to more than one.
func (a *action) shares() []Share {
	if len(a.clusters) < 2 {
		return nil
	}
	out := make([]Share, len(a.clusters))
	for i, b := range a.clusters {
		out[i] = b.Share
	}
	return out
}

// cluster is where the route in force leads.
func (s *stream) cluster() string { return s.branch.Cluster }

// forward finalises the request (RouteEntryImplBase::finalizeRequestHeaders).
func (rt *route) forward(s *stream) *Outcome {
	if rt.host.attempts {
		s.headers.Set("x-envoy-attempt-count", "1")
	}
	a, original := rt.action, s.authority
	var response ResponseChange
	for _, c := range [...]*headerChange{&s.branch.change, &rt.change, &rt.host.change, &s.routes.change} {
		if c.unmodelled != "" {
			return unknown(c.unmodelled)
		}
		c.request.Apply(&s.headers)
		response = append(response, c.response...)
	}
	for _, host := range [...]string{s.branch.hostRewrite, a.hostRewrite} {
		if host != "" {
			s.authority = host
			break
		}
	}
	if s.authority != original {
		s.headers.Set("x-envoy-original-host", original)
	}
	if !a.rewritePath(s) {
		return unknown("a rewrite of a path that is no longer the one the route matched")
	}
	timeout := a.timeouts.apply(s)
	if s.trace != nil {
		s.trace.add(Step{Stage: "router", Text: fmt.Sprintf("%s http://%s%s to %s", s.method, s.authority, s.path, s.cluster()), Object: rt.info.Object()})
	}
	if len(s.response) > 0 {
		response = append(response, s.response.outwards()...)
	}
	return s.answer(Outcome{Kind: Forward, Cluster: s.cluster(), Mirrors: a.mirrors, Timeout: timeout, Upgrade: s.upgrade, Response: response,
		Request: Upstream{Method: s.method, Authority: s.authority, Path: s.path, Headers: s.headers}})
}

// rewritePath replaces the matched prefix, or what a regex matches of the path
// without its query. What would become empty stays. False: a filter changed the path.
func (a *action) rewritePath(s *stream) bool {
	path, ok := "", true
	switch {
	case a.rewrite.to != "":
		path, ok = a.rewrite.of(s.path)
	case a.regex != nil:
		old, query, has := strings.Cut(s.path, "?")
		if path = narrow([]rune(a.regex.ReplaceAllString(latin1(old), a.substitute))); path != "" && has {
			path += "?" + query
		}
	}
	if path != "" {
		s.headers.Set("x-envoy-original-path", s.path)
		s.path = path
	}
	return ok
}

// rewrite replaces that part of a path which the route's match names.
type rewrite struct {
	to     string // "": nothing is replaced
	prefix string // what is replaced
	whole  bool   // the whole path without its query: a regex names no part
}

func compileRewrite(m *routev3.RouteMatch, to string) rewrite {
	return rewrite{to: to, prefix: m.GetPrefix() + m.GetPath() + m.GetPathSeparatedPrefix(), whole: m.GetSafeRegex() != nil}
}

// of rewrites a path with its query (RegexRouteEntryImpl::rewritePathHeader and its
// like). False: the path does not begin so.
func (r rewrite) of(path string) (string, bool) {
	n := len(r.prefix)
	if r.whole {
		if n = strings.IndexByte(path, '?'); n < 0 {
			n = len(path)
		}
	} else if n > len(path) || !strings.EqualFold(path[:n], r.prefix) {
		return "", false
	}
	if path[:n] == r.to {
		return path, true
	}
	return r.to + path[n:], true
}
