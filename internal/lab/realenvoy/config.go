package realenvoy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"postern.dev/postern/internal/envoy"
)

// bootstrap is what istiod's bootstrap has that changes an answer
// (tools/packaging/common/envoy_bootstrap.json): a fragment in the path is
// stripped, not refused.
func bootstrap(dir, admin string, pod netip.Addr) map[string]any {
	source := func(file string) map[string]any {
		return map[string]any{"resource_api_version": "V3", "path_config_source": map[string]any{"path": filepath.Join(dir, file), "watched_directory": map[string]any{"path": dir}}}
	}
	return map[string]any{
		"node":  map[string]any{"id": "gateway", "cluster": "postern-up"},
		"admin": map[string]any{"address": map[string]any{"pipe": map[string]any{"path": admin, "mode": 0o600}}},
		// On a pod, what Envoy connects to sees the pod's address.
		"cluster_manager":   map[string]any{"upstream_bind_config": map[string]any{"source_address": map[string]any{"address": pod.String(), "port_value": 0}}},
		"dynamic_resources": map[string]any{"cds_config": source("cds.json"), "lds_config": source("lds.json")},
		"layered_runtime": map[string]any{"layers": []any{map[string]any{"name": "istio", "static_layer": map[string]any{
			"envoy.reloadable_features.http_reject_path_with_fragment": false,
		}}}},
	}
}

// clustersOf gives every cluster its endpoints.
func clustersOf(r envoy.Resources, endpoints func(string) []netip.AddrPort) ([]any, error) {
	var out []any
	for _, c := range r.Clusters {
		n := &clusterv3.Cluster{
			Name: c.Name, ConnectTimeout: durationpb.New(10e9),
			ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
			LoadAssignment:                &endpointv3.ClusterLoadAssignment{ClusterName: c.Name},
			TypedExtensionProtocolOptions: c.TypedExtensionProtocolOptions,
			//lint:ignore SA1019 Istio up to 1.17 writes the deprecated field
			Http2ProtocolOptions: c.Http2ProtocolOptions,
		}
		group := &endpointv3.LocalityLbEndpoints{}
		for _, a := range endpoints(c.Name) {
			group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socket(a.Addr(), uint32(a.Port()))}}})
		}
		n.LoadAssignment.Endpoints = []*endpointv3.LocalityLbEndpoints{group}
		j, err := asAny(n)
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", c.Name, err)
		}
		out = append(out, j)
	}
	return out, nil
}

func socket(a netip.Addr, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: a.String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
}

// listenersOf binds the listeners to the pod and inlines their routes.
func listenersOf(r envoy.Resources, address netip.Addr) ([]any, error) {
	var out []any
	for _, l := range r.Listeners {
		n := proto.Clone(l).(*listenerv3.Listener)
		n.Address = socket(address, l.GetAddress().GetSocketAddress().GetPortValue())
		// Two Envoys on one address must be an error, not a share of the requests each.
		n.EnableReusePort = wrapperspb.Bool(false)
		n.AccessLog = nil
		for _, chain := range n.FilterChains {
			var kept []*listenerv3.Filter
			for _, f := range chain.Filters {
				if envoy.OfIstio(f.GetTypedConfig()) {
					continue
				}
				if err := rewriteManager(f, r); err != nil {
					return nil, fmt.Errorf("listener %s: %w", l.Name, err)
				}
				kept = append(kept, f)
			}
			chain.Filters = kept
		}
		j, err := asAny(n)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		out = append(out, j)
	}
	return out, nil
}

func rewriteManager(f *listenerv3.Filter, r envoy.Resources) error {
	h := &hcmv3.HttpConnectionManager{}
	if !f.GetTypedConfig().MessageIs(h) {
		return nil
	}
	if err := f.GetTypedConfig().UnmarshalTo(h); err != nil {
		return err
	}
	h.AccessLog = nil
	if name := h.GetRds().GetRouteConfigName(); name != "" {
		for _, rc := range r.Routes {
			if rc.Name != name {
				continue
			}
			if rc.ValidateClusters == nil { // Envoy's default where routes do not stand in the listener
				rc = proto.Clone(rc).(*routev3.RouteConfiguration)
				rc.ValidateClusters = wrapperspb.Bool(false)
			}
			h.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
		}
	}
	var kept []*hcmv3.HttpFilter
	for _, hf := range h.HttpFilters {
		if !envoy.OfIstio(hf.GetTypedConfig()) {
			kept = append(kept, hf)
		}
	}
	h.HttpFilters = kept
	packed, err := anypb.New(h)
	if err != nil {
		return err
	}
	f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
	return nil
}

// asAny is the message as JSON with its type, as an xDS file holds it.
func asAny(m proto.Message) (any, error) {
	packed, err := anypb.New(m)
	if err != nil {
		return nil, err
	}
	data, err := protojson.Marshal(packed)
	if err != nil {
		return nil, err
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	return envoy.RestoreUnlinked(v), nil
}
