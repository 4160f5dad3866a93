package envoy

import (
	"strings"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// ofTheProxyInFront are the internal headers that a request from another proxy
// keeps: cleanInternalHeaders with edge_request=false.
var ofTheProxyInFront = map[string]bool{
	"x-envoy-decorator-operation": true, "x-envoy-downstream-service-cluster": true, "x-envoy-downstream-service-node": true,
	"x-envoy-original-path": true, "x-envoy-original-host": true,
}

// behindProxy is what a connection manager with use_remote_address=false, as a
// sidecar's is, does to the headers: it trusts those of the proxy in front.
func (c *connManager) behindProxy(s *stream) {
	h := &s.headers
	if xff, ok := h.Get("x-forwarded-for"); ok {
		if a, ok := fromForwardedFor(xff, c.hops); ok {
			s.remote = a.Unmap()
		}
	}
	if proto, ok := h.Get("x-forwarded-proto"); !ok {
		scheme := "http"
		if s.tls != nil {
			scheme = "https"
		}
		h.Set("x-forwarded-proto", scheme)
	} else if proto == "" {
		s.protoless = true
	}
	if id, ok := h.Get("x-request-id"); !ok || id == "" {
		h.Set("x-request-id", s.env.RequestID)
	}
	if c.ingress {
		h.Remove("x-envoy-decorator-operation")
	}
	kept := s.headers[:0]
	for _, f := range s.headers {
		if classOf(f.Name)&headerInternal == 0 || ofTheProxyInFront[f.Name] {
			kept = append(kept, f)
		}
	}
	s.headers = kept
	c.clientCertificate(s)
}

// clientCertificate is ConnectionManagerUtility::mutateXfccRequestHeader.
func (c *connManager) clientCertificate(s *stream) {
	const name = "x-forwarded-client-cert"
	switch {
	case c.certificate == hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY:
		return
	case c.certificate == hcmv3.HttpConnectionManager_SANITIZE || s.tls == nil || s.tls.Peer == "":
		s.headers.Remove(name)
		return
	case c.certificate == hcmv3.HttpConnectionManager_FORWARD_ONLY:
		return
	}
	var parts []string
	if s.tls.Local != "" {
		parts = append(parts, "By="+s.tls.Local)
	}
	if s.tls.PeerHash != "" {
		parts = append(parts, "Hash="+s.tls.PeerHash)
	}
	if c.certificateParts.GetSubject().GetValue() {
		parts = append(parts, `Subject=""`) // Istio's certificates have none
	}
	if c.certificateParts.GetUri() {
		parts = append(parts, "URI="+s.tls.Peer)
	}
	if c.certificate == hcmv3.HttpConnectionManager_APPEND_FORWARD {
		s.headers.Add(name, strings.Join(parts, ";"))
		return
	}
	s.headers.Set(name, strings.Join(parts, ";"))
}
