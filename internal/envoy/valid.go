package envoy

import (
	"errors"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// valid holds a message against the rules that stand beside its fields in Envoy's
// API (protoc-gen-validate): Envoy refuses what breaks them
// (MessageUtil::validate). What is in an Any is looked at when it is unpacked.
func valid(m proto.Message) error {
	v, ok := m.(interface{ Validate() error })
	if !ok {
		return nil
	}
	if err := v.Validate(); err != nil {
		return fmt.Errorf("%s", strings.ReplaceAll(err.Error(), "embedded message failed validation | caused by: invalid ", ""))
	}
	return nil
}

// validListener is valid for a listener, and what its filter chains must be beside
// (ListenerImpl::validateFilterChains, FilterChainManagerImpl::addFilterChains).
func validListener(l *listenerv3.Listener) error {
	if err := valid(l); err != nil {
		return err
	}
	if l.GetAddress().GetSocketAddress().GetProtocol() == corev3.SocketAddress_TCP && len(l.FilterChains) == 0 && l.DefaultFilterChain == nil {
		return errors.New("no filter chains")
	}
	for i, a := range l.FilterChains {
		for _, b := range l.FilterChains[:i] {
			if proto.Equal(a.GetFilterChainMatch(), b.GetFilterChainMatch()) {
				return fmt.Errorf("filter chains %q and %q match the same", b.Name, a.Name)
			}
		}
	}
	return nil
}

// validRoutes is valid for a route configuration: an error names virtual host and route.
func validRoutes(rc *routev3.RouteConfiguration) error {
	err := valid(rc)
	if err == nil {
		return nil
	}
	for _, v := range rc.VirtualHosts {
		for i, r := range v.Routes {
			if err := valid(r); err != nil {
				return fmt.Errorf("virtual host %s: route %d: %w", v.Name, i, err)
			}
		}
		if err := valid(v); err != nil {
			return fmt.Errorf("virtual host %s: %w", v.Name, err)
		}
	}
	return err
}

// refused is what Envoy refuses of a route beyond the rules beside its fields
// (RouteEntryImplBase). clusters are those there are, nil for any.
func refused(r *routev3.Route, clusters map[string]bool) error {
	a := r.GetRoute()
	if a.GetPrefixRewrite() != "" && (a.RegexRewrite != nil || r.Match.GetPathMatchPolicy() != nil) {
		return errors.New("prefix_rewrite beside regex_rewrite or path_match_policy")
	}
	var named []string
	for _, w := range a.GetWeightedClusters().GetClusters() {
		if w.Weight == nil || (w.Name == "") == (w.ClusterHeader == "") {
			return fmt.Errorf("weighted cluster %q: want a weight, and a name or a header", w.Name)
		}
		named = append(named, w.Name)
	}
	if a.GetCluster() != "" {
		named = append(named, a.GetCluster())
	}
	for _, m := range a.GetRequestMirrorPolicies() {
		if (m.Cluster == "") == (m.ClusterHeader == "") {
			return errors.New("a mirror without a cluster, or with two")
		}
		named = append(named, m.Cluster)
	}
	for _, name := range named {
		if clusters != nil && name != "" && !clusters[name] {
			return fmt.Errorf("cluster %q is missing, and validate_clusters is on", name)
		}
	}
	return nil
}

// unpack is what an Any holds, held against Envoy's rules; nil for no Any.
func unpack(a *anypb.Any) (proto.Message, error) {
	if a == nil {
		return nil, nil
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil, err
	}
	return m, valid(m)
}
