package contract

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
)

// Service is a Service with the defaults an API server fills in: protocol TCP, targetPort = port.
type Service struct {
	Object
	Selector map[string]string
	Ports    []ServicePort
}

// ServicePort is a port of a Service.
type ServicePort struct {
	Name       string `json:"name"`
	Port       int    `json:"port"`
	Protocol   string `json:"protocol"`
	TargetPort any    `json:"targetPort"` // a number or a container port's name
}

// Target is a port of a Service that leads to a proxy's workload.
type Target struct {
	Service    Service
	PortName   string
	TargetPort int
}

// Endpoint is an address behind a port of a Service.
type Endpoint struct {
	Address        string
	Port           int
	PortName       string
	Labels         map[string]string
	Namespace      string
	ServiceAccount string
	HostName       string
	SubDomain      string
}

// pod is what is read of a Pod.
type pod struct {
	Object
	Spec struct {
		ServiceAccountName string `json:"serviceAccountName"`
		Hostname           string `json:"hostname"`
		Subdomain          string `json:"subdomain"`
		Containers         []struct {
			Ports []struct {
				Name          string `json:"name"`
				ContainerPort int    `json:"containerPort"`
				Protocol      string `json:"protocol"`
			} `json:"ports"`
		} `json:"containers"`
	} `json:"spec"`
	Status struct {
		PodIP string `json:"podIP"`
	} `json:"status"`
}

// Identity is the endpoint's name in the mesh, as istiod's Kubernetes registry has it (SecureNamingSAN in
// pilot/pkg/serviceregistry/kube/conversion.go): the name that a proxy's mutual TLS asks for.
func (e Endpoint) Identity(trustDomain string) string {
	if e.ServiceAccount == "" {
		return ""
	}
	return "spiffe://" + trustDomain + "/ns/" + e.Namespace + "/sa/" + e.ServiceAccount
}

func (w *World) addService(o Object) error {
	v, err := decode(o.Raw)
	if err != nil {
		return err
	}
	if spec, ok := v.(map[string]any)["spec"].(map[string]any); ok {
		ports, _ := spec["ports"].([]any)
		for _, p := range ports {
			setDefaults(p)
		}
	}
	if o.Raw, err = marshal(v); err != nil {
		return err
	}
	var read struct {
		Spec struct {
			Selector map[string]string `json:"selector"`
			Ports    []ServicePort     `json:"ports"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(o.Raw, &read); err != nil {
		return err
	}
	w.Services = append(w.Services, Service{Object: o, Selector: read.Spec.Selector, Ports: read.Spec.Ports})
	return nil
}

// setDefaults fills in a port of a Service as the API server does.
func setDefaults(v any) {
	port, ok := v.(map[string]any)
	if !ok {
		return
	}
	if port["protocol"] == nil {
		port["protocol"] = "TCP"
	}
	if t := port["targetPort"]; t == nil || fmt.Sprint(t) == "0" || t == "" {
		port["targetPort"] = port["port"]
	}
}

func (w *World) addPod(o Object) error {
	p := pod{}
	if err := json.Unmarshal(o.Raw, &p); err != nil {
		return err
	}
	p.Object = o
	w.pods = append(w.pods, p)
	return nil
}

// Targets are the ports of Services that select a proxy's workload. A port whose name no container of the workload's Pod bears leads
// nowhere: Istio leaves it out with a warning in its log, here it is reported as rejected.
func (w *World) Targets(p Proxy) []Target {
	var out []Target
	for _, s := range w.Services {
		if s.Metadata.Namespace != p.Namespace || !selects(s.Selector, p.Labels) {
			continue
		}
		for _, port := range s.Ports {
			number, err := port.target(w.podOf(p, s))
			if err != nil {
				w.Reject(s.Object, fmt.Errorf("proxy %s: %w", p.Name, err))
				continue
			}
			out = append(out, Target{Service: s, PortName: port.Name, TargetPort: number})
		}
	}
	return out
}

// podOf finds a proxy's Pod: by name, else by address, else one the Service selects (the pods of a Deployment are alike).
func (w *World) podOf(p Proxy, s Service) *pod {
	var byAddress, alike *pod
	for i := range w.pods {
		q := &w.pods[i]
		if q.Metadata.Namespace != p.Namespace {
			continue
		}
		if q.Metadata.Name+"."+q.Metadata.Namespace == p.Name {
			return q
		}
		if byAddress == nil && q.Status.PodIP != "" && q.Status.PodIP == p.Addresses[0] {
			byAddress = q
		}
		if alike == nil && selects(s.Selector, q.Metadata.Labels) {
			alike = q
		}
	}
	if byAddress != nil {
		return byAddress
	}
	return alike
}

// Endpoints are the Pods with an address behind a Service, a port at a time.
func (w *World) Endpoints(s Service) []Endpoint {
	var out []Endpoint
	for i := range w.pods {
		p := &w.pods[i]
		if p.Metadata.Namespace != s.Metadata.Namespace || !selects(s.Selector, p.Metadata.Labels) || net.ParseIP(p.Status.PodIP) == nil {
			continue
		}
		for _, port := range s.Ports {
			number, err := port.target(p)
			if err != nil {
				continue // Kubernetes makes no endpoint of such a pod either
			}
			account := p.Spec.ServiceAccountName
			if account == "" {
				account = "default"
			}
			out = append(out, Endpoint{
				Address: p.Status.PodIP, Port: number, PortName: port.Name,
				Labels: p.Metadata.Labels, Namespace: p.Metadata.Namespace, ServiceAccount: account,
				HostName: p.Spec.Hostname, SubDomain: p.Spec.Subdomain,
			})
		}
	}
	return out
}

// target resolves the port's targetPort in a Pod.
func (s ServicePort) target(p *pod) (int, error) {
	switch t := s.TargetPort.(type) {
	case float64:
		return int(t), nil
	case string:
		if p == nil {
			return 0, fmt.Errorf("port %d: targetPort %q needs the workload's Pod, and none is given", s.Port, t)
		}
		for _, c := range p.Spec.Containers {
			for _, port := range c.Ports {
				if port.Name == t && (port.Protocol == s.Protocol || port.Protocol == "" && s.Protocol == "TCP") {
					return port.ContainerPort, nil
				}
			}
		}
		return 0, fmt.Errorf("port %d: no container of Pod %s has a %s port named %q", s.Port, p.Metadata.Name, strings.ToUpper(s.Protocol), t)
	}
	return 0, fmt.Errorf("port %d: got targetPort %v, want a number or a name", s.Port, s.TargetPort)
}

// selects reports whether a Service's selector matches. An empty one selects nothing: its endpoints are managed by others.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return len(selector) > 0
}
