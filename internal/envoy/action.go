package envoy

import (
	"fmt"
	"regexp"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// action is a RouteAction that leads to one cluster, or to one of several.
type action struct {
	clusters      []branch // one, or those among which the weight decides
	total         uint64   // of the weights
	hostRewrite   string
	prefix        string // the matched prefix, replaced by prefixRewrite
	prefixRewrite string
	regex         *regexp.Regexp // what it matches of the path is replaced by substitute
	substitute    string
	mirrors       []string
	timeouts      timeouts
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
	c := &action{hostRewrite: a.GetHostRewriteLiteral(), prefixRewrite: a.PrefixRewrite, timeouts: compileTimeouts(a),
		prefix: r.Match.GetPrefix() + r.Match.GetPath() + r.Match.GetPathSeparatedPrefix()}
	for _, p := range a.HashPolicy { // which endpoint: no answer of ours, but a cookie that is made
		if p.GetCookie().GetTtl() != nil {
			extra = append(extra, "RouteAction.hash_policy with a cookie that is made")
		}
	}
	if rw := a.RegexRewrite; rw != nil {
		re, err := regexp.Compile(rw.GetPattern().GetRegex())
		if err != nil {
			return nil, nil, fmt.Errorf("regex_rewrite: %w", err)
		}
		c.regex, c.substitute = re, substitution(rw.Substitution)
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

// substitution turns RE2's \1 into Go's ${1}.
func substitution(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '$':
			b.WriteString("$$")
		case c == '\\' && i+1 < len(s) && '0' <= s[i+1] && s[i+1] <= '9':
			i++
			b.WriteString("${" + s[i:i+1] + "}")
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
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
		c.request(s)
		response = c.response(response)
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
	a.rewritePath(s)
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
// without its query.
func (a *action) rewritePath(s *stream) {
	to, n := a.prefixRewrite, len(a.prefix)
	switch {
	case to != "":
		s.headers.Set("x-envoy-original-path", s.path)
		if s.path[:n] != to {
			s.path = to + s.path[n:]
		}
	case a.regex != nil:
		path, query, has := strings.Cut(s.path, "?")
		s.headers.Set("x-envoy-original-path", s.path)
		s.path = a.regex.ReplaceAllString(path, a.substitute)
		if has {
			s.path += "?" + query
		}
	}
}
