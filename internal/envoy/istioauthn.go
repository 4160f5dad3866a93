package envoy

import (
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// istioAuthn is a filter of Istio's own proxy up to 1.18, which upstream Envoy
// lacks: RBAC has request principals from what it leaves as metadata, and, as a
// network filter, the peer's principal.
const istioAuthn = "istio_authn"

// istioAuthnPasses tells whether the HTTP filter refuses nobody: no peer is
// demanded and a token is optional, as Istio 1.17 sets it up
// (istio/proxy src/envoy/http/authn/http_filter.cc decodeHeaders).
func istioAuthnPasses(m proto.Message) bool {
	config, ok := m.(interface{ GetValue() *structpb.Struct }) // a TypedStruct: the type is not linked
	if !ok {
		return false
	}
	policy := config.GetValue().GetFields()["policy"].GetStructValue().GetFields()
	return policy["originIsOptional"].GetBoolValue() && policy["peers"] == nil
}

// istioAuthnSpeaks tells whether the filter may have left something: it takes the
// payload of a good token, or the peer's name. Of a plaintext caller without a
// token it has nothing to say.
func (s *stream) istioAuthnSpeaks() bool {
	return s.tls != nil || slices.ContainsFunc(s.metadata, func(d metadatum) bool { return d.namespace == jwtNamespace })
}
