package topology

import (
	"fmt"
	"net/netip"
	"strings"

	"postern.dev/postern/internal/manifest"

	corev1 "k8s.io/api/core/v1"
)

// Service is one Service. Treat it as read-only.
type Service struct {
	Namespace    string
	Name         string
	ClusterIP    netip.Addr // zero for a headless or ExternalName Service
	Headless     bool
	ExternalName string // lower case, without a trailing dot
	Selector     map[string]string
	Ports        []corev1.ServicePort
	Object       *manifest.Object

	notReady bool // its pods need not be ready
}

// String is "namespace/name".
func (s *Service) String() string { return s.Namespace + "/" + s.Name }

// Host is the Service's full name, without a trailing dot.
func (s *Service) Host() string { return s.Name + "." + s.Namespace + ".svc." + clusterDomain }

// Endpoint is a pod and the address to reach it at.
type Endpoint struct {
	Pod  *Pod
	Addr netip.AddrPort
}

func (w *World) addService(o *manifest.Object) error {
	v, ok := o.Value.(*corev1.Service)
	if !ok {
		return nil
	}
	s := &Service{
		Namespace: o.Meta.Namespace, Name: o.Meta.Name, Selector: v.Spec.Selector, Ports: v.Spec.Ports,
		Object: o, notReady: v.Spec.PublishNotReadyAddresses,
	}
	switch ip := v.Spec.ClusterIP; {
	case v.Spec.Type == corev1.ServiceTypeExternalName:
		s.ExternalName = strings.ToLower(strings.TrimSuffix(v.Spec.ExternalName, "."))
		if s.ExternalName == "" {
			return o.Errorf("spec.externalName", "required for type ExternalName")
		}
	case ip == corev1.ClusterIPNone:
		s.Headless = true
	case ip != "":
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			return o.Errorf("spec.clusterIP", "got %q, want an IP address or None", ip)
		}
		s.ClusterIP = addr.Unmap()
	}
	w.services = append(w.services, s)
	w.serviceOf[s.String()] = s
	return nil
}

// Endpoints are the ready pods behind a port of a Service, each with the
// address that the port's targetPort means there. An ExternalName is followed;
// the pods of a headless Service are reached at the port itself. The error says
// whether the Service, the port or a ready pod is missing.
func (w *World) Endpoints(namespace, service string, port uint32) ([]Endpoint, error) {
	s, ok := w.Service(namespace, service)
	if !ok {
		return nil, w.noService(namespace, service)
	}
	if s.ExternalName != "" {
		name, err := w.follow(s)
		if err != nil {
			return nil, err
		}
		return w.endpointsOf(name, port)
	}
	sp, ok := s.port(port)
	if !ok {
		if s.Headless && len(s.Ports) == 0 {
			return w.behind(s, corev1.ServicePort{Port: int32(port)})
		}
		return nil, fmt.Errorf("no port %d in Service %s (it has %s)", port, s, s.portList())
	}
	return w.behind(s, sp)
}

func (s *Service) port(number uint32) (corev1.ServicePort, bool) {
	for _, p := range s.Ports {
		if uint32(p.Port) == number && (p.Protocol == corev1.ProtocolTCP || p.Protocol == "") {
			return p, true
		}
	}
	return corev1.ServicePort{}, false
}

func (s *Service) portList() string {
	var out []string
	for _, p := range s.Ports {
		out = append(out, fmt.Sprint(p.Port))
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// behind finds the pods of a Service's port.
func (w *World) behind(s *Service, sp corev1.ServicePort) ([]Endpoint, error) {
	if len(s.Selector) == 0 {
		return nil, fmt.Errorf("no pod behind Service %s: it has no selector", s)
	}
	var out []Endpoint
	selected, ready := 0, 0
	for _, p := range w.pods {
		if p.Namespace != s.Namespace || !p.Running || !selects(s.Selector, p.Labels) {
			continue
		}
		selected++
		if !p.Ready && !s.notReady {
			continue
		}
		ready++
		if number, ok := target(p, sp); ok {
			out = append(out, Endpoint{p, netip.AddrPortFrom(p.Addr, number)})
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case selected == 0:
		return nil, fmt.Errorf("no pod behind Service %s: its selector matches none in namespace %s", s, s.Namespace)
	case ready == 0:
		return nil, fmt.Errorf("no pod behind Service %s: none of %d is ready", s, selected)
	}
	return nil, fmt.Errorf("no pod behind port %d of Service %s: no container has a port named %q", sp.Port, s, sp.TargetPort.StrVal)
}

// target is the container port that a Service's port means in a pod.
func target(p *Pod, sp corev1.ServicePort) (uint16, bool) {
	switch {
	case sp.TargetPort.StrVal != "":
		return p.Port(sp.TargetPort.StrVal)
	case sp.TargetPort.IntVal != 0:
		return uint16(sp.TargetPort.IntVal), true
	}
	return uint16(sp.Port), true
}
