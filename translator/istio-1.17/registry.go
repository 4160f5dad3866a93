package main

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/serviceregistry/kube"
	"istio.io/istio/pkg/config/host"
	"istio.io/istio/pkg/config/labels"
	"postern.dev/postern/translator/contract"
)

// registry answers from the request what istiod's Kubernetes registry answers from informers.
type registry struct {
	model.NetworkGatewaysHandler
	trustDomain string
	services    []*model.Service
	byName      map[host.Name]*model.Service
	instances   map[host.Name][]*model.ServiceInstance // of pods with addresses and of ExternalName Services
	local       map[string][]*model.ServiceInstance    // by proxy
	labels      map[string]labels.Instance             // by proxy
}

var _ model.ServiceDiscovery = &registry{}

// newRegistry also tells the index of endpoints who is behind each Service, which the proxies' mutual TLS asks for.
func newRegistry(w *contract.World, m *meshconfig.MeshConfig, index *model.EndpointIndex) *registry {
	r := &registry{
		trustDomain: m.TrustDomain,
		byName:      map[host.Name]*model.Service{},
		instances:   map[host.Name][]*model.ServiceInstance{},
		local:       map[string][]*model.ServiceInstance{},
		labels:      map[string]labels.Instance{},
	}
	for _, s := range w.Services {
		var object corev1.Service
		if err := json.Unmarshal(s.Raw, &object); err != nil {
			w.Reject(s.Object, err)
			continue
		}
		service := kube.ConvertService(object, domainSuffix, clusterID)
		r.services = append(r.services, service)
		r.byName[service.Hostname] = service
		r.instances[service.Hostname] = kube.ExternalNameServiceInstances(&object, service)
		shards, _ := index.GetOrCreateEndpointShard(string(service.Hostname), object.Namespace)
		for _, e := range w.Endpoints(s) {
			shards.ServiceAccounts.Insert(e.Identity(r.trustDomain))
			r.instances[service.Hostname] = append(r.instances[service.Hostname], instance(service, e, r.trustDomain))
		}
	}
	for _, p := range w.Proxies {
		r.labels[p.Name] = p.Labels
		r.local[p.Name] = r.targets(w, p)
	}
	return r
}

func instance(service *model.Service, e contract.Endpoint, trustDomain string) *model.ServiceInstance {
	port, _ := service.Ports.Get(e.PortName)
	return &model.ServiceInstance{
		Service:     service,
		ServicePort: port,
		Endpoint: &model.IstioEndpoint{
			Labels:          e.Labels,
			Address:         e.Address,
			ServicePortName: e.PortName,
			EndpointPort:    uint32(e.Port),
			ServiceAccount:  e.Identity(trustDomain),
			Namespace:       e.Namespace,
			HostName:        e.HostName,
			SubDomain:       e.SubDomain,
			TLSMode:         model.GetTLSModeFromEndpointLabels(e.Labels),
		},
	}
}

// targets are the instances of a proxy's own workload: of several ports of a Service that lead to one port and protocol, the first.
func (r *registry) targets(w *contract.World, p contract.Proxy) []*model.ServiceInstance {
	type inbound struct {
		service  host.Name
		port     int
		protocol string
	}
	seen := map[inbound]bool{}
	var out []*model.ServiceInstance
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
		for _, address := range p.Addresses {
			out = append(out, instance(service, contract.Endpoint{
				Address: address, Port: t.TargetPort, PortName: t.PortName,
				Labels: p.Labels, Namespace: p.Namespace, ServiceAccount: p.ServiceAccount,
			}, r.trustDomain))
		}
	}
	return out
}

// locate tells a proxy which Services are its own.
func locate(proxy *model.Proxy, d model.ServiceDiscovery) { proxy.SetServiceInstances(d) }

// Services returns a fresh list: InitContext sorts it.
func (r *registry) Services() []*model.Service {
	return append([]*model.Service(nil), r.services...)
}

func (r *registry) GetService(name host.Name) *model.Service { return r.byName[name] }

func (r *registry) InstancesByPort(s *model.Service, port int) []*model.ServiceInstance {
	var out []*model.ServiceInstance
	for _, i := range r.instances[s.Hostname] {
		if i.ServicePort.Port == port {
			out = append(out, i)
		}
	}
	return out
}

func (r *registry) GetProxyServiceInstances(p *model.Proxy) []*model.ServiceInstance {
	return append([]*model.ServiceInstance(nil), r.local[p.ID]...)
}

func (r *registry) GetProxyWorkloadLabels(p *model.Proxy) labels.Instance { return r.labels[p.ID] }

func (r *registry) NetworkGateways() []model.NetworkGateway { return nil }

func (r *registry) MCSServices() []model.MCSServiceInfo { return nil }
