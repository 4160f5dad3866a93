package envoy

import "net/netip"

// Scratch is memory that one evaluation leaves to the next, so that a request
// which is forwarded costs no allocation. It is for one evaluation at a time; the
// zero value is ready. Best kept per connection: it remembers the peer's address
// as text.
type Scratch struct{ stream stream }

// Evaluate is Proxy.Evaluate in this memory. The headers of the outcome and of a
// Check hold until the next evaluation with it.
func (sc *Scratch) Evaluate(p *Proxy, req Request, env Env, trace *Trace) Outcome {
	l, why := p.at(req.Destination)
	switch {
	case l == nil:
		return *unknown(why)
	case l.unknown != "":
		return *unknown("listener " + l.name + ": " + l.unknown)
	case l.inbound == nil && req.TLS != nil:
		return *unknown("listener " + l.name + ": TLS")
	}
	s := &sc.stream
	*s = stream{env: env, trace: trace, headers: s.headers[:0], metadata: s.metadata[:0], peer: s.peer, own: s.own,
		response: s.response[:0]}
	if l.inbound != nil {
		return l.evaluateInbound(req, s)
	}
	return l.serve(req, s)
}

// serve is the connection manager and what follows it.
func (l *listener) serve(req Request, s *stream) Outcome {
	s.listener, s.routes, s.off = l, l.routes, l.off
	o := l.conn.accept(req, s)
	if o == nil {
		o = l.run(s)
	} else if o.Kind == Local && o.Status != 0 && l.responds {
		s.chosen = true // no route yet
		if why := l.respond(s); why != nil {
			o = why
		}
	}
	if o.Kind == Local {
		if len(s.response) > 0 {
			s.response.outwards().Apply(&o.Headers)
		}
		o.Headers.Set("server", l.conn.serverName)
	}
	if s.chosen && s.route != nil {
		o.Route = &s.route.info
		if a := s.route.action; a != nil {
			o.Shares = a.shares()
		}
	}
	return *o
}

// addressText is an address and how it is written.
type addressText struct {
	addr netip.Addr
	text string
}

// of is the text of an address, without the IPv6 form of an IPv4 one.
func (a *addressText) of(addr netip.Addr) string {
	if addr = addr.Unmap(); a.text == "" || a.addr != addr {
		a.addr, a.text = addr, addr.String()
	}
	return a.text
}
