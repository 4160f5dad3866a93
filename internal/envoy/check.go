package envoy

import (
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// check is the messages of one CheckRequest, allocated together.
type check struct {
	request             authv3.CheckRequest
	attributes          authv3.AttributeContext
	source, destination peer
	time                timestamppb.Timestamp
	req                 authv3.AttributeContext_Request
	http                authv3.AttributeContext_HttpRequest
	metadata            corev3.Metadata
	noRoute             corev3.Metadata
}

type peer struct {
	peer    authv3.AttributeContext_Peer
	address corev3.Address
	kind    corev3.Address_SocketAddress
	socket  corev3.SocketAddress
	port    corev3.SocketAddress_PortValue
}

func (p *peer) fill(address *addressText, of netip.AddrPort) *authv3.AttributeContext_Peer {
	p.port.PortValue = uint32(of.Port())
	p.socket.Address, p.socket.PortSpecifier = address.of(of.Addr()), &p.port
	p.kind.SocketAddress = &p.socket
	p.address.Address = &p.kind
	p.peer.Address = &p.address
	return &p.peer
}

// grpcCheck is the CheckRequest (CheckRequestUtils::createHttpCheck). Its size is
// what has arrived of the body, nothing yet.
func (f *extAuthz) grpcCheck(s *stream) *authv3.CheckRequest {
	headers := make(map[string]string, len(s.headers)+4)
	headers[":authority"], headers[":method"], headers[":path"], headers[":scheme"] = s.authority, s.method, s.path, s.scheme
	for i := range s.headers {
		h := &s.headers[i]
		if f.someHeaders && !matchesAny(f.allowed, h.Name) || matchesAny(f.disallowed, h.Name) {
			continue
		}
		if old, dup := headers[h.Name]; dup {
			headers[h.Name] = old + "," + h.Value
		} else {
			headers[h.Name] = h.Value
		}
	}
	for name, value := range headers {
		if !utf8.ValidString(value) {
			headers[name] = utf8Only(value)
		}
	}
	c := &check{}
	c.time.Seconds, c.time.Nanos = s.env.Now.Unix(), int32(s.env.Now.Nanosecond())
	c.http.Method, c.http.Headers, c.http.Path, c.http.Host = utf8Only(s.method), headers, utf8Only(s.path), utf8Only(s.authority)
	c.http.Scheme, c.http.Protocol = s.scheme, s.protocol
	c.req.Time, c.req.Http = &c.time, &c.http
	a := &c.attributes
	a.Source, a.Destination = c.source.fill(&s.peer, s.source), c.destination.fill(&s.own, s.destination)
	a.Request, a.MetadataContext, a.RouteMetadataContext = &c.req, &c.metadata, &c.noRoute
	for _, ns := range f.routeMeta {
		if ns == "istio" && s.route.info.Config != "" {
			a.RouteMetadataContext = s.route.metadataContext()
		}
	}
	for _, ns := range f.meta {
		if st := s.metadata.namespace(ns); st != nil {
			if c.metadata.FilterMetadata == nil {
				c.metadata.FilterMetadata = map[string]*structpb.Struct{}
			}
			c.metadata.FilterMetadata[ns] = st
		}
	}
	a.ContextExtensions = f.extensions(s)
	c.request.Attributes = a
	return &c.request
}

// extensions are what the levels of per-route configuration add to a check, nil
// for nothing. The least specific level comes first: what is more specific
// overwrites.
func (f *extAuthz) extensions(s *stream) map[string]string {
	var levels []map[string]string
	for level := range s.each {
		if per, ok := level[f.name].(*extauthzv3.ExtAuthzPerRoute); ok {
			levels = append(levels, per.GetCheckSettings().GetContextExtensions())
		}
	}
	var out map[string]string
	for _, extensions := range slices.Backward(levels) {
		for k, v := range extensions {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

// metadataContext is the route's metadata as a check carries it. It is made once
// and shared: nobody changes it.
func (rt *route) metadataContext() *corev3.Metadata {
	if m := rt.context.Load(); m != nil {
		return m
	}
	m := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		"istio": {Fields: map[string]*structpb.Value{"config": structpb.NewStringValue(rt.info.Config)}},
	}}
	rt.context.Store(m)
	return m
}

// utf8Only puts a ! in the place of every byte that is no part of UTF-8, which a
// check cannot hold (MessageUtil::sanitizeUtf8String; Envoy's release notes of
// 1.22.10).
func utf8Only(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 {
			b.WriteByte('!')
		} else {
			b.WriteString(text[i : i+n])
		}
		i += n
	}
	return b.String()
}
