// Package rbac holds internal/access against the authorizer of Kubernetes itself,
// k8s.io/kubernetes plugin/pkg/auth/authorizer/rbac. It is a module of its own, so
// that nothing of Kubernetes' binds the main one.
package rbac

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/manifest"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/pkg/registry/rbac/validation"
	kube "k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"
)

const (
	clusters  = 2000
	questions = 200
)

// cluster is one random set of RBAC objects, for both.
type cluster struct {
	r       *rand.Rand
	static  *validation.StaticRoles
	objects []*manifest.Object

	roles               []*rbacv1.Role
	clusterRoles        []*rbacv1.ClusterRole
	roleBindings        []*rbacv1.RoleBinding
	clusterRoleBindings []*rbacv1.ClusterRoleBinding
}

func pick(r *rand.Rand, list ...string) string { return list[r.IntN(len(list))] }

// some is up to n members of a list, perhaps none.
func some(r *rand.Rand, n int, list ...string) []string {
	var out []string
	for range r.IntN(n*4+1) / 3 { // seldom none
		out = append(out, pick(r, list...))
	}
	return out
}

var (
	verbs     = []string{"predict", "predict-unproven", "call", "call-unproven", "get", "*"}
	groups    = []string{"serving.kserve.io", "networking.istio.io", "", "*"}
	resources = []string{"inferenceservices", "inferencegraphs", "virtualservices", "inferenceservices/status", "*/status", "*/", "*", "pods"}
	names     = []string{"m", "n", "*", ""}
	users     = []string{"ada", "postern:key:a:k", "system:serviceaccount:a:s", "system:serviceaccount:b:s", "system:anonymous", "g", "*"}
	teams     = []string{"g", "postern:pods", "postern:keys:a", "system:authenticated", "system:serviceaccounts:a", "ada", "*"}
)

func (c *cluster) rules() []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for range 1 + c.r.IntN(6) {
		rule := rbacv1.PolicyRule{Verbs: some(c.r, 2, verbs...), APIGroups: some(c.r, 2, groups...), Resources: some(c.r, 2, resources...)}
		if c.r.IntN(3) == 0 {
			rule.ResourceNames = some(c.r, 2, names...)
		}
		if c.r.IntN(8) == 0 {
			rule.NonResourceURLs = []string{"*"}
		}
		out = append(out, rule)
	}
	return out
}

func (c *cluster) subjects(namespaced bool) []rbacv1.Subject {
	var out []rbacv1.Subject
	for range 1 + c.r.IntN(5) {
		switch c.r.IntN(3) {
		case 0:
			out = append(out, rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: pick(c.r, users...)})
		case 1:
			out = append(out, rbacv1.Subject{Kind: "Group", APIGroup: rbacv1.GroupName, Name: pick(c.r, teams...)})
		default:
			s := rbacv1.Subject{Kind: "ServiceAccount", Name: pick(c.r, "s", "t"), Namespace: pick(c.r, "a", "b")}
			if namespaced && c.r.IntN(3) == 0 {
				s.Namespace = "" // the binding's own
			}
			out = append(out, s)
		}
	}
	return out
}

func (c *cluster) add(kind string, meta metav1.ObjectMeta, value any) {
	c.objects = append(c.objects, &manifest.Object{APIVersion: "rbac.authorization.k8s.io/v1", Kind: kind, Meta: meta, Value: value})
}

func newCluster(seed uint64) *cluster {
	c := &cluster{r: rand.New(rand.NewPCG(seed, 1))}
	for i := range c.r.IntN(4) {
		o := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i)}, Rules: c.rules()}
		c.clusterRoles = append(c.clusterRoles, o)
		c.add("ClusterRole", o.ObjectMeta, o)
	}
	for _, ns := range []string{"a", "b"} {
		for i := range c.r.IntN(3) {
			o := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("r", i)}, Rules: c.rules()}
			c.roles = append(c.roles, o)
			c.add("Role", o.ObjectMeta, o)
		}
		for i := range c.r.IntN(4) {
			ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: pick(c.r, "r0", "r1", "gone")}
			if c.r.IntN(2) == 0 {
				ref.Kind, ref.Name = "ClusterRole", pick(c.r, "c0", "c1", "c2", "gone")
			}
			o := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("b", i)}, RoleRef: ref, Subjects: c.subjects(true)}
			c.roleBindings = append(c.roleBindings, o)
			c.add("RoleBinding", o.ObjectMeta, o)
		}
	}
	for i := range c.r.IntN(3) {
		o := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("cb", i)}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: pick(c.r, "c0", "c1", "gone")}, Subjects: c.subjects(false),
		}
		c.clusterRoleBindings = append(c.clusterRoleBindings, o)
		c.add("ClusterRoleBinding", o.ObjectMeta, o)
	}
	_, c.static = validation.NewTestRuleResolver(c.roles, c.roleBindings, c.clusterRoles, c.clusterRoleBindings)
	return c
}

// TestEqual asks both the same questions.
func TestEqual(t *testing.T) {
	asked, allowed := 0, 0
	for seed := range uint64(clusters) {
		c := newCluster(seed)
		set, err := manifest.New(c.objects...)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := access.Compile(set)
		if err != nil {
			t.Fatal(err)
		}
		theirs := kube.New(c.static, c.static, c.static, c.static)
		for range questions {
			caller := access.Caller{User: pick(c.r, users...), Groups: some(c.r, 3, teams...)}
			verb := pick(c.r, verbs...)
			res := access.Resource{
				Group: pick(c.r, groups...), Resource: pick(c.r, "inferenceservices", "inferencegraphs", "virtualservices", "inferenceservices/status", "pods"),
				Namespace: pick(c.r, "a", "b", "c"), Name: pick(c.r, names...),
			}
			q := authorizer.AttributesRecord{
				User: &user.DefaultInfo{Name: caller.User, Groups: caller.Groups}, Verb: verb, APIGroup: res.Group, APIVersion: "v1",
				Namespace: res.Namespace, Name: res.Name, ResourceRequest: true, Resource: res.Resource,
			}
			if res.Resource == "inferenceservices/status" {
				q.Resource, q.Subresource = "inferenceservices", "status"
			}
			decision, why, _ := theirs.Authorize(t.Context(), q) // an error is a role that does not exist
			got := ours.May(caller, verb, res)
			if got.Allowed != (decision == authorizer.DecisionAllow) {
				t.Fatalf("cluster %d: %+v %s %s: got %+v, Kubernetes says %v (%s)", seed, caller, verb, res, got, decision, why)
			}
			asked++
			if got.Allowed {
				allowed++
			}
		}
	}
	t.Logf("%d questions, %d allowed", asked, allowed)
	if allowed < 5000 {
		t.Errorf("only %d of %d were allowed: the test sees too little", allowed, asked)
	}
}
