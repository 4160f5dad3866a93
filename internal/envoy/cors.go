package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// cors is envoy.filters.http.cors. It has no configuration of its own.
type cors struct{ name string }

// corsPolicy is a route's or a virtual host's.
type corsPolicy struct {
	origins                          []stringMatcher
	methods, headers, expose, maxAge string
	credentials, network, forward    bool
	enabled                          bool
	unmodelled                       string
}

// corsMessage is what the filter's policy and the routes' own older one share.
type corsMessage interface {
	GetAllowOriginStringMatch() []*matcherv3.StringMatcher
	GetAllowMethods() string
	GetAllowHeaders() string
	GetExposeHeaders() string
	GetMaxAge() string
	GetAllowCredentials() *wrapperspb.BoolValue
	GetAllowPrivateNetworkAccess() *wrapperspb.BoolValue
	GetForwardNotMatchingPreflights() *wrapperspb.BoolValue
	GetFilterEnabled() *corev3.RuntimeFractionalPercent
}

var (
	_ corsMessage = (*corsv3.CorsPolicy)(nil)
	_ corsMessage = (*routev3.CorsPolicy)(nil)
)

func compileCors(m corsMessage) (*corsPolicy, error) {
	c := &corsPolicy{methods: m.GetAllowMethods(), headers: m.GetAllowHeaders(), expose: m.GetExposeHeaders(), maxAge: m.GetMaxAge(), credentials: m.GetAllowCredentials().GetValue(),
		network: m.GetAllowPrivateNetworkAccess().GetValue(), forward: m.GetForwardNotMatchingPreflights() == nil || m.GetForwardNotMatchingPreflights().GetValue(), enabled: true}
	for _, o := range m.GetAllowOriginStringMatch() {
		sm, err := compileString(o)
		if err != nil {
			return nil, err
		}
		c.origins = append(c.origins, sm)
	}
	if p := m.GetFilterEnabled(); p != nil {
		switch chance(p.GetDefaultValue()) {
		case no:
			c.enabled = false
		case maybe:
			c.unmodelled = "a CORS policy that holds by chance"
		}
	}
	return c, nil
}

// chance is whether a share is none, all, or for dice to say.
func chance(p *typev3.FractionalPercent) truth {
	full := map[typev3.FractionalPercent_DenominatorType]uint32{typev3.FractionalPercent_HUNDRED: 100, typev3.FractionalPercent_TEN_THOUSAND: 10_000, typev3.FractionalPercent_MILLION: 1_000_000}[p.GetDenominator()]
	switch n := p.GetNumerator(); {
	case n == 0:
		return no
	case n >= full:
		return yes
	}
	return maybe
}

// decode answers a preflight whose origin is allowed, and marks the answer to any
// other request of such an origin (CorsFilter::decodeHeaders, encodeHeaders).
func (f cors) decode(s *stream) *Outcome {
	if !s.choose() {
		return unknown(s.unknown)
	}
	if s.route == nil || s.route.action == nil { // CorsFilter::decodeHeaders: a direct answer is none of its matter
		s.reach("no policy")
		return nil
	}
	var p *corsPolicy
	switch c := s.perRoute(f.name).(type) {
	case *corsPolicy:
		p = c
	case nil:
		if p = s.route.cors; p == nil {
			p = s.route.host.cors
		}
	default:
		return unknown("route configuration of filter " + f.name)
	}
	if p == nil || !p.enabled {
		s.reach("no policy")
		return nil
	}
	if p.unmodelled != "" {
		return unknown(p.unmodelled)
	}
	origin, _ := s.headers.Get("origin")
	if origin == "" {
		s.reach("no origin")
		return nil
	}
	allowed := no
	for i := range p.origins {
		m := &p.origins[i]
		// A literal star allows every origin.
		if m.unmodelled == "" && m.kind == textExact && m.pattern == "*" {
			allowed = yes
		}
		if allowed = max(allowed, m.test(s, origin)); allowed == yes {
			break
		}
	}
	if allowed == maybe {
		return unknown(s.unknown)
	}
	method, _ := s.headers.Get("access-control-request-method")
	preflight := s.method == "OPTIONS" && method != ""
	if allowed == no {
		if !preflight || p.forward {
			s.reach("origin not allowed")
			return nil
		}
		s.reach("preflight refused")
		return s.preflightAnswer(Headers{})
	}
	answer := Headers{{"access-control-allow-origin", origin}}
	if p.credentials {
		answer = append(answer, Header{"access-control-allow-credentials", "true"})
	}
	if p.expose != "" {
		answer = append(answer, Header{"access-control-expose-headers", p.expose})
	}
	if !preflight {
		s.reach("origin allowed")
		for _, h := range answer {
			s.answering(SetHeader, h.Name, h.Value)
		}
		return nil
	}
	s.reach("preflight answered")
	for _, h := range []Header{{"access-control-allow-methods", p.methods}, {"access-control-allow-headers", p.headers}, {"access-control-max-age", p.maxAge}} {
		if h.Value != "" {
			answer = append(answer, h)
		}
	}
	if asked, _ := s.headers.Get("access-control-request-private-network"); asked == "true" && p.network {
		answer = append(answer, Header{"access-control-allow-private-network", "true"})
	}
	s.trace.add(Step{Stage: f.name, Text: "answers the preflight", Object: s.route.info.Object()})
	return s.preflightAnswer(answer)
}

func (s *stream) preflightAnswer(headers Headers) *Outcome {
	if s.protocol != "HTTP/2" {
		headers = append(headers, Header{"content-length", "0"})
	}
	return s.answer(Outcome{Kind: Local, Reason: "cors_response", Status: 200, Headers: headers})
}
