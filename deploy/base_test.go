package deploy

import (
	"slices"
	"strings"
	"testing"

	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/manifest"
)

func base(t *testing.T, files ...string) *manifest.Set {
	t.Helper()
	var texts []string
	for _, f := range files {
		text, err := FS.ReadFile("base/" + f)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	set, err := manifest.Bytes("base", []byte(strings.Join(texts, "\n---\n")))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// kubeflowRoles are Kubeflow's own (kubeflow/manifests common/kubeflow-roles), and the
// bindings of a profile's owner, a contributor and a viewer.
const kubeflowRoles = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kubeflow-admin}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {rbac.authorization.kubeflow.org/aggregate-to-kubeflow-admin: "true"}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kubeflow-edit, labels: {rbac.authorization.kubeflow.org/aggregate-to-kubeflow-admin: "true"}}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {rbac.authorization.kubeflow.org/aggregate-to-kubeflow-edit: "true"}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kubeflow-view, labels: {rbac.authorization.kubeflow.org/aggregate-to-kubeflow-edit: "true"}}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {rbac.authorization.kubeflow.org/aggregate-to-kubeflow-view: "true"}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: admin, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kubeflow-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: owner}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: edit, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kubeflow-edit}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: contributor}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: view, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kubeflow-view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: viewer}]
`

// TestRolesAggregate: with the roles of this directory a profile's owner and
// contributors may call what is in their namespace, its viewers and others may not; and
// nobody has the verbs for callers without proof, so nobody can give them away.
func TestRolesAggregate(t *testing.T) {
	roles := base(t, "roles.yaml")
	theirs, err := manifest.Bytes("kubeflow", []byte(kubeflowRoles))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := access.Compile(roles.With(slices.Collect(theirs.All())...))
	if err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]bool{"owner": true, "contributor": true, "viewer": false, "somebody": false} {
		for _, namespace := range []string{"team", "lab"} {
			for _, r := range []access.Resource{access.Model(namespace, "m"), access.Graph(namespace, "g"), access.Application(namespace, "a")} {
				proven, unproven := access.Caller{User: user, Proven: true}, access.Caller{User: user}
				if got := rules.May(proven, proven.Verb(r), r).Allowed; got != (want && namespace == "team") {
					t.Errorf("%s on %s: got %t", user, r, got)
				}
				if rules.May(unproven, unproven.Verb(r), r).Allowed {
					t.Errorf("%s has %s on %s", user, unproven.Verb(r), r)
				}
			}
		}
	}
	for o, role := range manifest.Of[*rbacv1.ClusterRole](roles) {
		open := o.Meta.Name == "postern-open-model"
		if open && (len(role.Labels) > 0 || len(o.Meta.Labels) > 0) {
			t.Errorf("%s has labels, by which a role could take it in: %v", o, role.Labels)
		}
		for _, rule := range role.Rules {
			for _, verb := range rule.Verbs {
				if strings.HasSuffix(verb, "-unproven") != open || verb == "*" {
					t.Errorf("%s: verb %s", o, verb)
				}
			}
		}
	}
}

// TestPrivilegedPort: checks reach posternd's loopback through its sidecar alone, from
// the gateways' identities alone; the port beside it takes GET from anybody.
func TestPrivilegedPort(t *testing.T) {
	set := base(t, "mesh.yaml")
	_, peer, ok := manifest.Find[*security.PeerAuthentication](set, "postern-system", "posternd")
	if !ok || peer.GetMtls().GetMode() != security.PeerAuthentication_MutualTLS_STRICT || len(peer.GetPortLevelMtls()) != 1 || peer.GetPortLevelMtls()[9001] == nil {
		t.Errorf("got %v", peer)
	}
	policies := 0
	for o, p := range manifest.Of[*security.AuthorizationPolicy](set) {
		policies++
		if p.GetAction() != security.AuthorizationPolicy_ALLOW || p.GetSelector().GetMatchLabels()["app"] != "posternd" {
			t.Errorf("%s: got %v for %v", o, p.GetAction(), p.GetSelector())
		}
		for _, r := range p.GetRules() {
			var ports, from []string
			for _, to := range r.GetTo() {
				ports = append(ports, to.GetOperation().GetPorts()...)
			}
			for _, f := range r.GetFrom() {
				from = append(from, f.GetSource().GetPrincipals()...)
			}
			switch {
			case slices.Equal(ports, []string{"9001"}) && slices.Equal(r.GetTo()[0].GetOperation().GetMethods(), []string{"GET"}):
			case !slices.Equal(ports, []string{"9000"}) || len(from) == 0 || len(r.GetFrom()) != 1:
				t.Errorf("%s: ports %v from %v", o, ports, from)
			}
			for _, principal := range from {
				if !strings.HasPrefix(principal, "cluster.local/ns/istio-system/sa/") || strings.Contains(principal, "*") || !strings.HasSuffix(principal, "gateway-service-account") {
					t.Errorf("%s lets %s in", o, principal)
				}
			}
		}
	}
	_, sidecar, ok := manifest.Find[*networking.Sidecar](set, "postern-system", "posternd")
	if !ok || policies != 1 || len(sidecar.GetIngress()) != 2 {
		t.Fatalf("got %d policies and %v", policies, sidecar)
	}
	for _, in := range sidecar.GetIngress() {
		if !strings.HasPrefix(in.GetDefaultEndpoint(), "127.0.0.1:") {
			t.Errorf("port %d leads to %s", in.GetPort().GetNumber(), in.GetDefaultEndpoint())
		}
	}
}

// TestTwoReplicas: without posternd the gateway answers 503 to everybody.
func TestTwoReplicas(t *testing.T) {
	text, err := FS.ReadFile("base/posternd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Kind string
		Spec struct {
			Replicas     int
			MinAvailable int
			Strategy     struct{ RollingUpdate struct{ MaxUnavailable int } }
		}
	}
	seen := map[string]bool{}
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		if spec.Kind = ""; yaml.Unmarshal([]byte(doc), &spec) != nil {
			continue // of a kind that has other things there
		}
		seen[spec.Kind] = true
		switch {
		case spec.Kind == "Deployment" && (spec.Spec.Replicas < 2 || spec.Spec.Strategy.RollingUpdate.MaxUnavailable != 0):
			t.Errorf("got %+v", spec)
		case spec.Kind == "PodDisruptionBudget" && spec.Spec.MinAvailable < 1:
			t.Errorf("got %+v", spec)
		}
	}
	if !seen["Deployment"] || !seen["PodDisruptionBudget"] {
		t.Errorf("got %v", seen)
	}
}
