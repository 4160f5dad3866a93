package access

import "testing"

// TestAggregatedRulesAreComputed: what stands in the rules of a role made of others
// counts for nothing, however much it looks like what the controller would write.
func TestAggregatedRulesAreComputed(t *testing.T) {
	r := compile(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: part, labels: {to: whole}}
rules:
- {apiGroups: [serving.kserve.io], resources: [inferenceservices, inferencegraphs], verbs: [predict]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: whole}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {to: whole}}]}
rules:
- {apiGroups: ["*"], resources: ["*"], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: nothing}
aggregationRule: {clusterRoleSelectors: []}
rules:
- {apiGroups: ["*"], resources: ["*"], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: whole, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: whole}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ada}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: nothing, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nothing}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: eve}]
`)
	for _, tt := range []struct {
		user string
		r    Resource
		want bool
	}{
		{"ada", Model("team", "iris"), true},
		{"ada", Graph("team", "walk"), true},
		{"ada", Application("team", "web"), false},
		{"eve", Model("team", "iris"), false},
	} {
		c := Caller{User: tt.user, Proven: true}
		if got := r.May(c, c.Verb(tt.r), tt.r).Allowed; got != tt.want {
			t.Errorf("%s on %s: got %t, want %t", tt.user, tt.r, got, tt.want)
		}
	}
	for _, tt := range []struct {
		name string
		a, b Caller
		same bool
	}{
		{"the same", Caller{"u", []string{"g"}, true, Key}, Caller{"u", []string{"g"}, true, Key}, true},
		{"another name", Caller{User: "u"}, Caller{User: "v"}, false},
		{"another group", Caller{User: "u", Groups: []string{"g"}}, Caller{User: "u", Groups: []string{"h"}}, false},
		{"without proof", Caller{User: "u", Proven: true}, Caller{User: "u"}, false},
		{"another kind", Caller{User: "u", Kind: Key}, Caller{User: "u", Kind: Pod}, false},
	} {
		if tt.a.Equal(tt.b) != tt.same {
			t.Errorf("%s: got %t", tt.name, !tt.same)
		}
	}
}
