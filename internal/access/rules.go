package access

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Rules are compiled RBAC objects. They are immutable. The zero value, like a
// nil *Rules, allows nothing.
type Rules struct {
	// scopes are the bindings by namespace; "" are the ClusterRoleBindings,
	// which hold everywhere.
	scopes map[string]*scope
}

// scope holds the bindings of one namespace, or of the cluster.
type scope struct {
	bySubject map[subject][]*binding // in the order of binding.order
	// opened is what Bound looks up: by kind, a resource without namespace and name,
	// what rules open that somebody holds and that name one of Postern's verbs.
	opened map[Resource]*opening
}

// opening is what of a kind is opened: all, or those with a name.
type opening struct {
	all   bool
	names map[string]bool
}

// subject is a user or a group. A ServiceAccount subject is the user that
// Kubernetes makes of it.
type subject struct {
	group bool
	name  string
}

type binding struct {
	order int // its place among the bindings of the scope, sorted by name
	ref   Ref
	role  Ref
	rules []rbacv1.PolicyRule
}

// May tells whether the caller may use the verb on the object. Where several
// bindings allow it, the decision names a ClusterRoleBinding before a RoleBinding,
// then the first by name, then the first rule: always the same one.
func (r *Rules) May(c Caller, verb string, res Resource) Decision {
	if r == nil || verb == "" || c.User == "" {
		return Decision{}
	}
	q := question{verb: verb, Resource: res}
	if i := strings.IndexByte(res.Resource, '/'); i >= 0 {
		q.subresource = res.Resource[i+1:]
	}
	if d := r.scopes[""].may(c, q); d.Allowed {
		return d
	}
	if res.Namespace == "" {
		return Decision{}
	}
	return r.scopes[res.Namespace].may(c, q)
}

// Bound tells whether somebody is given access to r at all: whether any rule
// that a subject other than group system:masters holds allows one of predict,
// call, predict-unproven and call-unproven on it, and names one of these verbs.
// A rule with "*" for its verbs binds nothing: every cluster has administrators
// who may do everything to everything (kubeadm binds group
// kubeadm:cluster-admins to cluster-admin since 1.29), and that says nothing
// about a model. An object that is not bound stays where it was, behind login.
func (r *Rules) Bound(res Resource) bool {
	if proven, _ := res.verbs(); r == nil || proven == "" {
		return false
	}
	kind := Resource{Group: res.Group, Resource: res.Resource}
	return r.scopes[""].opens(kind, res.Name) || r.scopes[res.Namespace].opens(kind, res.Name)
}

func (s *scope) opens(kind Resource, name string) bool {
	if s == nil {
		return false
	}
	o := s.opened[kind]
	return o != nil && (o.all || o.names[name])
}

func (s *scope) may(c Caller, q question) Decision {
	if s == nil {
		return Decision{}
	}
	var best *binding
	rule := 0
	try := func(who subject) {
		for _, b := range s.bySubject[who] {
			if best != nil && b.order >= best.order {
				return
			}
			if i := slices.IndexFunc(b.rules, func(r rbacv1.PolicyRule) bool { return allows(&r, q) }); i >= 0 {
				best, rule = b, i
				return
			}
		}
	}
	try(subject{name: c.User})
	for _, g := range c.Groups {
		try(subject{group: true, name: g})
	}
	if best == nil {
		return Decision{}
	}
	return Decision{Allowed: true, Binding: best.ref, Role: best.role, Rule: rule}
}

// question is a request as a rule sees it.
type question struct {
	verb        string
	subresource string // of Resource.Resource "pods/log": "log"
	Resource
}

// allows is RuleAllows of Kubernetes' RBAC authorizer for a request about a
// resource: all four must match.
func allows(rule *rbacv1.PolicyRule, q question) bool {
	return oneOf(rule.Verbs, q.verb) &&
		oneOf(rule.APIGroups, q.Group) &&
		resourceMatches(rule.Resources, q) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, q.Name))
}

// oneOf is VerbMatches and APIGroupMatches: "*" stands for all. In resource
// names it does not.
func oneOf(list []string, want string) bool {
	for _, s := range list {
		if s == rbacv1.VerbAll || s == want {
			return true
		}
	}
	return false
}

// resourceMatches is ResourceMatches: "*" is everything, subresources included;
// "*/log" is that subresource of everything; "pods" is not "pods/log".
func resourceMatches(list []string, q question) bool {
	for _, s := range list {
		if s == rbacv1.ResourceAll || s == q.Resource.Resource {
			return true
		}
		if rest, ok := strings.CutPrefix(s, "*/"); ok && q.subresource != "" && rest == q.subresource {
			return true
		}
	}
	return false
}
