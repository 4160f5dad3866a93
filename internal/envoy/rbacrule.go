package envoy

import (
	"fmt"
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

func compilePermission(p *rbacconfigv3.Permission) (predicate, error) {
	switch r := p.Rule.(type) {
	case *rbacconfigv3.Permission_Any:
		return constant(r.Any), nil
	case *rbacconfigv3.Permission_AndRules:
		ps, err := each(r.AndRules.GetRules(), compilePermission)
		return allOf(ps), err
	case *rbacconfigv3.Permission_OrRules:
		ps, err := each(r.OrRules.GetRules(), compilePermission)
		return anyOf(ps), err
	case *rbacconfigv3.Permission_NotRule:
		inner, err := compilePermission(r.NotRule)
		return negated(inner), err
	case *rbacconfigv3.Permission_Header:
		return headerPredicate(r.Header)
	case *rbacconfigv3.Permission_UrlPath:
		return pathPredicate(r.UrlPath)
	case *rbacconfigv3.Permission_DestinationPort:
		return func(s *stream) truth { return truthOf(uint32(s.destination.Port()) == r.DestinationPort) }, nil
	case *rbacconfigv3.Permission_DestinationPortRange:
		if r.DestinationPortRange.GetStart() >= r.DestinationPortRange.GetEnd() {
			return nil, fmt.Errorf("destination_port_range from %d to %d", r.DestinationPortRange.GetStart(), r.DestinationPortRange.GetEnd())
		}
		return func(s *stream) truth {
			port := int32(s.destination.Port())
			return truthOf(r.DestinationPortRange.Start <= port && port < r.DestinationPortRange.End)
		}, nil
	case *rbacconfigv3.Permission_DestinationIp:
		return cidrPredicate(r.DestinationIp, func(s *stream) netip.Addr { return s.destination.Addr() })
	case *rbacconfigv3.Permission_RequestedServerName:
		m, err := compileString(r.RequestedServerName)
		return func(s *stream) truth { return m.test(s, "") }, err
	case *rbacconfigv3.Permission_UriTemplate:
		return templatePredicate(r.UriTemplate)
	case *rbacconfigv3.Permission_SourcedMetadata:
		if r.SourcedMetadata.GetMetadataSource() == rbacconfigv3.MetadataSource_DYNAMIC {
			return metadataPredicate(r.SourcedMetadata.GetMetadataMatcher())
		}
	case *rbacconfigv3.Permission_Metadata:
		return metadataPredicate(r.Metadata)
	}
	return cannotTell(fmt.Sprintf("RBAC %T", p.Rule)), nil
}

func compilePrincipal(p *rbacconfigv3.Principal) (predicate, error) {
	switch id := p.Identifier.(type) {
	case *rbacconfigv3.Principal_Any:
		return constant(id.Any), nil
	case *rbacconfigv3.Principal_AndIds:
		ps, err := each(id.AndIds.GetIds(), compilePrincipal)
		return allOf(ps), err
	case *rbacconfigv3.Principal_OrIds:
		ps, err := each(id.OrIds.GetIds(), compilePrincipal)
		return anyOf(ps), err
	case *rbacconfigv3.Principal_NotId:
		inner, err := compilePrincipal(id.NotId)
		return negated(inner), err
	case *rbacconfigv3.Principal_Authenticated_:
		return authenticated(id.Authenticated)
	case *rbacconfigv3.Principal_DirectRemoteIp:
		return cidrPredicate(id.DirectRemoteIp, func(s *stream) netip.Addr { return s.source.Addr() })
	case *rbacconfigv3.Principal_SourceIp: // deprecated, the peer
		return cidrPredicate(id.SourceIp, func(s *stream) netip.Addr { return s.source.Addr() }) //nolint:staticcheck // what old configurations have
	case *rbacconfigv3.Principal_RemoteIp:
		return cidrPredicate(id.RemoteIp, func(s *stream) netip.Addr { return s.remote })
	case *rbacconfigv3.Principal_SourcedMetadata:
		if id.SourcedMetadata.GetMetadataSource() == rbacconfigv3.MetadataSource_DYNAMIC {
			return metadataPredicate(id.SourcedMetadata.GetMetadataMatcher())
		}
	case *rbacconfigv3.Principal_Header:
		return headerPredicate(id.Header)
	case *rbacconfigv3.Principal_UrlPath:
		return pathPredicate(id.UrlPath)
	case *rbacconfigv3.Principal_Metadata:
		return metadataPredicate(id.Metadata)
	case *rbacconfigv3.Principal_FilterState:
		if m := id.FilterState.GetStringMatch(); m != nil && id.FilterState.GetKey() == "io.istio.peer_principal" {
			sm, err := compileString(m)
			return func(s *stream) truth { return s.peerIs(s.principal, sm) }, err
		}
	}
	return cannotTell(fmt.Sprintf("RBAC %T", p.Identifier)), nil
}

// authenticated matches the URI of the peer's certificate; without TLS nobody
// showed one (AuthenticatedMatcher::matches).
func authenticated(p *rbacconfigv3.Principal_Authenticated) (predicate, error) {
	if p.GetPrincipalName() == nil {
		return func(s *stream) truth { return truthOf(s.tls != nil && s.tls.Peer != "") }, nil
	}
	sm, err := compileString(p.GetPrincipalName())
	return func(s *stream) truth {
		if s.tls == nil {
			return no
		}
		return s.peerIs(s.tls.Peer, sm)
	}, err
}

func (s *stream) peerIs(peer string, m stringMatcher) truth {
	if peer == "" {
		return no
	}
	return m.test(s, peer)
}

func each[T any](in []T, compile func(T) (predicate, error)) ([]predicate, error) {
	out := make([]predicate, 0, len(in))
	for _, x := range in {
		p, err := compile(x)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func headerPredicate(m *routev3.HeaderMatcher) (predicate, error) {
	h, err := compileHeader(m)
	if err != nil {
		return nil, err
	}
	return h.test, nil
}

// pathPredicate looks at the path without its query (PathMatcher::match strips
// query and fragment).
func pathPredicate(m *matcherv3.PathMatcher) (predicate, error) {
	sm, err := compileString(m.GetPath())
	if err != nil {
		return nil, err
	}
	return func(s *stream) truth {
		path, _, _ := strings.Cut(s.path, "?")
		return sm.test(s, path)
	}, nil
}

func cidrPredicate(c *corev3.CidrRange, of func(*stream) netip.Addr) (predicate, error) {
	return ipPredicate(c.GetAddressPrefix(), c.GetPrefixLen().GetValue(), of)
}

// metadataPredicate matches a value of the stream's dynamic metadata. An absent
// value does not match.
func metadataPredicate(m *matcherv3.MetadataMatcher) (predicate, error) {
	path := make([]string, len(m.Path))
	for i, seg := range m.Path {
		path[i] = seg.GetKey()
	}
	value, err := compileValue(m.GetValue())
	if err != nil {
		return nil, err
	}
	return func(s *stream) truth {
		t := no
		switch v, known := s.metadata.at(m.Filter, path); {
		case !known:
			s.unknown, t = s.untold, maybe
		case v != nil:
			t = value(s, v)
		}
		if m.Filter == istioAuthn && s.istioAuthnSpeaks() {
			s.unknown = "what Istio's own filter istio_authn says of the caller, which Envoy does not have"
			t = maybe
		}
		if m.Invert {
			return t.not()
		}
		return t
	}, nil
}

// compileValue is envoy.type.matcher.v3.ValueMatcher.
func compileValue(m *matcherv3.ValueMatcher) (func(*stream, *structpb.Value) truth, error) {
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.ValueMatcher_StringMatch:
		sm, err := compileString(p.StringMatch)
		return func(s *stream, v *structpb.Value) truth {
			if _, ok := v.Kind.(*structpb.Value_StringValue); !ok {
				return no
			}
			return sm.test(s, v.GetStringValue())
		}, err
	case *matcherv3.ValueMatcher_PresentMatch:
		return func(*stream, *structpb.Value) truth { return truthOf(p.PresentMatch) }, nil
	case *matcherv3.ValueMatcher_NullMatch_:
		return func(_ *stream, v *structpb.Value) truth {
			_, null := v.Kind.(*structpb.Value_NullValue)
			return truthOf(null)
		}, nil
	case *matcherv3.ValueMatcher_BoolMatch:
		return func(_ *stream, v *structpb.Value) truth {
			b, ok := v.Kind.(*structpb.Value_BoolValue)
			return truthOf(ok && b.BoolValue == p.BoolMatch)
		}, nil
	case *matcherv3.ValueMatcher_OrMatch:
		var any []func(*stream, *structpb.Value) truth
		for _, x := range p.OrMatch.GetValueMatchers() {
			m, err := compileValue(x)
			if err != nil {
				return nil, err
			}
			any = append(any, m)
		}
		return func(s *stream, v *structpb.Value) truth {
			t := no
			for _, m := range any {
				t = max(t, m(s, v))
			}
			return t
		}, nil
	case *matcherv3.ValueMatcher_ListMatch:
		one, err := compileValue(p.ListMatch.GetOneOf())
		return func(s *stream, v *structpb.Value) truth {
			t := no
			for _, e := range v.GetListValue().GetValues() {
				t = max(t, one(s, e))
			}
			return t
		}, err
	}
	what := fmt.Sprintf("ValueMatcher %T", m.GetMatchPattern())
	return func(s *stream, _ *structpb.Value) truth {
		s.unknown = what
		return maybe
	}, nil
}
