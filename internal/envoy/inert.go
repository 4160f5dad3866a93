package envoy

import (
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// inertTypes are configurations of Istio's own filters, network and HTTP ones, that
// change no answer: they count, tell a peer in the mesh about this one, or choose the
// ALPN of a connection to an upstream (pilot/pkg/xds/filters, pilot/pkg/model/telemetry.go).
// A filter is known by its configuration's type, as in Envoy; its name says nothing.
var inertTypes = map[string]bool{
	"envoy.tcp.metadataexchange.config.MetadataExchange":        true,
	"io.istio.http.peer_metadata.Config":                        true,
	"istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig": true,
	"stats.PluginConfig":                                        true,
}

// Filters of Istio's own proxy up to 1.18, see istioAuthn.
const (
	networkAuthnType = "io.istio.network.authn.Config"
	httpAuthnType    = "istio.envoy.config.filter.http.authn.v2alpha1.FilterConfig"
)

// inert tells whether a filter's configuration is of one that changes no answer.
func inert(a *anypb.Any, m proto.Message) bool {
	name := typeName(a, m)
	return inertTypes[name] || (name == "envoy.extensions.filters.http.wasm.v3.Wasm" || name == "envoy.extensions.filters.network.wasm.v3.Wasm") && inertWasm(m)
}

// inertWasm is one of the plugins that are compiled into Istio's proxy, up to 1.18.
func inertWasm(m proto.Message) bool {
	config, ok := m.(interface{ GetValue() *structpb.Struct }) // a TypedStruct: the type is not linked
	if !ok {
		return false
	}
	at := func(s *structpb.Struct, names ...string) *structpb.Value { // in protobuf's spelling or JSON's
		for _, n := range names {
			if v := s.GetFields()[n]; v != nil {
				return v
			}
		}
		return nil
	}
	vm := at(at(config.GetValue(), "config").GetStructValue(), "vmConfig", "vm_config").GetStructValue()
	code := at(at(at(vm, "code").GetStructValue(), "local").GetStructValue(), "inlineString", "inline_string").GetStringValue()
	return at(vm, "runtime").GetStringValue() == "envoy.wasm.runtime.null" &&
		slices.Contains([]string{"envoy.wasm.metadata_exchange", "envoy.wasm.stats", "envoy.wasm.null.stackdriver"}, code)
}

// OfIstio tells whether a filter's configuration is of a kind that upstream Envoy does
// not have and that may be left out for it: nothing but Istio's own filters looks at
// what these leave.
func OfIstio(a *anypb.Any) bool {
	m, err := unpack(a)
	if m == nil || err != nil {
		return false
	}
	return inert(a, m) || typeName(a, m) == networkAuthnType
}
