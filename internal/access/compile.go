package access

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"postern.dev/postern/internal/manifest"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Compile reads the Roles, ClusterRoles, RoleBindings and ClusterRoleBindings
// of a set. A binding that no API server would take is an error; a binding to a
// role that does not exist grants nothing, as in Kubernetes. What an error names
// grants nothing, and the Rules beside it hold all the rest: whoever goes on with
// them must say what the error said.
func Compile(set *manifest.Set) (*Rules, error) {
	c := &compiler{rules: &Rules{scopes: map[string]*scope{}}, roles: map[Ref]role{}}
	c.readRoles(set)
	c.aggregate()
	var bindings []pending
	for o, v := range manifest.Of[*rbacv1.ClusterRoleBinding](set) {
		bindings = append(bindings, pending{o, v.RoleRef, v.Subjects})
	}
	for o, v := range manifest.Of[*rbacv1.RoleBinding](set) {
		bindings = append(bindings, pending{o, v.RoleRef, v.Subjects})
	}
	sort.Slice(bindings, func(i, j int) bool { return bindings[i].object.Key() < bindings[j].object.Key() })
	for i, b := range bindings {
		c.bind(i, b)
	}
	return c.rules, errors.Join(c.errs...)
}

type compiler struct {
	rules *Rules
	roles map[Ref]role // keys without Source
	errs  []error
}

type role struct {
	object    *manifest.Object
	rules     []rbacv1.PolicyRule
	aggregate []labels.Selector // set for a ClusterRole with an aggregationRule
}

type pending struct {
	object   *manifest.Object
	roleRef  rbacv1.RoleRef
	subjects []rbacv1.Subject
}

func (c *compiler) readRoles(set *manifest.Set) {
	for o, v := range manifest.Of[*rbacv1.Role](set) {
		c.roles[Ref{Kind: "Role", Namespace: o.Meta.Namespace, Name: o.Meta.Name}] = role{object: o, rules: v.Rules}
	}
	for o, v := range manifest.Of[*rbacv1.ClusterRole](set) {
		r := role{object: o, rules: v.Rules}
		if v.AggregationRule != nil {
			// What stands in .rules is the controller's, not the writer's: it
			// is computed anew.
			r.rules, r.aggregate = nil, []labels.Selector{}
			for i := range v.AggregationRule.ClusterRoleSelectors {
				s, err := metav1.LabelSelectorAsSelector(&v.AggregationRule.ClusterRoleSelectors[i])
				if err != nil {
					c.errs = append(c.errs, o.Errorf(fmt.Sprintf("aggregationRule.clusterRoleSelectors[%d]", i), "%v", err))
					continue
				}
				r.aggregate = append(r.aggregate, s)
			}
		}
		c.roles[Ref{Kind: "ClusterRole", Name: o.Meta.Name}] = r
	}
}

// aggregate fills the ClusterRoles that are made of others, as Kubernetes'
// clusterroleaggregation controller does: the rules of every ClusterRole that a
// selector picks, itself excepted, each rule once. A picked role may be made of
// others too (Kubeflow: -admin of -edit of -view), so it goes on until nothing
// changes; roles that pick each other in a circle give each other nothing.
func (c *compiler) aggregate() {
	var names []string
	for ref := range c.roles {
		if ref.Kind == "ClusterRole" {
			names = append(names, ref.Name)
		}
	}
	sort.Strings(names)
	for changed := true; changed; {
		changed = false
		for _, name := range names {
			ref := Ref{Kind: "ClusterRole", Name: name}
			r := c.roles[ref]
			if r.aggregate == nil {
				continue
			}
			if got := c.picked(name, r.aggregate, names); len(got) != len(r.rules) {
				// Rules are only ever added from one round to the next.
				r.rules, changed = got, true
				c.roles[ref] = r
			}
		}
	}
}

func (c *compiler) picked(self string, selectors []labels.Selector, names []string) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, s := range selectors {
		for _, name := range names {
			r := c.roles[Ref{Kind: "ClusterRole", Name: name}]
			if name == self || !s.Matches(labels.Set(r.object.Meta.Labels)) {
				continue
			}
			for _, rule := range r.rules {
				if !slices.ContainsFunc(out, func(have rbacv1.PolicyRule) bool { return equalRule(have, rule) }) {
					out = append(out, rule)
				}
			}
		}
	}
	return out
}

func equalRule(a, b rbacv1.PolicyRule) bool {
	return slices.Equal(a.Verbs, b.Verbs) && slices.Equal(a.APIGroups, b.APIGroups) &&
		slices.Equal(a.Resources, b.Resources) && slices.Equal(a.ResourceNames, b.ResourceNames) &&
		slices.Equal(a.NonResourceURLs, b.NonResourceURLs)
}

func (c *compiler) bind(order int, p pending) {
	o := p.object
	namespace := o.Meta.Namespace // empty for a ClusterRoleBinding
	if !c.validRoleRef(p) {
		return
	}
	ref := Ref{Kind: p.roleRef.Kind, Name: p.roleRef.Name}
	if ref.Kind == "Role" {
		ref.Namespace = namespace
	}
	found, ok := c.roles[ref]
	b := &binding{
		order: order,
		ref:   Ref{Kind: o.Kind, Namespace: namespace, Name: o.Meta.Name, Source: o.Source.String()},
		role:  ref, rules: found.rules,
	}
	if ok {
		b.role.Source = found.object.Source.String()
	}
	s := c.rules.scopes[namespace]
	if s == nil {
		s = &scope{bySubject: map[subject][]*binding{}, opened: map[Resource]*opening{}}
		c.rules.scopes[namespace] = s
	}
	held := false
	for i, sub := range p.subjects {
		who, err := c.subject(p, i, sub)
		switch {
		case err != nil:
			c.errs = append(c.errs, err)
		case who == subject{group: true, name: mastersGroup}:
			// Has no meaning here; who administers the cluster is no model's caller.
		default:
			held = true
			if list := s.bySubject[who]; len(list) == 0 || list[len(list)-1] != b {
				s.bySubject[who] = append(list, b)
			}
		}
	}
	if held {
		s.open(b.rules)
	}
}

// open notes the rules that matter to Bound.
func (s *scope) open(rules []rbacv1.PolicyRule) {
	for _, rule := range rules {
		ours := slices.ContainsFunc([]string{Predict, PredictUnproven, Call, CallUnproven}, func(v string) bool { return slices.Contains(rule.Verbs, v) })
		if !ours {
			continue
		}
		for _, kind := range []Resource{Model("", ""), Graph("", ""), Application("", "")} {
			proven, unproven := kind.verbs()
			whole := rule
			whole.ResourceNames = nil
			if !allows(&whole, question{verb: proven, Resource: kind}) && !allows(&whole, question{verb: unproven, Resource: kind}) {
				continue
			}
			o := s.opened[kind]
			if o == nil {
				o = &opening{names: map[string]bool{}}
				s.opened[kind] = o
			}
			o.all = o.all || len(rule.ResourceNames) == 0
			for _, name := range rule.ResourceNames {
				o.names[name] = true
			}
		}
	}
}

// validRoleRef checks what the API server's validation checks
// (pkg/apis/rbac/validation).
func (c *compiler) validRoleRef(p pending) bool {
	fail := func(field, format string, args ...any) bool {
		c.errs = append(c.errs, p.object.Errorf(field, format, args...))
		return false
	}
	switch kind := p.roleRef.Kind; {
	case p.roleRef.APIGroup != rbacv1.GroupName && p.roleRef.APIGroup != "":
		return fail("roleRef.apiGroup", "got %q, want %q", p.roleRef.APIGroup, rbacv1.GroupName)
	case p.roleRef.Name == "":
		return fail("roleRef.name", "required")
	case p.object.Kind == "ClusterRoleBinding" && kind != "ClusterRole":
		return fail("roleRef.kind", "got %q, want ClusterRole", kind)
	case kind != "ClusterRole" && kind != "Role":
		return fail("roleRef.kind", "got %q, want Role or ClusterRole", kind)
	}
	return true
}

func (c *compiler) subject(p pending, i int, s rbacv1.Subject) (subject, error) {
	fail := func(field, format string, args ...any) (subject, error) {
		return subject{}, p.object.Errorf(fmt.Sprintf("subjects[%d].%s", i, field), format, args...)
	}
	if s.Name == "" {
		return fail("name", "required")
	}
	if s.Kind == rbacv1.ServiceAccountKind {
		namespace := s.Namespace
		if namespace == "" {
			namespace = p.object.Meta.Namespace
		}
		switch {
		case s.APIGroup != "":
			return fail("apiGroup", "got %q, want \"\" for a ServiceAccount", s.APIGroup)
		case namespace == "":
			return fail("namespace", "required for a ServiceAccount in a ClusterRoleBinding")
		}
		return subject{name: "system:serviceaccount:" + namespace + ":" + s.Name}, nil
	}
	if s.Kind != rbacv1.UserKind && s.Kind != rbacv1.GroupKind {
		return fail("kind", "got %q, want User, Group or ServiceAccount", s.Kind)
	}
	if s.APIGroup != "" && s.APIGroup != rbacv1.GroupName {
		return fail("apiGroup", "got %q, want %q", s.APIGroup, rbacv1.GroupName)
	}
	return subject{group: s.Kind == rbacv1.GroupKind, name: s.Name}, nil
}
