package envoy

import (
	"strconv"
	"strings"
)

// Evaluate says what the proxy does with a request. The trace may be nil.
func (p *Proxy) Evaluate(req Request, env Env, trace *Trace) Outcome {
	return new(Scratch).Evaluate(p, req, env, trace)
}

func (l *listener) run(s *stream) *Outcome {
	if s.egress = l.conn.egress; s.egress && !s.choose() { // tracing looks at the route before any filter
		return unknown(s.unknown)
	}
	if l.routes.switches || l.off != 0 {
		if !s.choose() {
			return unknown(s.unknown)
		}
		s.off = 0
		for i, f := range l.filters {
			if s.switchedOff(f.name, l.off&(1<<i) != 0) {
				s.off |= 1 << i
			}
		}
	}
	if s.refused && s.choose() && s.route != nil {
		o := s.local(403, "", "upgrade_failed")
		if why := l.respond(s); why != nil {
			return why
		}
		return o
	}
	for i, f := range l.filters {
		s.at = i
		if s.off&(1<<i) != 0 {
			continue
		}
		o := f.decode(s)
		if o == nil {
			continue
		}
		if o.Kind == Local {
			if why := l.respond(s); why != nil {
				return why
			}
		}
		return o
	}
	return unknown("a filter chain without a router")
}

// router is envoy.filters.http.router.
type router struct {
	clusters   map[string]bool
	unmodelled []string
}

func (r router) decode(s *stream) *Outcome {
	if len(r.unmodelled) > 0 {
		return unknown(strings.Join(r.unmodelled, ", "))
	}
	if !s.choose() {
		return unknown(s.unknown)
	}
	if s.route == nil {
		s.reach("no route")
		return s.local(404, "", "route_not_found")
	}
	rt := s.route
	if len(rt.unmodelled) > 0 {
		return unknown(strings.Join(rt.unmodelled, ", "))
	}
	if rt.direct != nil {
		if rt.direct.redirect != nil {
			s.reach("redirected")
		} else {
			s.reach("answered")
		}
		return rt.direct.reply(s, rt)
	}
	if rt.action == nil {
		return unknown("an action of the route that is not a cluster")
	}
	if !r.clusters[s.cluster()] {
		s.reach("no cluster")
		return s.local(rt.action.notFound, "", "cluster_not_found")
	}
	if o := rt.incomplete(s); o != nil {
		return o
	}
	if why := s.listener.respond(s); why != nil {
		return why
	}
	s.reach("forwarded")
	return rt.forward(s)
}

// answer keeps an outcome in the stream's memory.
func (s *stream) answer(o Outcome) *Outcome {
	s.outcome = o
	return &s.outcome
}

func unknown(why string) *Outcome { return &Outcome{Kind: Unknown, Reason: why} }

// local is a reply Envoy makes by itself. To a gRPC request it is a 200 with
// the status in grpc-status (Http::Utility::sendLocalReply).
func (s *stream) local(status int, body, details string) *Outcome {
	return s.localGRPC(status, body, details, -1)
}

// localGRPC is local with a gRPC status of its own; below 0 it follows from HTTP's.
func (s *stream) localGRPC(status int, body, details string, grpc int) *Outcome {
	o := s.answer(Outcome{Kind: Local, Reason: details, Status: status, Body: body})
	if s.grpc() {
		if o.Status, o.Body = 200, ""; grpc < 0 {
			grpc = grpcStatus(status)
		}
		o.Headers = Headers{{"content-type", "application/grpc"}, {"grpc-status", strconv.Itoa(grpc)}}
		if s.protocol != "HTTP/2" {
			o.Headers.Add("content-length", "0")
		}
		if body != "" && s.method != "HEAD" {
			o.Headers.Add("grpc-message", body)
		}
		return s.byRoute(o)
	}
	if body != "" || s.protocol != "HTTP/2" {
		o.Headers.Add("content-length", strconv.Itoa(len(body)))
	}
	if body != "" {
		o.Headers.Add("content-type", "text/plain")
	}
	return s.byRoute(o)
}

// byRoute applies the header options of the route in force to a reply Envoy makes
// by itself, if the route leads to a cluster (FilterManager::sendLocalReply).
func (s *stream) byRoute(o *Outcome) *Outcome {
	if !s.chosen || s.route == nil || s.route.action == nil {
		return o
	}
	for _, c := range [...]*headerChange{&s.branch.change, &s.route.change, &s.route.host.change, &s.routes.change} {
		if c.unmodelled != "" {
			return unknown(c.unmodelled)
		}
		c.response.Apply(&o.Headers)
	}
	return o
}

// grpc is whether the request is gRPC (Grpc::Common::hasGrpcContentType).
func (s *stream) grpc() bool {
	ct, _ := s.headers.Get("content-type")
	return s.path != "" && (ct == "application/grpc" || strings.HasPrefix(ct, "application/grpc+") || strings.HasPrefix(ct, "application/grpc;"))
}

// grpcStatus is the mapping of https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md,
// as Envoy's Grpc::Utility::httpToGrpcStatus has it.
func grpcStatus(http int) int {
	switch http {
	case 400:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 12 // UNIMPLEMENTED
	case 429, 502, 503, 504:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}
