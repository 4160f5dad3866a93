package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	meshconfig "istio.io/api/mesh/v1alpha1"
	security "istio.io/api/security/v1beta1"
	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pkg/cluster"
	"istio.io/istio/pkg/config/mesh"
	_ "istio.io/istio/pkg/config/xds" // all of Envoy's messages, for what EnvoyFilters name
	"postern.dev/postern/translator/contract"
)

const (
	clusterID    = cluster.ID("Kubernetes") // the name of istiod's own cluster
	domainSuffix = "cluster.local"
)

// translate builds what istiod builds, in istiod's order, without its server.
func translate(w *contract.World) ([]contract.ProxyConfig, error) {
	silence()
	stop := make(chan struct{})
	defer close(stop)
	env, err := newEnvironment(w, meshOf(w), stop)
	if err != nil {
		return nil, err
	}
	push, err := newPush(env)
	if err != nil {
		return nil, fmt.Errorf("push context: %w", err)
	}
	g := newGenerator()
	var out []contract.ProxyConfig
	for _, p := range w.Proxies {
		config, err := generate(g, introduce(p, env, push), push)
		if err != nil {
			return nil, fmt.Errorf("proxy %s: %w", p.Name, err)
		}
		config.Name = p.Name
		out = append(out, config)
	}
	return out, nil
}

func meshOf(w *contract.World) *meshconfig.MeshConfig {
	if w.Mesh == "" {
		return mesh.DefaultMeshConfig()
	}
	m, err := mesh.ApplyMeshConfigDefaults(w.Mesh)
	if err != nil {
		w.Reject(w.MeshConfig, fmt.Errorf("istio's defaults are used instead: %w", err))
		return mesh.DefaultMeshConfig()
	}
	if len(m.DiscoverySelectors) > 0 {
		w.Reject(w.MeshConfig, errors.New("discoverySelectors are not supported yet: all namespaces are read"))
	}
	return m
}

// fill puts the objects into istiod's store.
func fill(store model.ConfigStore, w *contract.World) {
	for _, o := range w.Configs {
		if err := create(store, w, o); err != nil {
			w.Reject(o, err)
		}
	}
}

// create parses one object, validates it as Istio's webhook does, and stores it.
func create(store model.ConfigStore, w *contract.World, o contract.Object) error {
	configs, _, err := crd.ParseInputs(string(o.Raw))
	if err != nil {
		return err
	}
	if len(configs) != 1 {
		return fmt.Errorf("istio %s has no %s %s", version, o.APIVersion, o.Kind)
	}
	configs[0].Domain = domainSuffix // ParseInputs leaves it empty, and a short host name would not become a Service's
	if auth, ok := configs[0].Spec.(*security.RequestAuthentication); ok {
		for i, rule := range auth.JwtRules {
			if rule.Jwks != "" {
				continue
			}
			if rule.Jwks, err = w.Keys(o, i, rule.JwksUri, rule.Issuer, fallbackKeys); err != nil {
				return err
			}
		}
	}
	_, err = store.Create(configs[0])
	return err
}

// introduce makes the proxy that istiod would make of an Envoy's first request.
func introduce(p contract.Proxy, env *model.Environment, push *model.PushContext) *model.Proxy {
	proxy := &model.Proxy{
		Type:            model.NodeType(p.Type),
		ID:              p.Name,
		IPAddresses:     p.Addresses,
		ConfigNamespace: p.Namespace,
		DNSDomain:       p.Namespace + ".svc." + domainSuffix,
		Labels:          p.Labels,
		IstioVersion:    model.ParseIstioVersion(proxyVersion),
		Metadata: &model.NodeMetadata{
			Namespace:      p.Namespace,
			Labels:         p.Labels,
			ServiceAccount: p.ServiceAccount,
			IstioVersion:   proxyVersion,
			ClusterID:      clusterID,
		},
	}
	proxy.SetSidecarScope(push)
	locate(proxy, env.ServiceDiscovery)
	proxy.SetGatewaysForProxy(push)
	proxy.DiscoverIPMode()
	return proxy
}

// generate asks for listeners, the routes they name, and clusters.
func generate(g *generator, proxy *model.Proxy, push *model.PushContext) (contract.ProxyConfig, error) {
	var out contract.ProxyConfig
	var resources []contract.Resource
	for _, l := range g.BuildListeners(proxy, push) {
		b, err := protojson.Marshal(l)
		if err != nil {
			return out, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		resources = append(resources, contract.Resource{Name: l.Name, JSON: b})
	}
	var err error
	if out.Listeners, err = contract.Sorted(resources); err != nil {
		return out, err
	}
	names, err := contract.RouteNames(out.Listeners)
	if err != nil {
		return out, err
	}
	req := &model.PushRequest{Push: push}
	routes, _ := g.BuildHTTPRoutes(proxy, req, names)
	if out.Routes, err = unpack(routes); err != nil {
		return out, err
	}
	clusters, _ := g.BuildClusters(proxy, req)
	out.Clusters, err = unpack(clusters)
	return out, err
}

func unpack(packed model.Resources) ([]json.RawMessage, error) {
	var resources []contract.Resource
	for _, r := range packed {
		message, err := r.Resource.UnmarshalNew()
		if err != nil {
			return nil, fmt.Errorf("resource %s: %w", r.Name, err)
		}
		b, err := protojson.Marshal(message)
		if err != nil {
			return nil, fmt.Errorf("resource %s: %w", r.Name, err)
		}
		resources = append(resources, contract.Resource{Name: r.Name, JSON: b})
	}
	return contract.Sorted(resources)
}
