package main

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/serviceregistry/kube"
	"istio.io/istio/pilot/pkg/serviceregistry/provider"
	"istio.io/istio/pkg/config/host"
	"istio.io/istio/pkg/config/labels"
	"postern.dev/postern/translator/contract"
)

// registry answers from the request what istiod's Kubernetes registry answers from informers.
type registry struct {
	model.NetworkGatewaysHandler
	model.NoopAmbientIndexes
	services []*model.Service
	byName   map[host.Name]*model.Service
	local    map[string][]model.ServiceTarget // by proxy
	labels   map[string]labels.Instance       // by proxy
}

var _ model.ServiceDiscovery = &registry{}

// newRegistry also fills the endpoint index, which headless Services are listed from.
func newRegistry(w *contract.World, m *meshconfig.MeshConfig, updater model.XDSUpdater) *registry {
	r := &registry{
		byName: map[host.Name]*model.Service{},
		local:  map[string][]model.ServiceTarget{},
		labels: map[string]labels.Instance{},
	}
	shard := model.ShardKey{Cluster: clusterID, Provider: provider.Kubernetes}
	for _, s := range w.Services {
		var object corev1.Service
		if err := json.Unmarshal(s.Raw, &object); err != nil {
			w.Reject(s.Object, err)
			continue
		}
		service := newService(w, object, m)
		r.services = append(r.services, service)
		r.byName[service.Hostname] = service
		var endpoints []*model.IstioEndpoint
		for _, e := range w.Endpoints(s) {
			endpoints = append(endpoints, endpoint(e, m.TrustDomain))
		}
		updater.EDSCacheUpdate(shard, string(service.Hostname), object.Namespace, endpoints)
	}
	for _, p := range w.Proxies {
		r.labels[p.Name] = p.Labels
		r.local[p.Name] = r.targets(w, p)
	}
	return r
}

func endpoint(e contract.Endpoint, trustDomain string) *model.IstioEndpoint {
	out := newEndpoint(e.Address)
	out.Labels = e.Labels
	out.ServicePortName = e.PortName
	out.EndpointPort = uint32(e.Port)
	out.ServiceAccount = e.Identity(trustDomain)
	out.Namespace = e.Namespace
	out.HostName = e.HostName
	out.SubDomain = e.SubDomain
	out.TLSMode = model.GetTLSModeFromEndpointLabels(e.Labels)
	return out
}

// targets are the ports of a proxy's own workload: of several ports of a Service that lead to one port and protocol, the first.
func (r *registry) targets(w *contract.World, p contract.Proxy) []model.ServiceTarget {
	type inbound struct {
		service  host.Name
		port     int
		protocol string
	}
	seen := map[inbound]bool{}
	var out []model.ServiceTarget
	for _, t := range w.Targets(p) {
		service := r.byName[kube.ServiceHostname(t.Service.Metadata.Name, t.Service.Metadata.Namespace, domainSuffix)]
		if service == nil {
			continue // rejected before
		}
		port, ok := service.Ports.Get(t.PortName)
		if !ok {
			continue
		}
		key := inbound{service.Hostname, t.TargetPort, string(port.Protocol)}
		if seen[key] {
			continue
		}
		seen[key] = true
		out = append(out, model.ServiceTarget{
			Service: service,
			Port:    model.ServiceInstancePort{ServicePort: port, TargetPort: uint32(t.TargetPort)},
		})
	}
	return out
}

// locate tells a proxy which Services are its own.
func locate(proxy *model.Proxy, d model.ServiceDiscovery) { proxy.SetServiceTargets(d) }

// Services returns a fresh list: InitContext sorts it.
func (r *registry) Services() []*model.Service {
	return append([]*model.Service(nil), r.services...)
}

func (r *registry) GetService(name host.Name) *model.Service { return r.byName[name] }

func (r *registry) GetProxyServiceTargets(p *model.Proxy) []model.ServiceTarget {
	return append([]model.ServiceTarget(nil), r.local[p.ID]...)
}

func (r *registry) GetProxyWorkloadLabels(p *model.Proxy) labels.Instance { return r.labels[p.ID] }

func (r *registry) NetworkGateways() []model.NetworkGateway { return nil }

func (r *registry) MCSServices() []model.MCSServiceInfo { return nil }
