// Package snapshot makes what posternd knows of a cluster out of the cluster's
// objects: those of manifests here, those of a watch later.
package snapshot

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/territory"
	"postern.dev/postern/internal/topology"
)

// Of is the snapshot of a set of objects with what kserve.Derive derives from
// them, and of the pods among them. An object from which nothing can be derived
// keeps no other from being judged: the snapshot's Map.Underived names it.
func Of(set *manifest.Set, pods []credential.Pod, cfg authorizer.Config) (*authorizer.Snapshot, error) {
	rules, err := access.Compile(set)
	if err != nil {
		return nil, err
	}
	m, err := territory.Compile(set, cfg.Territory(kserve.Derive))
	if err != nil {
		return nil, err
	}
	return &authorizer.Snapshot{
		Rules: rules, Map: m, Pods: credential.NewPods(pods, cfg.PodRules()),
		APIKeys: credential.NewAPIKeys(set), Accounts: credential.NewAccounts(set),
	}, nil
}

// Placed are pods with the addresses that a topology gave them.
func Placed(pods []*topology.Pod) []credential.Pod {
	var out []credential.Pod
	for _, p := range pods {
		pod := credential.Pod{Namespace: p.Namespace, Name: p.Name, ServiceAccount: p.ServiceAccount, Labels: p.Labels, HostNetwork: p.HostNetwork, Terminating: !p.Running}
		if o := p.Workload.Object; p.Workload.Kind == "Pod" {
			pod.UID = string(o.Meta.UID)
			if live, ok := o.Value.(*corev1.Pod); ok {
				pod.Phase = string(live.Status.Phase)
			}
		}
		if p.Addr.IsValid() {
			pod.Addrs = append(pod.Addrs, p.Addr)
		}
		out = append(out, pod)
	}
	return out
}

// live are the pods of a set, each at the addresses of its own status: one
// without is nowhere, an invented address would be somebody else's. An address
// that no network of pods has is nobody's.
func live(set *manifest.Set) []credential.Pod {
	var out []credential.Pod
	for o, p := range manifest.Of[*corev1.Pod](set) {
		pod := credential.Pod{
			Namespace: o.Meta.Namespace, Name: o.Meta.Name, UID: string(o.Meta.UID), Labels: p.Labels, Phase: string(p.Status.Phase),
			ServiceAccount: topology.ServiceAccount(p.Spec), HostNetwork: p.Spec.HostNetwork, Terminating: o.Meta.DeletionTimestamp != nil,
		}
		said := []string{p.Status.PodIP}
		for _, ip := range p.Status.PodIPs {
			said = append(said, ip.IP)
		}
		for _, s := range said {
			if addr, err := netip.ParseAddr(s); err == nil && topology.PodAddress(addr) {
				pod.Addrs = append(pod.Addrs, addr.Unmap())
			}
		}
		out = append(out, pod)
	}
	return out
}

// Read is the snapshot of manifests as they were written. With a range, all their
// pods have addresses, those of status.podIP or of the range, as in `postern up`;
// without, the live ones have those of their status.
func Read(set *manifest.Set, addresses netip.Prefix, cfg authorizer.Config) (*authorizer.Snapshot, error) {
	derived, _ := kserve.Derive(set) // Map.Underived says what could not be
	whole := set.With(derived...)
	if !addresses.IsValid() {
		return Of(whole, live(whole), cfg)
	}
	where, err := topology.New(whole, topology.Options{Pods: addresses})
	if err != nil {
		return nil, err
	}
	return Of(whole, Placed(where.Pods()), cfg)
}
