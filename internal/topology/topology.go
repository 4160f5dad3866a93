// Package topology says who is where: pods and their addresses, Services and
// what is behind them, and what a name means to a pod. It is pure: a World is
// made of objects alone, touches no network and never changes.
//
// Where the objects say nothing, the World decides, always in the same way:
//
//   - A Deployment of two replicas has the pods NAME-1 and NAME-2, a StatefulSet
//     NAME-0 and NAME-1 (the latter as in Kubernetes, pkg/controller/statefulset).
//   - A pod's address is its status.podIP, else a hash of "namespace/name" into
//     Options.Pods; the next free address where two hashes meet. So an address
//     moves only when an object is added or removed with which it collides. A
//     Service's cluster IP is found likewise in Options.Services.
//   - A pod without a status is running and ready.
//
// A hostNetwork pod gets an address like any other, as if it had a node of its
// own; HostNetwork says that the address proves nothing.
package topology

import (
	"errors"
	"fmt"
	"net/netip"
	"sort"

	"postern.dev/postern/internal/manifest"

	corev1 "k8s.io/api/core/v1"
)

// Options are the address ranges; the zero value is the usual one.
type Options struct {
	Pods     netip.Prefix // default 10.244.0.0/16
	Services netip.Prefix // default 10.96.0.0/16
}

// World is a snapshot of pods and Services.
type World struct {
	pods       []*Pod
	byName     map[string]*Pod     // namespace/name
	byAddr     map[netip.Addr]*Pod // no address that two hostNetwork pods share
	services   []*Service
	serviceOf  map[string]*Service // namespace/name
	byIP       map[netip.Addr]*Service
	workloads  []*Workload
	namespaces map[string]bool
	gateways   []gateway
}

// Pod is one pod. Treat it as read-only.
type Pod struct {
	Namespace      string
	Name           string
	Addr           netip.Addr // zero for a finished pod that had none
	ServiceAccount string     // never empty
	Labels         map[string]string
	Annotations    map[string]string
	Containers     []corev1.Container // images, ports, env
	HostNetwork    bool
	Ready          bool
	// Running is whether the pod holds its address: neither finished nor on its way out.
	Running bool
	// Workload is the Deployment, StatefulSet or single pod it belongs to.
	Workload *Workload
}

// String is "namespace/name".
func (p *Pod) String() string { return p.Namespace + "/" + p.Name }

// Port finds a container's port by its name.
func (p *Pod) Port(name string) (uint16, bool) {
	for _, c := range p.Containers {
		for _, port := range c.Ports {
			if port.Name == name && (port.Protocol == corev1.ProtocolTCP || port.Protocol == "") {
				return uint16(port.ContainerPort), true
			}
		}
	}
	return 0, false
}

// Workload is what pods are made from.
type Workload struct {
	Kind           string // Deployment, StatefulSet or Pod
	Namespace      string
	Name           string
	ServiceAccount string
	Labels         map[string]string // of its pods
	Pods           []*Pod            // empty when scaled to zero
	Object         *manifest.Object
}

// String is "Kind namespace/name".
func (w *Workload) String() string { return w.Kind + " " + w.Namespace + "/" + w.Name }

// New places the pods and Services of a set.
func New(set *manifest.Set, opts Options) (*World, error) {
	if !opts.Pods.IsValid() {
		opts.Pods = netip.MustParsePrefix("10.244.0.0/16")
	}
	if !opts.Services.IsValid() {
		opts.Services = netip.MustParsePrefix("10.96.0.0/16")
	}
	w := &World{
		byName: map[string]*Pod{}, byAddr: map[netip.Addr]*Pod{},
		serviceOf: map[string]*Service{}, byIP: map[netip.Addr]*Service{}, namespaces: map[string]bool{},
	}
	var errs []error
	for o := range set.Sorted() {
		switch {
		case o.Group() == "" && o.Kind == "Namespace":
			w.namespaces[o.Meta.Name] = true
		case o.Meta.Namespace != "":
			w.namespaces[o.Meta.Namespace] = true
		}
		errs = append(errs, w.addWorkload(o), w.addService(o), w.addGateway(o))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return w, errors.Join(w.placePods(opts.Pods), w.placeServices(opts.Services))
}

// Pods are all pods, ordered by namespace and name.
func (w *World) Pods() []*Pod { return w.pods }

// Pod finds a pod by its name.
func (w *World) Pod(namespace, name string) (*Pod, bool) {
	p, ok := w.byName[namespace+"/"+name]
	return p, ok
}

// At finds the one pod that holds an address. It finds none where several
// hostNetwork pods share it; HostNetwork is the caller's to look at.
func (w *World) At(addr netip.Addr) (*Pod, bool) {
	p, ok := w.byAddr[addr.Unmap()]
	return p, ok
}

// Services are all Services, ordered by namespace and name.
func (w *World) Services() []*Service { return w.services }

// Service finds a Service by its name.
func (w *World) Service(namespace, name string) (*Service, bool) {
	s, ok := w.serviceOf[namespace+"/"+name]
	return s, ok
}

// ServiceAt finds the Service of a cluster IP.
func (w *World) ServiceAt(addr netip.Addr) (*Service, bool) {
	s, ok := w.byIP[addr.Unmap()]
	return s, ok
}

// Workloads are all workloads, ordered by kind, namespace and name.
func (w *World) Workloads() []*Workload { return w.workloads }

// placePods gives every pod its address: those that have one first.
func (w *World) placePods(prefix netip.Prefix) error {
	sort.Slice(w.pods, func(i, j int) bool {
		return less(w.pods[i].Namespace, w.pods[i].Name, w.pods[j].Namespace, w.pods[j].Name)
	})
	var errs []error
	taken := map[netip.Addr]bool{}
	shared := map[netip.Addr]bool{}
	for _, p := range w.pods {
		if !p.Addr.IsValid() || !p.Running {
			continue
		}
		first := w.byAddr[p.Addr]
		switch {
		case first == nil && !shared[p.Addr]:
			w.byAddr[p.Addr] = p
		case p.HostNetwork && (first == nil || first.HostNetwork):
			delete(w.byAddr, p.Addr)
			shared[p.Addr] = true
		default:
			errs = append(errs, p.Workload.Object.Errorf("status.podIP", "%s is also the address of another pod", p.Addr))
		}
		taken[p.Addr] = true
	}
	for _, p := range w.pods {
		if p.Addr.IsValid() || !p.Running {
			continue
		}
		addr, err := pick(prefix, p.String(), taken)
		if err != nil {
			return errors.Join(append(errs, p.Workload.Object.Errorf("", "no address for pod %s: %v", p.Name, err))...)
		}
		p.Addr, taken[addr], w.byAddr[addr] = addr, true, p
	}
	return errors.Join(errs...)
}

// placeServices gives every Service that needs one its cluster IP.
func (w *World) placeServices(prefix netip.Prefix) error {
	sort.Slice(w.services, func(i, j int) bool {
		return less(w.services[i].Namespace, w.services[i].Name, w.services[j].Namespace, w.services[j].Name)
	})
	var errs []error
	taken := map[netip.Addr]bool{}
	for _, s := range w.services {
		if s.ClusterIP.IsValid() {
			if first, ok := w.byIP[s.ClusterIP]; ok {
				errs = append(errs, s.Object.Errorf("spec.clusterIP", "%s is also the address of Service %s", s.ClusterIP, first))
			}
			taken[s.ClusterIP], w.byIP[s.ClusterIP] = true, s
		}
	}
	for _, s := range w.services {
		if s.ClusterIP.IsValid() || s.Headless || s.ExternalName != "" {
			continue
		}
		addr, err := pick(prefix, s.String(), taken)
		if err != nil {
			return errors.Join(append(errs, s.Object.Errorf("", "no cluster IP: %v", err))...)
		}
		s.ClusterIP, taken[addr], w.byIP[addr] = addr, true, s
	}
	return errors.Join(errs...)
}

func less(ns1, name1, ns2, name2 string) bool {
	if ns1 != ns2 {
		return ns1 < ns2
	}
	return name1 < name2
}

// errFull is wrapped by what asked for the address.
func errFull(prefix netip.Prefix) error { return fmt.Errorf("%s has no address left", prefix) }
