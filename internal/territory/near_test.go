package territory

import (
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/manifest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestOneHostTwoModels: KServe's own default domainTemplate, NAME-NAMESPACE.DOMAIN,
// makes one host of a-b in c and of a in b-c: it is neither's. Alone each has it. (Where
// KServe uses that template, without Knative, models are not derived here yet and
// refused one by one: TestLostModel.)
func TestOneHostTwoModels(t *testing.T) {
	isvc := func(namespace, name string) string {
		return "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec: {predictor: {sklearn: {storageUri: \"gs://x/y\"}}}\n"
	}
	vs := strings.Replace(kserveVS, "NAME.NAMESPACE.example.com]", "NAME-NAMESPACE.example.com]", 1)
	vs = strings.Replace(vs, `NAME\.NAMESPACE\.example`, `NAME-NAMESPACE\.example`, 1)
	dashed := func(s *manifest.Set) ([]*manifest.Object, error) {
		var out []*manifest.Object
		for o := range manifest.Of[*manifest.InferenceService](s) {
			made, err := manifest.Bytes("derived", []byte(modelOf(vs, o.Meta.Namespace, o.Meta.Name)))
			if err != nil {
				return nil, err
			}
			for d := range made.All() {
				d.Derived = o.String()
				out = append(out, d)
			}
		}
		return out, nil
	}
	written := func(namespace, name string) string { return modelOf(vs, namespace, name) }
	const host = "a-b-c.example.com"
	for _, tt := range []struct {
		name   string
		texts  []string
		kind   Kind
		model  access.Resource
		reason string
	}{
		{"a-b in c", []string{isvc("c", "a-b"), written("c", "a-b")}, Model, access.Model("c", "a-b"), ""},
		{"a in b-c", []string{isvc("b-c", "a"), written("b-c", "a")}, Model, access.Model("b-c", "a"), ""},
		{"both", []string{isvc("c", "a-b"), written("c", "a-b"), isvc("b-c", "a"), written("b-c", "a")}, Refused, access.Resource{}, AmbiguousHost},
		{"a-b in c and a in b-d", []string{isvc("c", "a-b"), written("c", "a-b"), isvc("b-d", "a"), written("b-d", "a")}, Model, access.Model("c", "a-b"), ""},
	} {
		got := compileMap(t, Config{Derive: dashed}, tt.texts...).At(8080, host, "/", "GET")
		if got.Kind != tt.kind || got.Resource != tt.model || got.Reason != tt.reason {
			t.Errorf("%s: got %s %s %q, want %s %s %q", tt.name, got.Kind, got.Resource, got.Reason, tt.kind, tt.model, tt.reason)
		}
	}
}

// TestApplicationLeadsElsewhere: each way in which a VirtualService could lead out of
// its namespace or be Kubeflow's, beside the application that it is without.
func TestApplicationLeadsElsewhere(t *testing.T) {
	const more = `
apiVersion: v1
kind: Service
metadata: {name: named, namespace: backend}
spec: {type: ExternalName, selector: {app: web}, externalName: ml-pipeline.kubeflow.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: half, namespace: backend}
spec: {selector: {app: web}, externalName: ml-pipeline.kubeflow.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: typed, namespace: backend}
spec: {type: ExternalName, selector: {app: web}}
---
apiVersion: v1
kind: Service
metadata: {name: second, namespace: backend}
spec: {selector: {app: web}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: kubeflow}
spec: {selector: {app: web}}
`
	swap := func(old, new string) string {
		t.Helper()
		if !strings.Contains(webSpec, old) {
			t.Fatalf("%q is not in the template", old)
		}
		return strings.Replace(webSpec, old, new, 1)
	}
	for _, tt := range []struct {
		name, namespace, spec string
		want                  Kind
	}{
		{"as it is", "backend", webSpec, Application},
		{"two of its own Services", "backend", swap("host: web}}", "host: web}}, {destination: {host: second}}"), Application},
		{"mirrors of its own", "backend", swap("[{route", "[{mirrors: [{destination: {host: second}}], route"), Application},
		{"mirrors elsewhere", "backend", swap("[{route", "[{mirrors: [{destination: {host: second}}, {destination: {host: own.kserve-test.svc.cluster.local}}], route"), People},
		{"an ExternalName that selects pods", "backend", swap("host: web}", "host: named}"), People},
		{"an external name without the type", "backend", swap("host: web}", "host: half}"), People},
		{"the type without a name", "backend", swap("host: web}", "host: typed}"), People},
		{"tcp beside it", "backend", swap("http:", "tcp: [{route: [{destination: {host: second}}]}], http:"), People},
		{"tls beside it", "backend", swap("http:", "tls: [{match: [{sniHosts: [web.example.com]}], route: [{destination: {host: second}}]}], http:"), People},
		{"in Kubeflow's namespace, to its own Service", "kubeflow", webSpec, People},
		{"Kubeflow's host in capitals", "backend", swap("[web.example.com]", "[web.example.com, KF.EXAMPLE.COM]"), People},
		{"a host below Kubeflow's", "backend", swap("[web.example.com]", "[web.example.com, x.kf.example.com]"), Application},
		{"a Gateway of its own namespace", "backend", swap("kubeflow/kubeflow-gateway", "./kubeflow-gateway"), People},
		{"a star before it", "backend", swap("[web.example.com]", `[web.example.com, "*.web.example.com"]`), People},
	} {
		m := compileMap(t, Config{Hosts: []string{"kf.example.com"}}, more, virtualService(tt.namespace, "web", tt.spec))
		if got := m.At(8080, "web.example.com", "/", "GET"); got.Kind != tt.want || m.Owned(tt.namespace+"/web") != (tt.want == Application) {
			t.Errorf("%s: got %s, owned %t, want %s", tt.name, got.Kind, m.Owned(tt.namespace+"/web"), tt.want)
		}
	}
}

// TestSettled: an application whose routes look at a header has its host for itself;
// with a second VirtualService beside it only path and method may tell them apart.
func TestSettled(t *testing.T) {
	second := func(match string) string {
		return virtualService("backend", "x", `{gateways: [kubeflow/kubeflow-gateway], hosts: [web.example.com], http: [{match: [`+match+`], route: [{destination: {host: web}}]}]}`)
	}
	for _, tt := range []struct {
		name, match string
		settled     bool
	}{
		{"a path", "{uri: {prefix: /x/}}", true},
		{"a method", "{method: {exact: DELETE}}", true},
		{"a path and a method", "{uri: {prefix: /x/}, method: {exact: GET}}", true},
		{"a header", "{uri: {prefix: /x/}, headers: {x-forwarded-host: {exact: y}}}", false},
		{"a claim", "{uri: {prefix: /x/}, headers: {'@request.auth.claims.sub': {exact: y}}}", false},
		{"the lack of a header", "{uri: {prefix: /x/}, withoutHeaders: {a: {exact: y}}}", false},
		{"the query", "{uri: {prefix: /x/}, queryParams: {a: {exact: y}}}", false},
		{"the scheme", "{uri: {prefix: /x/}, scheme: {exact: https}}", false},
		{"the authority", "{uri: {prefix: /x/}, authority: {exact: web.example.com}}", false},
		{"the port", "{uri: {prefix: /x/}, port: 80}", false},
		{"pods", "{uri: {prefix: /x/}, sourceLabels: {a: b}}", false},
		{"a namespace", "{uri: {prefix: /x/}, sourceNamespace: a}", false},
		{"a regular expression that is none", "{uri: {regex: '('}}", false},
		{"a regular expression", "{uri: {regex: '/x/.*'}}", true},
		{"in any case", "{uri: {prefix: /X/}, ignoreUriCase: true}", true},
		{"one header among paths", "{uri: {prefix: /x/}}, {uri: {prefix: /y/}, headers: {a: {exact: y}}}", false},
	} {
		m := compileMap(t, Config{}, virtualService("backend", "web", strings.Replace(webSpec, "[{route", "[{match: [{uri: {prefix: /web/}}], route", 1)), second(tt.match))
		got := m.At(8080, "web.example.com", "/web/", "GET")
		if (got.Kind == Application) != tt.settled || !tt.settled && got.Reason != AmbiguousRoute {
			t.Errorf("%s: got %s %q (%s)", tt.name, got.Kind, got.Reason, got.Detail)
		}
		if got := m.At(8080, "web.example.com", "/web/", "DELETE"); tt.settled && (got.Kind == Application) == strings.HasPrefix(tt.match, "{method") {
			t.Errorf("%s: the other method: got %s %s", tt.name, got.Kind, got.Resource) // both match it, or one does
		}
		if got := m.At(8080, "web.example.com", "/x/", "GET"); tt.settled && (got.Resource != access.Application("backend", "x")) && !strings.Contains(tt.match, "DELETE") {
			t.Errorf("%s: its own path: got %s %s", tt.name, got.Kind, got.Resource)
		}
	}
	delegate := virtualService("backend", "x", `{gateways: [kubeflow/kubeflow-gateway], hosts: [web.example.com], http: [{match: [{uri: {prefix: /x/}}], delegate: {name: y}}]}`)
	m := compileMap(t, Config{}, virtualService("backend", "web", strings.Replace(webSpec, "[{route", "[{match: [{uri: {prefix: /web/}}], route", 1)), delegate)
	if got := m.At(8080, "web.example.com", "/web/", "GET"); got.Reason != AmbiguousRoute {
		t.Errorf("a delegate beside it: got %s %q", got.Kind, got.Reason)
	}
}

// TestDoors: a door's Gateway, and the marks by which one may be another's.
func TestDoors(t *testing.T) {
	for gateway, ok := range map[string]bool{"kubeflow/kubeflow-gateway": true, "kubeflow-gateway": false, "/x": false, "x/": false, "a/b/c": false, "": false} {
		set, err := manifest.Bytes("t.yaml", []byte(gateways))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Compile(set, Config{Derive: derive, Doors: []Door{{gateway, 8080}}}); (err == nil) != ok {
			t.Errorf("%q: got %v", gateway, err)
		}
	}
	tls := func(name string) string {
		return "apiVersion: networking.istio.io/v1beta1\nkind: Gateway\nmetadata: {name: " + name + ", namespace: kubeflow}\nspec: {selector: {istio: ingressgateway}, servers: [{hosts: ['*'], port: {name: https, number: 443, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: x}}]}"
	}
	web := func(gateway string) string {
		return virtualService("backend", "web", strings.Replace(webSpec, "kubeflow/kubeflow-gateway", gateway, 1))
	}
	marked := "apiVersion: networking.istio.io/v1beta1\nkind: Gateway\nmetadata: {name: marked, namespace: kubeflow, labels: {istio.io/rev: other}}\nspec: {selector: {istio: ingressgateway}, servers: [{hosts: ['*'], port: {name: http, number: 80, protocol: HTTP}}]}"
	mesh := func(name, export string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", namespace: istio-system}\ndata: {mesh: 'defaultVirtualServiceExportTo: [\"" + export + "\"]'}\n"
	}
	for _, tt := range []struct {
		name  string
		doors []Door
		texts []string
		want  Kind
	}{
		{"one with TLS", []Door{{"kubeflow/secure", 8443}}, []string{tls("secure"), web("kubeflow/secure")}, Application},
		{"two with TLS, told apart by SNI", []Door{{"kubeflow/secure", 8443}, {"kubeflow/other", 8443}}, []string{tls("secure"), tls("other"), web("kubeflow/secure")}, People},
		{"two with TLS at doors of their own", []Door{{"kubeflow/secure", 8443}, {"kubeflow/other", 8444}}, []string{tls("secure"), tls("other"), web("kubeflow/secure")}, Application},
		{"another revision's", []Door{{"kubeflow/marked", 8443}}, []string{marked, web("kubeflow/marked")}, People},
		{"a mesh that exports to all", []Door{{"kubeflow/kubeflow-gateway", 8443}}, []string{mesh("istio", "*"), web("kubeflow/kubeflow-gateway")}, Application},
		{"a mesh that does not", []Door{{"kubeflow/kubeflow-gateway", 8443}}, []string{mesh("istio", "."), web("kubeflow/kubeflow-gateway")}, People},
		{"a ConfigMap of another name", []Door{{"kubeflow/kubeflow-gateway", 8443}}, []string{mesh("istio-old", "."), web("kubeflow/kubeflow-gateway")}, Application},
	} {
		if got := compileMap(t, Config{Doors: tt.doors}, tt.texts...).At(8443, "web.example.com", "/", "GET"); got.Kind != tt.want {
			t.Errorf("%s: got %s (%s), want %s", tt.name, got.Kind, got.Detail, tt.want)
		}
	}
}

// TestWildcards: the longest that fits, as Envoy chooses, and one character at least.
func TestWildcards(t *testing.T) {
	to := func(name, host string) string {
		return virtualService("backend", name, `{gateways: [kubeflow/kubeflow-gateway], hosts: ["`+host+`"], http: [{route: [{destination: {host: web}}]}]}`)
	}
	m := compileMap(t, Config{}, to("short", "*.com"), to("long", "*.web.example.com"), to("middle", "*.example.com"))
	for host, want := range map[string]string{
		"a.web.example.com": "*.web.example.com backend/long", "web.example.com": "*.example.com backend/middle", ".example.com": "*.com backend/short",
		"example.com": "*.com backend/short", ".com": "* kubeflow/centraldashboard", "com": "* kubeflow/centraldashboard", "a.web.example.com:80": "*.web.example.com backend/long",
	} {
		if got := m.At(8080, host, "/", "GET"); got.Kind != People || got.Host+" "+strings.Join(slices.Sorted(slices.Values(got.VirtualServices)), ",") != want {
			t.Errorf("%s: got %s %s %v, want %s", host, got.Kind, got.Host, got.VirtualServices, want)
		}
	}
}

// TestLive: a VirtualService as the controllers write it is a model's while exactly one
// live object outside Kubeflow's namespaces makes it; else the host is refused, or
// people's in those namespaces. It never falls to login because an object goes.
func TestLive(t *testing.T) {
	const host = "iris.kserve-test.example.com"
	written := modelOf(kserveVS, "kserve-test", "iris")
	graph := "apiVersion: serving.kserve.io/v1alpha1\nkind: InferenceGraph\nmetadata: {name: NAME, namespace: kserve-test}\nspec: {nodes: {root: {routerType: Sequence, steps: [{serviceName: iris}]}}}\n"
	// both derives the model's VirtualServices for every object of either kind.
	both := func(s *manifest.Set) ([]*manifest.Object, error) {
		out, err := derive(s)
		for o := range manifest.Of[*manifest.InferenceGraph](s) {
			made, err := manifest.Bytes("derived", []byte(modelOf(kserveVS, o.Meta.Namespace, o.Meta.Name)))
			if err != nil {
				return nil, err
			}
			for d := range made.All() {
				d.Derived = o.String()
				out = append(out, d)
			}
		}
		return out, err
	}
	named := func(name string) string { return strings.Replace(graph, "NAME", name, 1) }
	for _, tt := range []struct {
		name   string
		derive func(*manifest.Set) ([]*manifest.Object, error)
		text   string
		change func(*manifest.Object)
		kind   Kind
		reason string
	}{
		{"as it is", derive, written, nil, Model, ""},
		{"being deleted", derive, written, func(o *manifest.Object) { o.Meta.DeletionTimestamp = &metav1.Time{} }, Refused, NotDerived},
		{"a graph of another name", both, written + "\n---\n" + named("iris2"), nil, Model, ""},
		{"a graph of its name", both, written + "\n---\n" + named("iris"), nil, Refused, NotDerived},
		{"derived from somebody else's", func(s *manifest.Set) ([]*manifest.Object, error) {
			out, err := derive(s)
			for _, o := range out {
				o.Derived = strings.Replace(o.Derived, "kserve-test/", "backend/", 1)
			}
			return out, err
		}, written + "\n---\napiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: iris, namespace: backend}\nspec: {predictor: {sklearn: {}}}\n", nil, Refused, NotDerived},
	} {
		set, err := manifest.Bytes("t.yaml", []byte(gateways+"\n---\n"+tt.text))
		if err != nil {
			t.Fatal(err)
		}
		for o := range manifest.Of[*manifest.InferenceService](set) {
			if tt.change != nil {
				tt.change(o)
			}
		}
		m, err := Compile(set, Config{Derive: tt.derive, Doors: []Door{{"kubeflow/kubeflow-gateway", 8080}}, Namespaces: []string{"kubeflow", "knative-serving"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.At(8080, host, "/", "GET"); got.Kind != tt.kind || got.Reason != tt.reason {
			t.Errorf("%s: got %s %q (%s), want %s %q", tt.name, got.Kind, got.Reason, got.Detail, tt.kind, tt.reason)
		}
	}
	// Of a graph nothing is derived: its VirtualService is nobody's.
	lost := compileMap(t, Config{}, named("walk"), virtualService("kserve-test", "walk", `{gateways: [kubeflow/kubeflow-gateway], hosts: [walk.example.com], http: [{route: [{destination: {host: a.b.svc.cluster.local}}]}]}`))
	if got := lost.At(8080, "walk.example.com", "/", "GET"); got.Reason != NotDerived {
		t.Errorf("a graph of which nothing is derived: got %s %q", got.Kind, got.Reason)
	}
	ours := "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: own, namespace: kubeflow}\nspec: {predictor: {sklearn: {}}}\n---\n" + modelOf(kserveVS, "kubeflow", "own")
	if got := compileMap(t, Config{}, ours).At(8080, "own.kubeflow.example.com", "/", "GET"); got.Kind != People {
		t.Errorf("a model in Kubeflow's namespace: got %s %q", got.Kind, got.Reason)
	}
}
