package envoy

import (
	"encoding/json"
	"fmt"
	"strings"

	_ "github.com/cncf/xds/go/udpa/type/v1" // Istio wraps its own messages in this TypedStruct, or in xds.type.v3's
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Resources are one proxy's xDS resources.
type Resources struct {
	Listeners []*listenerv3.Listener
	Routes    []*routev3.RouteConfiguration
	Clusters  []*clusterv3.Cluster
}

// typedStruct carries a message whose type this program does not link: its type
// and fields survive, so that the answer can name what is not modelled.
const typedStruct = "type.googleapis.com/xds.type.v3.TypedStruct"

// ParseResources reads the protobuf JSON of a translator or a config_dump.
// Messages of unlinked types become TypedStructs.
func ParseResources(listeners, routes, clusters []json.RawMessage) (Resources, error) {
	var r Resources
	var err error
	if r.Listeners, err = parseAll(listeners, func() *listenerv3.Listener { return new(listenerv3.Listener) }); err != nil {
		return r, fmt.Errorf("listeners: %w", err)
	}
	if r.Routes, err = parseAll(routes, func() *routev3.RouteConfiguration { return new(routev3.RouteConfiguration) }); err != nil {
		return r, fmt.Errorf("routes: %w", err)
	}
	if r.Clusters, err = parseAll(clusters, func() *clusterv3.Cluster { return new(clusterv3.Cluster) }); err != nil {
		return r, fmt.Errorf("clusters: %w", err)
	}
	return r, nil
}

func parseAll[M proto.Message](raw []json.RawMessage, newM func() M) ([]M, error) {
	out := make([]M, 0, len(raw))
	for i, data := range raw {
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		data, err := json.Marshal(keepUnlinked(v))
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		m := newM()
		if err := protojson.Unmarshal(data, m); err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// keepUnlinked turns each {"@type": T, ...} of an unlinked T into a TypedStruct.
func keepUnlinked(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = keepUnlinked(v[i])
		}
	case map[string]any:
		url, isAny := v["@type"].(string)
		if isAny {
			if _, err := protoregistry.GlobalTypes.FindMessageByURL(url); err != nil {
				delete(v, "@type")
				return map[string]any{"@type": typedStruct, "typeUrl": url, "value": v}
			}
		}
		for k := range v {
			v[k] = keepUnlinked(v[k])
		}
	}
	return v
}

// RestoreUnlinked undoes in a decoded JSON value what ParseResources did to
// messages of unlinked types, for an Envoy that knows them.
func RestoreUnlinked(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = RestoreUnlinked(v[i])
		}
	case map[string]any:
		if v["@type"] == typedStruct {
			url, _ := v["typeUrl"].(string)
			value, _ := v["value"].(map[string]any)
			if value == nil {
				value = map[string]any{}
			}
			value["@type"] = url
			v = value
		}
		for k := range v {
			v[k] = RestoreUnlinked(v[k])
		}
		return v
	}
	return v
}

// RewriteHosts reads routes as a proxy takes them that is older than Envoy 1.18: there
// a header option for host sets it, and Istio up to 1.9 writes one where later ones
// write host_rewrite_literal. Current Envoys refuse such a configuration.
func (r *Resources) RewriteHosts() {
	for _, rc := range r.Routes {
		for _, vh := range rc.VirtualHosts {
			for _, rt := range vh.Routes {
				a := rt.GetRoute()
				if host, rest := hostOption(rt.RequestHeadersToAdd); a != nil && host != "" && a.HostRewriteSpecifier == nil {
					rt.RequestHeadersToAdd, a.HostRewriteSpecifier = rest, &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: host}
				}
				for _, c := range a.GetWeightedClusters().GetClusters() {
					if host, rest := hostOption(c.RequestHeadersToAdd); host != "" && c.HostRewriteSpecifier == nil {
						c.RequestHeadersToAdd, c.HostRewriteSpecifier = rest, &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: host}
					}
				}
			}
		}
	}
}

// hostOption is the value of the only option that sets host, and the others.
func hostOption(in []*corev3.HeaderValueOption) (host string, rest []*corev3.HeaderValueOption) {
	for _, o := range in {
		value := o.GetHeader().GetValue()
		//lint:ignore SA1019 what those versions write
		if !strings.EqualFold(o.GetHeader().GetKey(), "host") || o.Append == nil || o.Append.Value || strings.Contains(value, "%") || host != "" {
			rest = append(rest, o)
			continue
		}
		host = value
	}
	return host, rest
}
