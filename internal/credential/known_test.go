package credential

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/apikey"
	"postern.dev/postern/internal/keyset"
	"postern.dev/postern/internal/manifest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDefaultProxies: a pod with one of these labels is no caller, wherever it is; a
// letter more in the value, or in the name where any value counts, and it is one.
func TestDefaultProxies(t *testing.T) {
	list := []string{
		"istio=ingressgateway", "app=istio-ingressgateway", "istio=egressgateway", "app=istio-egressgateway", "istio=cluster-local-gateway", "app=cluster-local-gateway",
		"operator.istio.io/component=IngressGateways", "istio=eastwestgateway", "app=ztunnel",
		"gateway.networking.k8s.io/gateway-name=*", "gateway.istio.io/managed=*", "istio.io/gateway-name=*", // waypoints, whatever they are called
		"app=activator", "app.kubernetes.io/component=activator",
		"app.kubernetes.io/name=ingress-nginx", "app=ingress-nginx", "app=nginx-ingress", "app.kubernetes.io/name=nginx-ingress",
		"app.kubernetes.io/name=traefik", "app=traefik", "app.kubernetes.io/name=haproxy-ingress", "app.kubernetes.io/name=kubernetes-ingress",
		"app.kubernetes.io/name=kong", "app.kubernetes.io/name=contour", "app=contour", "app.kubernetes.io/name=envoy", "app=envoy",
		"app.kubernetes.io/name=oauth2-proxy", "app=oauth2-proxy", "app=cloudflared", "app.kubernetes.io/name=cloudflared",
	}
	if got := len(DefaultProxies()); got != len(list) {
		t.Errorf("there are %d defaults, and %d here", got, len(list))
	}
	caller := func(name, value string) bool {
		pods := NewPods([]Pod{{Namespace: "team", Name: "p", Addrs: addrs("10.0.0.1"), Labels: map[string]string{"pod-template-hash": "1", name: value}}}, PodRules{})
		_, ok, _ := pods.Caller(netip.MustParseAddr("10.0.0.1"))
		return ok
	}
	for _, l := range list {
		name, value, _ := strings.Cut(l, "=")
		near, other := name, value+"x"
		if value == "*" {
			value, near, other = "any", name+"x", "any"
		}
		if caller(name, value) {
			t.Errorf("%s=%s is a caller", name, value)
		}
		if !caller(near, other) {
			t.Errorf("%s=%s is no caller", near, other)
		}
	}
}

// TestAccounts: what is being deleted, and what is in another namespace, is not there.
func TestAccounts(t *testing.T) {
	object := func(namespace, name, uid string, deleted *metav1.Time) *manifest.Object {
		o := &manifest.Object{APIVersion: "v1", Kind: "ServiceAccount", Value: &corev1.ServiceAccount{}}
		o.Meta.Namespace, o.Meta.Name, o.Meta.DeletionTimestamp = namespace, name, deleted
		o.Meta.UID = "u"
		if uid != "" {
			o.Meta.UID = "x"
		}
		return o
	}
	set, err := manifest.New(object("team", "robot", "", nil), object("team", "going", "", &metav1.Time{Time: noon}), object("team", "other", "x", nil))
	if err != nil {
		t.Fatal(err)
	}
	accounts := NewAccounts(set)
	for name, want := range map[objectName]string{{"team", "robot"}: "", {"team", "going"}: NotLive, {"team", "other"}: NotLive, {"tea", "mrobot"}: NotLive, {"lab", "robot"}: NotLive} {
		if got := reasonOf(bound{account: name, uid: "u"}.live(Live{Accounts: accounts}, false)); got != want {
			t.Errorf("%v: got %q, want %q", name, got, want)
		}
	}
}

// TestDeletedKey: a key ends when its object begins to.
func TestDeletedKey(t *testing.T) {
	text, spec, err := apikey.New(bytes.NewReader(make([]byte, 42)), "team", "robot")
	if err != nil {
		t.Fatal(err)
	}
	for want, deleted := range map[string]*metav1.Time{"": nil, KeyRevoked: {Time: noon.Add(time.Hour)}} {
		o := &manifest.Object{APIVersion: "apikeys.postern.dev/v1alpha1", Kind: "ApiKey", Value: &manifest.APIKey{Spec: spec}}
		o.Meta.Namespace, o.Meta.Name, o.Meta.DeletionTimestamp = "team", "robot", deleted
		set, err := manifest.New(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := NewAPIKeys(set).Caller(Credential{Key: true, text: text}, noon); reasonOf(err) != want {
			t.Errorf("deleted %v: got %v, want %q", deleted, err, want)
		}
	}
}

// TestDoubledID: two keys, each good by itself, with one id: neither is taken. With
// one bit between the ids both are.
func TestDoubledID(t *testing.T) {
	for want, id := range map[string]byte{KeyAmbiguous: 0, "": 1} {
		o := &keyObjects{t: t}
		var texts []string
		for i, namespace := range []string{"team", "thief"} {
			random := make([]byte, 42)
			random[9], random[41] = byte(i)*id, byte(i)
			text, spec, err := apikey.New(bytes.NewReader(random), namespace, "robot")
			if err != nil {
				t.Fatal(err)
			}
			o.put(namespace, "robot", spec, "")
			texts = append(texts, text)
		}
		keys := o.keys()
		for _, text := range texts {
			if _, _, err := keys.Caller(Credential{Key: true, text: text}, noon); reasonOf(err) != want {
				t.Errorf("%s: got %v, want %q", text, err, want)
			}
		}
		if (keys.Problems() != nil) != (want != "") {
			t.Errorf("want %q: got problems %v", want, keys.Problems())
		}
	}
}

// TestTokenNames: which names of a token count, each beside one that does not.
func TestTokenNames(t *testing.T) {
	i := newIssuer(t)
	tokens := testTokens(t, i)
	machine := with(with(good(), "aud", "machines"), "email_verified", nil) // named by sub
	for _, tt := range []struct {
		name   string
		claims map[string]any
		want   string
	}{
		{"verified", good(), ""},
		{"not verified", with(good(), "email_verified", false), EmailNotVerified},
		{"verified as 1", with(good(), "email_verified", 1), EmailNotVerified},
		{"no e-mail is needed where sub names", machine, ""},
		{"system without a colon", with(good(), "email", "system"), ""},
		{"system: alone", with(good(), "email", "system:"), ReservedName},
		{"System:", with(good(), "email", "System:admin"), ""},
		{"postern without a colon", with(good(), "email", "postern@example.com"), ""},
		{"postern:", with(good(), "email", "postern:"), ReservedName},
		{"a group with system in it", with(good(), "groups", []string{"my-system:masters"}), ""},
		{"a group of Postern's", with(good(), "groups", []string{"ops", "postern:pods"}), ReservedName},
		{"a group of Kubernetes' where groups are not read", with(machine, "groups", []string{"system:masters"}), ""},
		{"one group as a text", with(good(), "groups", "ops"), ""},
		{"another issuer's prefix", with(good(), "email", "client:robot"), ReservedName},
		{"almost", with(good(), "email", "client.robot"), ""},
		{"behind a prefix of its own", with(machine, "sub", "git:ada"), ""},
		{"the prefix of groups, for a user", with(good(), "email", "dex:ada"), ""},
		{"an empty group", with(good(), "groups", []string{"", "ops"}), ""},
		{"a group with a line break", with(good(), "groups", []string{"a\nb"}), TokenMalformed},
		{"a group that is a number", with(good(), "groups", []any{"ops", 1}), TokenMalformed},
		{"an audience beside a number", with(good(), "aud", []any{"postern", 1}), TokenMalformed},
		{"a name of 512 bytes", with(good(), "email", strings.Repeat("a", maxName)), ""},
		{"of 513", with(good(), "email", strings.Repeat("a", maxName+1)), TokenWithoutUser},
		{"a beginning that is a text", with(good(), "nbf", "0"), TokenMalformed},
		{"made at a text", with(good(), "iat", "0"), TokenMalformed},
		{"an end beyond all time", with(good(), "exp", 1e300), TokenMalformed},
		{"an end before all time", with(good(), "exp", -1), TokenMalformed},
	} {
		c, _, err := tokens.Caller(t.Context(), Credential{text: i.token(tt.claims)}, Live{})
		if reasonOf(err) != tt.want {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if slices.ContainsFunc(c.Groups, func(g string) bool { return g == "" || g == "dex:" }) {
			t.Errorf("%s: got groups %q", tt.name, c.Groups)
		}
	}
}

// TestBorrowedNames: where names stand without a prefix, none may begin as those of an
// issuer with one do, in a token or in a session.
func TestBorrowedNames(t *testing.T) {
	i := newIssuer(t)
	keys, err := keyset.Fixed(i.jwks())
	if err != nil {
		t.Fatal(err)
	}
	rules := []TokenRules{
		{Issuer: dex, Audiences: []string{"postern"}, Keys: keys, User: Claim{Name: "email"}, Groups: Claim{Name: "groups"}},
		{Issuer: "https://git.example.com", Audiences: []string{"postern"}, Keys: keys, User: Claim{"sub", "git:"}, Groups: Claim{"groups", "git-team:"}},
		{Issuer: "https://old.example.com", Audiences: []string{"postern"}, Keys: keys, User: Claim{"sub", "old:"}, Groups: Claim{"", "old-team:"}}, // no groups are read
	}
	tokens := NewTokens(rules, func() time.Time { return noon })
	for _, tt := range []struct{ user, group, want string }{
		{"ada@example.com", "ops", ""},
		{"git:ada", "ops", ReservedName},
		{"git", "ops", ""},
		{"old:ada", "ops", ReservedName},
		{"ada@example.com", "git-team:ops", ReservedName},
		{"ada@example.com", "git:ops", ""},
		{"git-team:ops", "ops", ""},
		{"ada@example.com", "old-team:ops", ""},
	} {
		_, _, err := tokens.Caller(t.Context(), Credential{text: i.token(with(with(good(), "email", tt.user), "groups", []string{"lab", tt.group}))}, Live{})
		if reasonOf(err) != tt.want {
			t.Errorf("a token of %s in %s: got %v, want %q", tt.user, tt.group, err, tt.want)
		}
		ask := func(context.Context, Headers) (int, http.Header, error) {
			return 200, http.Header{"Kubeflow-Userid": {tt.user}, "Kubeflow-Groups": {"lab," + tt.group}}, nil
		}
		s := NewSessions(SessionRules{Cookies: []string{"s"}, User: "kubeflow-userid", Groups: "kubeflow-groups", Others: PrefixesOf(rules)}, ask, time.Now)
		if _, ok, err := s.Caller(t.Context(), Headers{"cookie": {"s=1"}}); reasonOf(err) != tt.want || ok != (tt.want == "") {
			t.Errorf("a session of %s in %s: got %t %v, want %q", tt.user, tt.group, ok, err, tt.want)
		}
	}
}

// TestTokenID: what goes into the log is short and has no line of its own.
func TestTokenID(t *testing.T) {
	i := newIssuer(t)
	tokens := testTokens(t, i)
	long := strings.Repeat("j", 64)
	for jti, want := range map[string]string{"j1": "j1", long: long, long + "j": "", "a\nb": "", "": ""} {
		_, id, err := tokens.Caller(t.Context(), Credential{text: i.token(with(good(), "jti", jti))}, Live{})
		if err != nil || id != want {
			t.Errorf("%q: got %q %v, want %q", jti, id, err, want)
		}
	}
}

// TestSessionsApart: nobody gets the answer that was kept for another's session,
// however alike the two look.
func TestSessionsApart(t *testing.T) {
	ask := func(_ context.Context, h Headers) (int, http.Header, error) {
		name := strings.ReplaceAll(strings.Join(h["cookie"], "+")+"/"+strings.Join(h["x-auth-token"], "+"), " ", "_")
		return 200, http.Header{"Kubeflow-Userid": {name}}, nil
	}
	s := NewSessions(SessionRules{Cookies: []string{"s"}, Tokens: []string{"x-auth-token"}, User: "kubeflow-userid", Life: time.Minute}, ask, func() time.Time { return noon })
	names := map[string]bool{}
	list := []Headers{
		{"cookie": {"s=ada"}}, {"cookie": {"s=eve"}}, {"cookie": {"s=ada; t=1"}}, {"cookie": {"s=ada", "t=1"}}, {"cookie": {"s=adat=", "1"}}, {"cookie": {"s=ada", "t=", "1"}},
		{"x-auth-token": {"s=ada"}}, {"cookie": {"s=ada"}, "x-auth-token": {"t"}}, {"cookie": {"s=ada"}, "x-auth-token": {"u"}},
	}
	for range 2 {
		for _, h := range list {
			c, ok, err := s.Caller(t.Context(), h)
			if err != nil || !ok {
				t.Fatalf("%v: got %t %v", h, ok, err)
			}
			names[c.User] = true
		}
	}
	if len(names) != len(list) || s.Count().Hits.Load() != uint64(len(list)) {
		t.Errorf("got %d names for %d sessions: %v", len(names), len(list), slices.Sorted(maps.Keys(names)))
	}
}

// TestBoundOf: of what the API server writes into a token nothing may be missing.
func TestBoundOf(t *testing.T) {
	claims := func(ns, name string, rest ...any) claimSet {
		k := map[string]any{"namespace": ns, "serviceaccount": map[string]any{"name": name, "uid": "u"}}
		for i := 0; i < len(rest); i += 2 {
			k[rest[i].(string)] = rest[i+1]
		}
		return claimSet{"sub": "system:serviceaccount:" + ns + ":" + name, "kubernetes.io": k}
	}
	object := func(name, uid string) map[string]any { return map[string]any{"name": name, "uid": uid} }
	for _, tt := range []struct {
		name      string
		claims    claimSet
		ok, other bool
	}{
		{"an account", claims("team", "robot"), true, false},
		{"a pod", claims("team", "robot", "pod", object("p", "u"), "node", object("n", "u")), true, false},
		{"a pod without a name", claims("team", "robot", "pod", object("", "u")), false, false},
		{"a pod without a UID", claims("team", "robot", "pod", object("p", "")), false, false},
		{"a node alone", claims("team", "robot", "node", object("n", "u")), true, true},
		{"a Secret alone", claims("team", "robot", "secret", object("s", "u")), true, true},
		{"no namespace", claims("", "robot"), false, false},
		{"no name", claims("team", ""), false, false},
		{"a colon in the namespace", claims("team:a", "robot"), false, false},
		{"a colon in the name", claims("team", "a:robot"), false, false},
	} {
		b, ok := boundOf(tt.claims)
		if ok != tt.ok || (b.other && b.pod.name == "") != tt.other {
			t.Errorf("%s: got %+v %t", tt.name, b, ok)
		}
	}
	other := maps.Clone(claims("team", "robot"))
	other["sub"] = "system:serviceaccount:team:robo"
	if _, ok := boundOf(other); ok {
		t.Error("the subject is another's")
	}
}

// TestWhichPods: near misses of a gateway, of a finished pod, of a sibling.
func TestWhichPods(t *testing.T) {
	gateway, iris := map[string]string{"istio": "ingressgateway"}, map[string]string{ModelLabel: "iris"}
	pods := []Pod{
		{Namespace: "istio-system", Name: "gw", Addrs: addrs("10.0.0.1"), Labels: gateway},
		{Namespace: "istio-system", Name: "soon", Addrs: addrs("10.0.0.2"), Labels: gateway, Phase: "Pending"},
		{Namespace: "istio-system", Name: "leaving", Addrs: addrs("10.0.0.3"), Labels: gateway, Terminating: true},
		{Namespace: "istio-system", Name: "istiod", Addrs: addrs("10.0.0.4"), Labels: map[string]string{"app": "istiod"}},
		{Namespace: "team", Name: "failed", Addrs: addrs("10.0.1.1"), Phase: "Failed"},
		{Namespace: "team", Name: "failed-before", Addrs: addrs("10.0.1.5"), Phase: "Failed"},
		{Namespace: "team", Name: "after-it", Addrs: addrs("10.0.1.5"), Phase: "Running"},
		{Namespace: "team", Name: "unknown", Addrs: addrs("10.0.1.2"), Phase: "Unknown"},
		{Namespace: "team", Name: "twin-6", Addrs: addrs("fd00::4", "10.0.1.3")},
		{Namespace: "team", Name: "twin-6b", Addrs: addrs("fd00::4", "10.0.1.4")},
		{Namespace: "team", Name: "iris-transformer", Addrs: addrs("10.0.2.1"), Labels: iris},
		{Namespace: "lab", Name: "iris-transformer", Addrs: addrs("10.0.2.2"), Labels: iris},
		{Namespace: "team", Name: "iris2-transformer", Addrs: addrs("10.0.2.3"), Labels: map[string]string{ModelLabel: "iris2"}},
		{Namespace: "team", Name: "iris-leaving", Addrs: addrs("10.0.2.4"), Labels: iris, Terminating: true},
	}
	rules := PodRules{Gateways: []Workload{{"istio-system", gateway}, {"team", nil}}}
	p := NewPods(pods, rules)
	rules.NoCallers = "addresses prove nothing"
	open := NewPods(pods, rules)
	model := access.Model("team", "iris")
	for _, tt := range []struct {
		addr                     string
		gateway, caller, sibling bool
	}{
		{"10.0.0.1", true, false, false},
		{"10.0.0.2", false, false, false},
		{"10.0.0.3", true, false, false}, // it still hands on what it has begun
		{"10.0.0.4", false, true, false},
		{"10.0.1.1", false, false, false},
		{"10.0.1.2", false, false, false},
		{"10.0.1.5", false, true, false},
		{"fd00::4", false, false, false},
		{"10.0.1.3", false, true, false},
		{"10.0.2.1", false, true, true},
		{"10.0.2.2", false, true, false},
		{"10.0.2.3", false, true, false},
		{"10.0.2.4", false, false, false},
	} {
		a := netip.MustParseAddr(tt.addr)
		_, caller, why := p.Caller(a)
		if p.Gateway(a) != tt.gateway || caller != tt.caller || p.Sibling(a, model) != tt.sibling {
			t.Errorf("%s: got gateway %t, caller %t (%s), sibling %t", tt.addr, p.Gateway(a), caller, why, p.Sibling(a, model))
		}
		_, caller, _ = open.Caller(a)
		if open.Gateway(a) != tt.gateway || caller || open.Sibling(a, model) {
			t.Errorf("%s, where addresses prove nothing: got gateway %t, caller %t", tt.addr, open.Gateway(a), caller)
		}
	}
	if a := netip.MustParseAddr("10.0.2.1"); p.Sibling(a, access.Graph("team", "iris")) || p.Sibling(a, access.Application("team", "iris")) {
		t.Error("a model's pod is a graph's or an application's")
	}
}
