// Package snapshot makes what posternd knows of a cluster out of the cluster's
// objects: those of manifests, or those of a watch.
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
	m, err := territory.Compile(set, cfg.Territory(kserve.Routes))
	if err != nil {
		return nil, err
	}
	return &authorizer.Snapshot{
		Rules: rules, Map: m, Pods: credential.NewPods(pods, cfg.PodRules()),
		APIKeys: credential.NewAPIKeys(set), Accounts: credential.NewAccounts(set),
	}, nil
}

// Part is what of a snapshot is made of some kinds of objects alone.
type Part int

// The parts, the quickest to make and to matter first: what ends somebody's access
// must not wait for the routes of thousands of models.
const (
	Rules Part = iota
	Keys
	Accounts
	Pods
	Map
	Parts // how many there are
)

// String is the part's name for people.
func (p Part) String() string {
	return [Parts]string{Rules: "rules", Keys: "API keys", Accounts: "ServiceAccounts", Pods: "pods", Map: "routes"}[p]
}

// Of names the kinds, by group and kind, that a part is made of.
func (p Part) Of() []string {
	const rbac = "rbac.authorization.k8s.io/"
	return [Parts][]string{
		Rules:    {rbac + "Role", rbac + "ClusterRole", rbac + "RoleBinding", rbac + "ClusterRoleBinding"},
		Keys:     {"apikeys.postern.dev/ApiKey"},
		Accounts: {"/ServiceAccount"},
		Pods:     {"/Pod"},
		Map: {
			"/ConfigMap", "/Service", "networking.istio.io/Gateway", "networking.istio.io/VirtualService",
			"serving.kserve.io/InferenceService", "serving.kserve.io/InferenceGraph",
		},
	}[p]
}

// Update is a snapshot like before, one part of which is made of a set anew: of all
// objects of its kinds, as they are in the cluster. before may be nil. problems are
// the objects that count for nothing, one by one; err is set when no snapshot could be
// made, by a fault of the configuration.
func Update(before *authorizer.Snapshot, p Part, set *manifest.Set, cfg authorizer.Config) (s *authorizer.Snapshot, problems, err error) {
	s = &authorizer.Snapshot{}
	if before != nil {
		*s = *before
	}
	switch p {
	case Rules:
		s.Rules, problems = access.Compile(set)
	case Keys:
		s.APIKeys = credential.NewAPIKeys(set)
		problems = s.APIKeys.Problems()
	case Accounts:
		s.Accounts = credential.NewAccounts(set)
	case Pods:
		s.Pods = credential.NewPods(live(set), cfg.PodRules())
	case Map:
		if s.Map, err = territory.Compile(set, cfg.Territory(kserve.Routes)); err == nil {
			problems = s.Map.Underived()
		}
	}
	return s, problems, err
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
