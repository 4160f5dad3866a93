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
// them, and of the pods among them.
func Of(set *manifest.Set, pods []*topology.Pod, cfg authorizer.Config) (*authorizer.Snapshot, error) {
	rules, err := access.Compile(set)
	if err != nil {
		return nil, err
	}
	m, err := territory.Compile(set, cfg.Territory(kserve.Derive))
	if err != nil {
		return nil, err
	}
	var known []credential.Pod
	for _, p := range pods {
		pod := credential.Pod{Namespace: p.Namespace, Name: p.Name, ServiceAccount: p.ServiceAccount, Labels: p.Labels, HostNetwork: p.HostNetwork, Terminating: !p.Running}
		if p.Workload.Kind == "Pod" {
			pod.UID = string(p.Workload.Object.Meta.UID)
		}
		if p.Addr.IsValid() {
			pod.Addrs = append(pod.Addrs, p.Addr)
		}
		known = append(known, pod)
	}
	return &authorizer.Snapshot{
		Rules: rules, Map: m, Pods: credential.NewPods(known, cfg.PodRules()),
		APIKeys: credential.NewAPIKeys(set), Accounts: credential.NewAccounts(set),
	}, nil
}

// Read is the snapshot of manifests as they were written. Pods without an address
// of their own (status.podIP) get one of a range, as in `postern up`; without a
// range they have none: an invented address would be somebody else's.
func Read(set *manifest.Set, addresses netip.Prefix, cfg authorizer.Config) (*authorizer.Snapshot, error) {
	derived, err := kserve.Derive(set)
	if err != nil {
		return nil, err
	}
	whole := set.With(derived...)
	where, err := topology.New(whole, topology.Options{Pods: addresses})
	if err != nil {
		return nil, err
	}
	if addresses.IsValid() {
		return Of(whole, where.Pods(), cfg)
	}
	var placed []*topology.Pod
	for _, p := range where.Pods() {
		if _, pod, ok := manifest.Find[*corev1.Pod](whole, p.Namespace, p.Name); ok && pod.Status.PodIP != "" {
			placed = append(placed, p)
		}
	}
	return Of(whole, placed, cfg)
}
