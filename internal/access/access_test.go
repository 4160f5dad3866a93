package access

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/internal/manifest"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const kinds = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: postern-open-model}
rules:
- {apiGroups: [serving.kserve.io], resources: [inferenceservices, inferencegraphs], verbs: [predict-unproven]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: postern-model-caller, labels: {rbac.authorization.kubeflow.org/aggregate-to-kubeflow-edit: "true"}}
rules:
- {apiGroups: [serving.kserve.io], resources: [inferenceservices, inferencegraphs], verbs: [predict]}
- {apiGroups: [networking.istio.io], resources: [virtualservices], verbs: [call]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kubeflow-edit, labels: {rbac.authorization.kubeflow.org/aggregate-to-kubeflow-admin: "true"}}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {rbac.authorization.kubeflow.org/aggregate-to-kubeflow-edit: "true"}}]}
rules: []
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kubeflow-admin}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {rbac.authorization.kubeflow.org/aggregate-to-kubeflow-admin: "true"}}]}
rules:
- {apiGroups: ["*"], resources: ["*"], verbs: ["*"]} # the controller's, not the writer's
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: owner, namespace: alice}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kubeflow-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: alice@example.com}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: in-cluster, namespace: kserve-test}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-open-model}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "postern:pods"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: one, namespace: team}
rules:
- {apiGroups: [serving.kserve.io], resources: [inferenceservices], resourceNames: [iris], verbs: [predict]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: robot, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: one}
subjects: [{kind: ServiceAccount, name: robot}, {kind: ServiceAccount, name: robot, namespace: other}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: dangling, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: missing}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: nobody}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: cluster-admin}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: cluster-admin}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:masters"}]
`

func compile(t *testing.T, text string) *Rules {
	t.Helper()
	set, err := manifest.Bytes("rbac.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Compile(set)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMay(t *testing.T) {
	r := compile(t, kinds)
	person := func(name string, groups ...string) Caller {
		return Caller{User: name, Groups: append(groups, AuthenticatedGroup), Proven: true, Kind: Person}
	}
	pod := Caller{User: "postern:pod:default:default", Groups: []string{"postern:pods", "postern:pods:default"}, Kind: Pod}
	sa := func(ns, name string) Caller {
		return Caller{User: "system:serviceaccount:" + ns + ":" + name, Proven: true}
	}
	provenPod := pod
	provenPod.Proven = true
	for _, tt := range []struct {
		name string
		c    Caller
		r    Resource
		want string // the binding, empty when refused
	}{
		{"a pod, opened to pods", pod, Model("kserve-test", "sklearn-iris"), "RoleBinding kserve-test/in-cluster"},
		{"a pod, not opened", pod, Model("alice", "iris"), ""},
		{"nobody, opened to pods only", Anonymous(), Model("kserve-test", "sklearn-iris"), ""},
		{"-unproven is not for who proves something", provenPod, Model("kserve-test", "sklearn-iris"), ""},
		{"opened models are not opened applications", pod, Application("kserve-test", "web"), ""},
		{"an owner through two aggregations", person("alice@example.com"), Model("alice", "iris"), "RoleBinding alice/owner"},
		{"an owner's application", person("alice@example.com"), Application("alice", "web"), "RoleBinding alice/owner"},
		{"an owner elsewhere", person("alice@example.com"), Model("team", "iris"), ""},
		{"another's name", person("alice@example.co"), Model("alice", "iris"), ""},
		{"an owner who proves nothing", Caller{User: "alice@example.com"}, Model("alice", "iris"), ""},
		{"a group named like the user", person("x", "alice@example.com"), Model("alice", "iris"), ""},
		{"the binding's ServiceAccount", sa("team", "robot"), Model("team", "iris"), "RoleBinding team/robot"},
		{"another namespace's ServiceAccount", sa("other", "robot"), Model("team", "iris"), "RoleBinding team/robot"},
		{"a third namespace's", sa("third", "robot"), Model("team", "iris"), ""},
		{"another name", sa("team", "robot"), Model("team", "iris2"), ""},
		{"a role that is missing", person("nobody"), Model("team", "iris"), ""},
		{"system:masters", person("root", "system:masters"), Model("team", "iris"), ""},
		{"no namespace", person("alice@example.com"), Model("", "iris"), ""},
		{"the zero caller", Caller{}, Model("kserve-test", "sklearn-iris"), ""},
		{"not something to call", person("alice@example.com"), Resource{Group: "", Resource: "pods", Namespace: "alice", Name: "p"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := r.May(tt.c, tt.c.Verb(tt.r), tt.r)
			if d.Allowed != (tt.want != "") || d.Binding.String() != tt.want {
				t.Errorf("got %t by %q, want %q", d.Allowed, d.Binding, tt.want)
			}
			if d.Allowed && d.Binding.Source == "" {
				t.Error("got no source of the binding")
			}
			if !d.Allowed && d != (Decision{}) {
				t.Errorf("got a refusal that names %+v", d)
			}
		})
	}
	var none *Rules
	if none.May(pod, PredictUnproven, Model("kserve-test", "sklearn-iris")).Allowed || none.Bound(Model("kserve-test", "sklearn-iris")) {
		t.Error("nil rules allow")
	}
}

func TestBound(t *testing.T) {
	r := compile(t, kinds)
	for _, tt := range []struct {
		r    Resource
		want bool
	}{
		{Model("kserve-test", "sklearn-iris"), true},
		{Application("kserve-test", "web"), false}, // system:masters does not count
		{Model("alice", "iris"), true},
		{Application("alice", "web"), true},
		{Model("team", "iris"), true},
		{Model("team", "iris2"), false},
		{Application("team", "iris"), false},
		{Model("elsewhere", "iris"), false},
		{Resource{Group: "serving.kserve.io", Resource: "inferenceservices/status", Namespace: "alice", Name: "iris"}, false},
	} {
		if got := r.Bound(tt.r); got != tt.want {
			t.Errorf("Bound(%s) = %t, want %t", tt.r, got, tt.want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	binding := func(kind, meta, ref, subject string) string {
		return fmt.Sprintf("apiVersion: rbac.authorization.k8s.io/v1\nkind: %s\nmetadata: %s\nroleRef: %s\nsubjects: [%s]\n", kind, meta, ref, subject)
	}
	role := `{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: x}`
	user := `{apiGroup: rbac.authorization.k8s.io, kind: User, name: u}`
	for _, tt := range []struct{ name, text, want string }{
		{"fine", binding("RoleBinding", `{name: b, namespace: n}`, role, user), ""},
		{"subject kind", binding("RoleBinding", `{name: b, namespace: n}`, role, `{kind: Users, name: u}`), `subjects[0].kind: got "Users"`},
		{"subject name", binding("RoleBinding", `{name: b, namespace: n}`, role, `{kind: User}`), "subjects[0].name: required"},
		{"account without namespace", binding("ClusterRoleBinding", `{name: b}`, role, `{kind: ServiceAccount, name: u}`), "subjects[0].namespace: required"},
		{"cluster binding to a Role", binding("ClusterRoleBinding", `{name: b}`, `{apiGroup: rbac.authorization.k8s.io, kind: Role, name: x}`, user), `roleRef.kind: got "Role"`},
		{"another group", binding("RoleBinding", `{name: b, namespace: n}`, `{apiGroup: v1, kind: Role, name: x}`, user), `roleRef.apiGroup: got "v1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set, err := manifest.Bytes("f.yaml", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			_, err = Compile(set)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "f.yaml:1: ")):
				t.Errorf("got %v, want f.yaml:1 and %q", err, tt.want)
			}
		})
	}
}

// TestCompileKeepsTheRest: what an error names grants nothing, all else does.
func TestCompileKeepsTheRest(t *testing.T) {
	set, err := manifest.Bytes("f.yaml", []byte(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: caller}
rules: [{verbs: [predict], apiGroups: [serving.kserve.io], resources: [inferenceservices]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bad, namespace: n}
roleRef: {apiGroup: v1, kind: ClusterRole, name: caller}
subjects: [{kind: User, name: eve}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: good, namespace: n}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: caller}
subjects: [{kind: Users, name: eve}, {kind: User, name: ada}]
`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Compile(set)
	if err == nil || !strings.Contains(err.Error(), "RoleBinding n/bad") || !strings.Contains(err.Error(), "RoleBinding n/good") {
		t.Errorf("got %v", err)
	}
	for user, want := range map[string]bool{"ada": true, "eve": false} {
		if got := r.May(Caller{User: user}, Predict, Model("n", "m")).Allowed; got != want {
			t.Errorf("%s: got %t", user, got)
		}
	}
}

func TestAggregationInACircle(t *testing.T) {
	r := compile(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: a, labels: {to: b}}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {to: a}}]}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: b, labels: {to: a}}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {to: b}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: b}
roleRef: {kind: ClusterRole, name: a}
subjects: [{kind: User, name: u}]
`)
	if r.May(Caller{User: "u", Proven: true}, Predict, Model("n", "m")).Allowed {
		t.Error("roles that pick each other got rules from nowhere")
	}
}

// world is random RBAC objects over a small alphabet, so that near misses and
// hits are both frequent.
type world struct {
	roles    map[Ref][]rbacv1.PolicyRule
	bindings []naiveBinding
	objects  []*manifest.Object
}

type naiveBinding struct {
	ref      Ref
	role     Ref
	subjects []rbacv1.Subject
}

func some(r *rand.Rand, from []string) []string {
	var out []string
	for _, s := range from {
		if r.IntN(5) < 2 {
			out = append(out, s)
		}
	}
	return out
}

func one(r *rand.Rand, from ...string) string { return from[r.IntN(len(from))] }

func randomWorld(r *rand.Rand) world {
	w := world{roles: map[Ref][]rbacv1.PolicyRule{}}
	namespaces := []string{"a", "b"}
	for i := range 4 {
		var rules []rbacv1.PolicyRule
		for range r.IntN(3) {
			rules = append(rules, rbacv1.PolicyRule{
				Verbs:         some(r, []string{"predict", "call", "predict-unproven", "get", "*", "pre*"}),
				APIGroups:     some(r, []string{"serving.kserve.io", "networking.istio.io", "", "*"}),
				Resources:     some(r, []string{"inferenceservices", "virtualservices", "*", "*/x", "inferenceservices/x", "inferenceservices/*", "*/"}),
				ResourceNames: some(r, []string{"m", "n", "*", ""}),
			})
		}
		ref := Ref{Kind: "ClusterRole", Name: fmt.Sprint("r", i)}
		meta := metav1.ObjectMeta{Name: ref.Name}
		if i%2 == 1 {
			ref.Kind, ref.Namespace = "Role", one(r, namespaces...)
			meta.Namespace = ref.Namespace
			w.objects = append(w.objects, &manifest.Object{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role", Meta: meta, Value: &rbacv1.Role{ObjectMeta: meta, Rules: rules}})
		} else {
			w.objects = append(w.objects, &manifest.Object{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole", Meta: meta, Value: &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}})
		}
		w.roles[ref] = rules
	}
	for i := range 5 {
		w.addBinding(r, fmt.Sprint("b", i), namespaces)
	}
	return w
}

func (w *world) addBinding(r *rand.Rand, name string, namespaces []string) {
	var subjects []rbacv1.Subject
	for range r.IntN(3) {
		switch r.IntN(3) {
		case 0:
			subjects = append(subjects, rbacv1.Subject{Kind: "User", Name: one(r, "u", "v", "system:serviceaccount:a:s", "g")})
		case 1:
			subjects = append(subjects, rbacv1.Subject{Kind: "Group", Name: one(r, "g", "h", "u", "system:masters")})
		default:
			subjects = append(subjects, rbacv1.Subject{Kind: "ServiceAccount", Name: one(r, "s", "t"), Namespace: one(r, "a", "b")})
		}
	}
	roleName := fmt.Sprint("r", r.IntN(6)) // two are missing
	if r.IntN(3) == 0 {
		meta := metav1.ObjectMeta{Name: name}
		ref := rbacv1.RoleRef{Kind: "ClusterRole", Name: roleName}
		w.bindings = append(w.bindings, naiveBinding{Ref{Kind: "ClusterRoleBinding", Name: name}, Ref{Kind: ref.Kind, Name: roleName}, subjects})
		w.objects = append(w.objects, &manifest.Object{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRoleBinding", Meta: meta, Value: &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}})
		return
	}
	ns := one(r, namespaces...)
	meta := metav1.ObjectMeta{Name: name, Namespace: ns}
	ref := rbacv1.RoleRef{Kind: one(r, "Role", "ClusterRole"), Name: roleName}
	role := Ref{Kind: ref.Kind, Name: roleName}
	if ref.Kind == "Role" {
		role.Namespace = ns
	}
	w.bindings = append(w.bindings, naiveBinding{Ref{Kind: "RoleBinding", Namespace: ns, Name: name}, role, subjects})
	w.objects = append(w.objects, &manifest.Object{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "RoleBinding", Meta: meta, Value: &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}})
}

// naive is RBAC as its documentation tells it, with no index and no shortcut.
func (w world) naive(c Caller, verb string, res Resource) []string {
	in := func(list []string, want string) bool {
		return slices.Contains(list, want) || slices.Contains(list, "*")
	}
	var by []string
	for _, b := range w.bindings {
		if b.ref.Kind == "RoleBinding" && b.ref.Namespace != res.Namespace {
			continue
		}
		applies := false
		for _, s := range b.subjects {
			switch {
			case s.Kind == "User" && s.Name == c.User,
				s.Kind == "Group" && s.Name != "system:masters" && slices.Contains(c.Groups, s.Name),
				s.Kind == "ServiceAccount" && c.User == "system:serviceaccount:"+s.Namespace+":"+s.Name:
				applies = true
			}
		}
		if !applies {
			continue
		}
		for i, rule := range w.roles[b.role] {
			resource := false
			for _, have := range rule.Resources {
				_, sub, isSub := strings.Cut(res.Resource, "/")
				if have == "*" || have == res.Resource || isSub && have == "*/"+sub {
					resource = true
				}
			}
			name := len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, res.Name)
			if in(rule.Verbs, verb) && in(rule.APIGroups, res.Group) && resource && name {
				by = append(by, fmt.Sprint(b.ref, i))
			}
		}
	}
	return by
}

func TestMayEqualsNaive(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	allowed := 0
	for range 3000 {
		w := randomWorld(r)
		set, err := manifest.New(w.objects...)
		if err != nil {
			continue // two roles of one name
		}
		rules, err := Compile(set)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			c := Caller{User: one(r, "u", "v", "system:serviceaccount:a:s", "system:serviceaccount:b:t", "g"), Groups: some(r, []string{"g", "h", "system:masters", "u"})}
			verb := one(r, "predict", "call", "predict-unproven", "get", "pre")
			res := Resource{
				Group:     one(r, "serving.kserve.io", "networking.istio.io", ""),
				Resource:  one(r, "inferenceservices", "virtualservices", "inferenceservices/x", "pods", "virtualservices/x"),
				Namespace: one(r, "a", "b", "c"), Name: one(r, "m", "n", "o"),
			}
			want, got := w.naive(c, verb, res), rules.May(c, verb, res)
			if got.Allowed != (len(want) > 0) {
				t.Fatalf("%+v %s %s: got %t, want %v", c, verb, res, got.Allowed, want)
			}
			if got.Allowed {
				allowed++
				if !slices.Contains(want, fmt.Sprint(Ref{Kind: got.Binding.Kind, Namespace: got.Binding.Namespace, Name: got.Binding.Name}, got.Rule)) {
					t.Fatalf("got decided by %s rule %d, want one of %v", got.Binding, got.Rule, want)
				}
				if again := rules.May(c, verb, res); again != got {
					t.Fatalf("got %+v and then %+v", got, again)
				}
			}
			w.checkBound(t, rules, res)
		}
	}
	if allowed < 500 {
		t.Errorf("only %d questions were allowed: the test sees too little", allowed)
	}
}

// checkBound compares Bound with asking for every subject there could be.
func (w world) checkBound(t *testing.T, rules *Rules, res Resource) {
	t.Helper()
	want := false
	for _, c := range []Caller{
		{User: "u"}, {User: "v"}, {User: "g"}, {User: "x", Groups: []string{"g", "h", "u"}},
		{User: "system:serviceaccount:a:s"}, {User: "system:serviceaccount:a:t"}, {User: "system:serviceaccount:b:s"}, {User: "system:serviceaccount:b:t"},
	} {
		for _, proven := range []bool{true, false} {
			c.Proven = proven
			if verb := c.Verb(res); verb != "" && len(w.named().naive(c, verb, res)) > 0 {
				want = true
			}
		}
	}
	if got := rules.Bound(res); got != want {
		t.Fatalf("Bound(%s) = %t, want %t", res, got, want)
	}
}

// named is the world without the rules that say "*" for the verb and name none of
// Postern's: they bind nothing.
func (w world) named() world {
	roles := maps.Clone(w.roles)
	for ref, rules := range roles {
		roles[ref] = slices.DeleteFunc(slices.Clone(rules), func(rule rbacv1.PolicyRule) bool {
			return !slices.ContainsFunc([]string{Predict, PredictUnproven, Call, CallUnproven}, func(v string) bool { return slices.Contains(rule.Verbs, v) })
		})
	}
	w.roles = roles
	return w
}

func BenchmarkMay(b *testing.B) {
	set, err := manifest.Bytes("rbac.yaml", []byte(kinds))
	if err != nil {
		b.Fatal(err)
	}
	rules, err := Compile(set)
	if err != nil {
		b.Fatal(err)
	}
	pod := Caller{User: "postern:pod:default:default", Groups: []string{"postern:pods", "postern:pods:default"}}
	res := Model("kserve-test", "sklearn-iris")
	for b.Loop() {
		if !rules.Bound(res) || !rules.May(pod, PredictUnproven, res).Allowed {
			b.Fatal("refused")
		}
	}
}

// A cluster's administrators may do everything; that opens no model to machines
// and closes none to people.
func TestAdministratorsBindNothing(t *testing.T) {
	const admin = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: cluster-admin}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "kubeadm:cluster-admins"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: Group, apiGroup: rbac.authorization.k8s.io, name: "kubeadm:cluster-admins"}]
`
	model := Model("a", "m")
	r := compile(t, admin)
	if !r.May(Caller{User: "root", Groups: []string{"kubeadm:cluster-admins"}, Proven: true}, Predict, model).Allowed {
		t.Error("an administrator may not predict")
	}
	if r.Bound(model) {
		t.Error("a rule for everything binds the model")
	}
	if named := compile(t, strings.Replace(admin, `verbs: ["*"]`, `verbs: ["predict"]`, 1)); !named.Bound(model) {
		t.Error("a rule that names predict does not bind the model")
	}
}
