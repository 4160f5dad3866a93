package envoy

import (
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// direct is an action that answers without an upstream: a redirect or a direct
// response.
type direct struct {
	status   int
	body     string
	redirect *redirect
}

// redirect is envoy.config.route.v3.RedirectAction.
type redirect struct {
	scheme, host string
	path         string // replaces the path
	rewrite      rewrite
	stripQuery   bool
}

// compileDirect is the route's direct action, nil for a route with another one.
// The second result names what is not modelled.
func compileDirect(r *routev3.Route) (*direct, []string) {
	if d := r.GetDirectResponse(); d != nil {
		extra := append(fieldsBut(d, "status", "body"), fieldsBut(d.GetBody(), "inline_string", "inline_bytes")...)
		return &direct{status: int(d.Status), body: d.GetBody().GetInlineString() + string(d.GetBody().GetInlineBytes())}, extra
	}
	a := r.GetRedirect()
	if a == nil {
		return nil, nil
	}
	extra := fieldsBut(a, "https_redirect", "scheme_redirect", "host_redirect", "path_redirect", "prefix_rewrite", "response_code", "strip_query")
	c := &redirect{host: a.HostRedirect, path: a.GetPathRedirect(), scheme: a.GetSchemeRedirect(), stripQuery: a.StripQuery}
	if a.GetHttpsRedirect() {
		c.scheme = "https"
	}
	if p, ok := a.PathRewriteSpecifier.(*routev3.RedirectAction_PrefixRewrite); ok {
		c.rewrite = compileRewrite(r.Match, p.PrefixRewrite)
	}
	status := map[routev3.RedirectAction_RedirectResponseCode]int{
		routev3.RedirectAction_MOVED_PERMANENTLY: 301, routev3.RedirectAction_FOUND: 302, routev3.RedirectAction_SEE_OTHER: 303,
		routev3.RedirectAction_TEMPORARY_REDIRECT: 307, routev3.RedirectAction_PERMANENT_REDIRECT: 308,
	}[a.ResponseCode]
	return &direct{status: status, redirect: c}, extra
}

// reply is the router's answer for a direct action (Router::Filter::decodeHeaders).
func (d *direct) reply(s *stream, rt *route) *Outcome {
	if o := rt.incomplete(s); o != nil {
		return o
	}
	o := s.local(d.status, d.body, "direct_response")
	if d.redirect != nil {
		location, ok := d.redirect.location(s)
		if !ok {
			return unknown("a redirect of a host with a port, or of a path that is no longer the one the route matched")
		}
		o.Headers.Set("location", location)
	}
	for _, c := range []*headerChange{&rt.change, &rt.host.change, &s.routes.change} {
		if c.unmodelled != "" {
			return unknown(c.unmodelled)
		}
		c.response.Apply(&o.Headers)
	}
	s.trace.add(Step{Stage: "router", Text: "answers by itself", Object: rt.info.Object()})
	return o
}

// location is the redirect's target (RouteEntryImplBase::newUri). False: the host
// carries a port, which a change of scheme may take away.
func (r *redirect) location(s *stream) (string, bool) {
	scheme, host := s.scheme, s.authority
	if r.scheme != "" {
		scheme = r.scheme
	}
	if r.host != "" {
		host = r.host
	} else if scheme != s.scheme && strings.Contains(host, ":") {
		return "", false
	}
	path, query, hasQuery := strings.Cut(s.path, "?")
	switch {
	case strings.Contains(r.path, "?"): // takes the place of the query too, and is not stripped
		path, hasQuery = r.path, false
	case r.path != "":
		path = r.path
	case r.rewrite.to != "":
		rewritten, ok := r.rewrite.of(s.path)
		if !ok {
			return "", false
		}
		path, query, hasQuery = strings.Cut(rewritten, "?")
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if hasQuery && !r.stripQuery {
		path += "?" + query
	}
	return scheme + "://" + host + path, true
}
