package territory

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/manifest"
)

const gateways = `
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: kubeflow-gateway, namespace: kubeflow}
spec:
  selector: {istio: ingressgateway}
  servers: [{hosts: ["*"], port: {name: http, number: 80, protocol: HTTP}}]
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: knative-local-gateway, namespace: knative-serving}
spec:
  selector: {istio: ingressgateway}
  servers: [{hosts: ["*"], port: {name: http, number: 8081, protocol: HTTP}}]
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: centraldashboard, namespace: kubeflow}
spec:
  gateways: [kubeflow-gateway]
  hosts: ["*"]
  http: [{route: [{destination: {host: centraldashboard.kubeflow.svc.cluster.local}}]}]
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: iris, namespace: kserve-test}
spec: {predictor: {sklearn: {storageUri: "gs://x/y"}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: backend}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: backend}
spec: {type: ExternalName, externalName: ml-pipeline.kubeflow.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: handmade, namespace: backend}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: own, namespace: kserve-test}
spec: {selector: {app: own}, ports: [{port: 80}]}
`

// kserveVS and knativeVS are what the controllers write for NAME and NAMESPACE.
const kserveVS = `
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  gateways: [knative-serving/knative-local-gateway, mesh, kubeflow/kubeflow-gateway]
  hosts: [NAME.NAMESPACE.svc.cluster.local, NAME.NAMESPACE.example.com]
  http:
  - headers: {request: {set: {Host: NAME-predictor.NAMESPACE.svc.cluster.local, KServe-Isvc-Name: NAME}}}
    match:
    - authority: {regex: '^NAME\.NAMESPACE\.svc\.cluster\.local(?::\d{1,5})?$'}
      gateways: [knative-serving/knative-local-gateway, mesh]
    - authority: {regex: '^NAME\.NAMESPACE\.example\.com(?::\d{1,5})?$'}
      gateways: [kubeflow/kubeflow-gateway]
    route: [{destination: {host: knative-local-gateway.istio-system.svc.cluster.local, port: {number: 80}}, weight: 100}]
`

const knativeVS = `
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: NAME-predictor-ingress, namespace: NAMESPACE}
spec:
  gateways: [knative-serving/knative-local-gateway]
  hosts: [NAME-predictor.NAMESPACE, NAME-predictor.NAMESPACE.svc, NAME-predictor.NAMESPACE.svc.cluster.local]
  http:
  - headers: {request: {set: {K-Network-Hash: abc}}}
    match: [{authority: {prefix: NAME-predictor.NAMESPACE}, gateways: [knative-serving/knative-local-gateway], headers: {K-Network-Hash: {exact: override}}}]
    route: [{destination: {host: NAME-predictor-00001.NAMESPACE.svc.cluster.local, port: {number: 80}}}]
  - match: [{authority: {prefix: NAME-predictor.NAMESPACE}, gateways: [knative-serving/knative-local-gateway]}]
    route: [{destination: {host: NAME-predictor-00001.NAMESPACE.svc.cluster.local, port: {number: 80}}}]
`

func modelOf(template, namespace, name string) string {
	return strings.NewReplacer("NAMESPACE", namespace, "NAME", name).Replace(template)
}

// derive stands for kserve.Derive.
func derive(s *manifest.Set) ([]*manifest.Object, error) {
	var out []*manifest.Object
	for o := range manifest.Of[*manifest.InferenceService](s) {
		made, err := manifest.Bytes("derived", []byte(modelOf(kserveVS+"---"+knativeVS, o.Meta.Namespace, o.Meta.Name)))
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

func compileMap(t testing.TB, cfg Config, texts ...string) *Map {
	t.Helper()
	set, err := manifest.Bytes("t.yaml", []byte(strings.Join(append([]string{gateways}, texts...), "\n---\n")))
	if err != nil {
		t.Fatal(err)
	}
	derived, err := derive(set)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Derive == nil {
		cfg.Derive = derive
	}
	if cfg.Doors == nil {
		cfg.Doors = []Door{{"kubeflow/kubeflow-gateway", 8080}, {"knative-serving/knative-local-gateway", 8081}}
	}
	cfg.Namespaces = append(cfg.Namespaces, "kubeflow", "istio-system", "knative-serving")
	m, err := Compile(set.With(derived...), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func virtualService(namespace, name, spec string) string {
	return fmt.Sprintf("apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", name, namespace, spec)
}

const webSpec = `{gateways: [kubeflow/kubeflow-gateway], hosts: [web.example.com], http: [{route: [{destination: {host: web}}]}]}`

func TestAt(t *testing.T) {
	m := compileMap(t, Config{Hosts: []string{"kf.example.com"}}, virtualService("backend", "web", webSpec))
	iris, web := access.Model("kserve-test", "iris"), access.Application("backend", "web")
	for _, tt := range []struct {
		name, host string
		port       uint16
		kind       Kind
		resource   access.Resource
		reason     string
	}{
		{"the model from outside", "iris.kserve-test.example.com", 8080, Model, iris, ""},
		{"with a port", "iris.kserve-test.example.com:8080", 8080, Model, iris, ""},
		{"in capitals", "IRIS.kserve-test.Example.COM:80", 8080, Model, iris, ""},
		{"a trailing dot is another name to Envoy", "iris.kserve-test.example.com.", 8080, People, access.Resource{}, ""},
		{"a name below it", "x.iris.kserve-test.example.com", 8080, People, access.Resource{}, ""},
		{"the model in the cluster", "iris.kserve-test.svc.cluster.local", 8081, Model, iris, ""},
		{"its second hop", "iris-predictor.kserve-test.svc.cluster.local", 8081, Model, iris, ""},
		{"its second hop's short name", "iris-predictor.kserve-test", 8081, Model, iris, ""},
		{"the second hop's name at the other door", "iris-predictor.kserve-test.svc.cluster.local", 8080, People, access.Resource{}, ""},
		{"another model's name", "iris2.kserve-test.svc.cluster.local", 8081, People, access.Resource{}, ""},
		{"the application", "web.example.com", 8080, Application, web, ""},
		{"the application at the other door", "web.example.com", 8081, People, access.Resource{}, ""},
		{"Kubeflow", "kf.example.com", 8080, People, access.Resource{}, ""},
		{"an address", "10.0.0.1:8080", 8080, People, access.Resource{}, ""},
		{"an IPv6 address", "[::1]:8080", 8080, People, access.Resource{}, ""},
		{"nothing", "", 8080, People, access.Resource{}, ""},
		{"no such door", "iris.kserve-test.example.com", 8443, Refused, access.Resource{}, UnknownDoor},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := m.At(tt.port, tt.host, "/v1/models/iris:predict", "POST")
			if got.Kind != tt.kind || got.Resource != tt.resource || got.Reason != tt.reason {
				t.Errorf("got %s %s %q, want %s %s %q", got.Kind, got.Resource, got.Reason, tt.kind, tt.resource, tt.reason)
			}
		})
	}
	if got := m.At(8081, "iris.kserve-test.svc.cluster.local", "/", "GET"); !slices.Equal(got.VirtualServices, []string{"kserve-test/iris"}) || !got.Settled {
		t.Errorf("got %+v", got)
	}
	if !m.Owned("kserve-test/iris-predictor-ingress") || m.Owned("kubeflow/centraldashboard") {
		t.Error("Owned is wrong")
	}
	var none *Map
	if got := none.At(8080, "x", "/", "GET"); got.Kind != Refused {
		t.Errorf("a nil Map: got %s", got.Kind)
	}
}

// TestForged: whatever a tenant changes in a VirtualService named like a model's
// makes it no model's, even with the model's owner reference.
func TestForged(t *testing.T) {
	for _, tt := range []struct{ name, old, new string }{
		{"the original", "", ""},
		{"another Host", "Host: iris-predictor.kserve-test", "Host: victim-predictor.kserve-test"},
		{"another Host by :authority", "KServe-Isvc-Name: iris", "':authority': victim-predictor.kserve-test.svc.cluster.local"},
		{"another Host beside the right one", "KServe-Isvc-Name: iris", "host: iris-predictor.kserve-test.svc.cluster.local, ':authority': victim"},
		{"no Host", "Host: iris-predictor.kserve-test.svc.cluster.local, ", ""},
		{"another destination", "host: knative-local-gateway.istio-system", "host: ml-pipeline.kubeflow"},
		{"another port", "number: 80}", "number: 8888}"},
		{"one host more", "iris.kserve-test.example.com]", "iris.kserve-test.example.com, other.example.com]"},
		{"one gateway more", "[knative-serving/knative-local-gateway, mesh, kubeflow/kubeflow-gateway]", "[knative-serving/knative-local-gateway, mesh, kubeflow/kubeflow-gateway, kserve-test/mine]"},
		{"a mirror", "    route:", "    mirror: {host: own}\n    route:"},
		{"mirrors", "    route:", "    mirrors: [{destination: {host: own}}]\n    route:"},
		{"a rewrite", "    route:", "    rewrite: {authority: victim}\n    route:"},
		{"a path", "    - authority: {regex: '^iris\\.kserve-test\\.example", "    - uri: {prefix: /v1}\n      authority: {regex: '^iris\\.kserve-test\\.example"},
		{"a header looked at", "      gateways: [kubeflow/kubeflow-gateway]", "      gateways: [kubeflow/kubeflow-gateway]\n      headers: {x: {exact: y}}"},
		{"a passport of its own", "KServe-Isvc-Name: iris", "x-postern-passport: stolen"},
		{"an identity of its own", "KServe-Isvc-Name: iris", "kubeflow-userid: victim"},
		{"an identity added", "{request: {set:", "{request: {add: {kubeflow-userid: victim}, set:"},
		{"a caller's name removed", "{request: {set:", "{request: {remove: [x-postern-caller], set:"},
		{"an identity at the destination", "weight: 100}]", "weight: 100, headers: {request: {set: {kubeflow-userid: victim}}}}]"},
		{"an identity added at the destination", "weight: 100}]", "weight: 100, headers: {request: {add: {kubeflow-userid: victim}}}}]"},
		{"a second destination", "weight: 100}]", "weight: 50}, {destination: {host: own}, weight: 50}]"},
		{"a route more", "  http:\n", "  http:\n  - {match: [{headers: {x: {exact: y}}}], route: [{destination: {host: own}}]}\n"},
		{"tcp", "  http:\n", "  tcp: [{route: [{destination: {host: own}}]}]\n  http:\n"},
		{"tls", "  http:\n", "  tls: [{match: [{sniHosts: [iris.kserve-test.example.com]}], route: [{destination: {host: own}}]}]\n  http:\n"},
		{"a delegate", "    route: [{destination: {host: knative-local-gateway.istio-system.svc.cluster.local, port: {number: 80}}, weight: 100}]\n", "    delegate: {name: x}\n"},
		{"a redirect", "    route: [{destination: {host: knative-local-gateway.istio-system.svc.cluster.local, port: {number: 80}}, weight: 100}]\n", "    redirect: {authority: victim}\n"},
		{"an answer of its own", "    route: [{destination: {host: knative-local-gateway.istio-system.svc.cluster.local, port: {number: 80}}, weight: 100}]\n", "    directResponse: {status: 200}\n"},
		{"a route more at the end", "weight: 100}]\n", "weight: 100}]\n  - {route: [{destination: {host: own}}]}\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := modelOf(kserveVS, "kserve-test", "iris")
			if tt.old != "" && !strings.Contains(text, tt.old) {
				t.Fatalf("%q is not in the template", tt.old)
			}
			text = strings.Replace(text, tt.old, tt.new, 1)
			text = strings.Replace(text, "namespace: kserve-test}", "namespace: kserve-test, ownerReferences: [{apiVersion: serving.kserve.io/v1beta1, kind: InferenceService, name: iris, uid: u}]}", 1)
			m := compileMap(t, Config{}, text)
			want := People
			switch tt.name {
			case "the original":
				want = Model
			case "a redirect", "an answer of its own": // they reach nothing: an application, which needs a rule of its own
				want = Application
			}
			if got := m.At(8080, "iris.kserve-test.example.com", "/", "GET"); got.Kind != want {
				t.Errorf("got %s %+v, want %s", got.Kind, got, want)
			}
		})
	}
	// What differs from version to version, and what the owner may choose.
	for _, tt := range []struct{ name, old, new string }{
		{"no KServe header", ", KServe-Isvc-Name: iris", ""},
		{"fewer gateways", ", mesh, kubeflow/kubeflow-gateway]", ", kubeflow/kubeflow-gateway]"},
		{"a timeout", "    route:", "    timeout: 60s\n    route:"},
		{"hosts in another order", "[iris.kserve-test.svc.cluster.local, iris.kserve-test.example.com]", "[iris.kserve-test.example.com, iris.kserve-test.svc.cluster.local]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(modelOf(kserveVS, "kserve-test", "iris"), tt.old, tt.new, 1)
			if got := compileMap(t, Config{}, text).At(8080, "iris.kserve-test.example.com", "/", "GET"); got.Kind != Model {
				t.Errorf("got %s %+v, want a model", got.Kind, got)
			}
		})
	}
}

func TestSharedHosts(t *testing.T) {
	const gw = "gateways: [knative-serving/knative-local-gateway, kubeflow/kubeflow-gateway]"
	irisHost := "iris.kserve-test.example.com"
	for _, tt := range []struct {
		name, object string
		path         string
		kind         Kind
		reason       string
		door         uint16
		host         string
	}{
		{"a second one looks at a header", virtualService("kserve-test", "x", `{`+gw+`, hosts: [`+irisHost+`], http: [{match: [{headers: {x-forwarded-host: {exact: y}}}], route: [{destination: {host: own}}]}]}`), "/", Refused, AmbiguousRoute, 8080, irisHost},
		{"a second one looks at a claim", virtualService("kserve-test", "x", `{`+gw+`, hosts: [`+irisHost+`], http: [{match: [{headers: {"@request.auth.claims.sub": {exact: y}}}], route: [{destination: {host: own}}]}]}`), "/", Refused, AmbiguousRoute, 8080, irisHost},
		{"a second one looks at the query", virtualService("kserve-test", "x", `{`+gw+`, hosts: [`+irisHost+`], http: [{match: [{queryParams: {a: {exact: y}}}], route: [{destination: {host: own}}]}]}`), "/", Refused, AmbiguousRoute, 8080, irisHost},
		{"a second one delegates", virtualService("kserve-test", "x", `{`+gw+`, hosts: [`+irisHost+`], http: [{delegate: {name: y}}]}`), "/", Refused, AmbiguousRoute, 8080, irisHost},
		{"a second one by path: its path", virtualService("kserve-test", "x", `{`+gw+`, hosts: [`+irisHost+`], http: [{match: [{uri: {prefix: /own}}], route: [{destination: {host: own}}]}]}`), "/own/x", Refused, AmbiguousRoute, 8080, irisHost},
		{"a second one by path: other paths", virtualService("kserve-test", "x", `{`+gw+`, hosts: [`+irisHost+`], http: [{match: [{uri: {prefix: /own}}], route: [{destination: {host: own}}]}]}`), "/v1/models", Model, "", 8080, irisHost},
		{"a second one by method: other methods", virtualService("kserve-test", "x", `{`+gw+`, hosts: [`+irisHost+`], http: [{match: [{method: {exact: GET}}], route: [{destination: {host: own}}]}]}`), "/v1/models", Model, "", 8080, irisHost},
		{"a second one with a short host", virtualService("kserve-test", "x", `{`+gw+`, hosts: [iris], http: [{match: [{headers: {a: {exact: b}}}], route: [{destination: {host: own}}]}]}`), "/", Refused, AmbiguousRoute, 8081, "iris.kserve-test.svc.cluster.local"},
		{"a second one in capitals", virtualService("kserve-test", "x", `{`+gw+`, hosts: [Iris.kserve-test.example.com], http: [{match: [{headers: {a: {exact: b}}}], route: [{destination: {host: own}}]}]}`), "/", Refused, AmbiguousRoute, 8080, irisHost},
		{"another tenant's", virtualService("backend", "x", `{`+gw+`, hosts: [`+irisHost+`], http: [{route: [{destination: {host: web}}]}]}`), "/", Refused, AmbiguousHost, 8080, irisHost},
		{"another tenant's at the other door", virtualService("backend", "x", `{gateways: [knative-serving/knative-local-gateway], hosts: [`+irisHost+`], http: [{route: [{destination: {host: web}}]}]}`), "/", Model, "", 8080, irisHost},
		{"another tenant's wildcard", virtualService("backend", "x", `{`+gw+`, hosts: ["*.kserve-test.example.com"], http: [{route: [{destination: {host: web}}]}]}`), "/", Model, "", 8080, irisHost},
		{"Kubeflow's own", virtualService("kubeflow", "x", `{`+gw+`, hosts: [`+irisHost+`], http: [{route: [{destination: {host: x}}]}]}`), "/", People, "", 8080, irisHost},
		{"one that is not exported", virtualService("kserve-test", "x", `{`+gw+`, exportTo: ["."], hosts: [`+irisHost+`], http: [{match: [{uri: {prefix: /own}}], route: [{destination: {host: own}}]}]}`), "/v1", Refused, AmbiguousRoute, 8080, irisHost},
		{"a Gateway of the tenant's for the same pods", "apiVersion: networking.istio.io/v1beta1\nkind: Gateway\nmetadata: {name: mine, namespace: kserve-test}\nspec: {selector: {app: istio-ingressgateway}, servers: [{hosts: ['*'], port: {name: h, number: 80, protocol: HTTP}}]}\n---\n" +
			virtualService("kserve-test", "x", `{gateways: [mine], hosts: [`+irisHost+`], http: [{match: [{uri: {prefix: /own}}], route: [{destination: {host: own}}]}]}`), "/v1", Refused, AmbiguousRoute, 8080, irisHost},
		{"a Gateway of the tenant's for other pods", "apiVersion: networking.istio.io/v1beta1\nkind: Gateway\nmetadata: {name: mine, namespace: kserve-test}\nspec: {selector: {istio: other}, servers: [{hosts: ['*'], port: {name: h, number: 80, protocol: HTTP}}]}\n---\n" +
			virtualService("kserve-test", "x", `{gateways: [mine], hosts: [`+irisHost+`], http: [{match: [{headers: {a: {exact: b}}}], route: [{destination: {host: own}}]}]}`), "/v1", Model, "", 8080, irisHost},
		{"two models, one host", "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: iris.kserve-test, namespace: x}\nspec: {predictor: {sklearn: {}}}\n---\n" +
			strings.Replace(modelOf(kserveVS, "kserve-test", "iris"), "namespace: kserve-test}", "namespace: x}", 1), "/", Refused, AmbiguousHost, 8080, irisHost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := compileMap(t, Config{}, tt.object).At(tt.door, tt.host, tt.path, "POST")
			if got.Kind != tt.kind || got.Reason != tt.reason {
				t.Errorf("got %s %q (%s), want %s %q", got.Kind, got.Reason, got.Detail, tt.kind, tt.reason)
			}
			second := func(id string) bool { return strings.HasSuffix(id, "/x") }
			if got.Kind == Refused && tt.name != "two models, one host" && !slices.ContainsFunc(got.By, second) {
				t.Errorf("got refused by %v, want the second object named", got.By)
			}
			if got.Kind == Refused && len(got.VirtualServices) < 2 {
				t.Errorf("got refused because of %v, want both objects named", got.VirtualServices)
			}
		})
	}
}

func TestApplication(t *testing.T) {
	for _, tt := range []struct {
		name, namespace, spec string
		want                  Kind
	}{
		{"a short name", "backend", webSpec, Application},
		{"the full name", "backend", strings.Replace(webSpec, "host: web}", "host: web.backend.svc.cluster.local}", 1), Application},
		{"headers looked at, one object", "backend", strings.Replace(webSpec, "[{route", "[{match: [{headers: {a: {exact: b}}}], route", 1), Application},
		{"a name with a dot is another host", "backend", strings.Replace(webSpec, "host: web}", "host: web.backend}", 1), People},
		{"another namespace's Service", "backend", strings.Replace(webSpec, "host: web}", "host: own.kserve-test.svc.cluster.local}", 1), People},
		{"no such Service", "backend", strings.Replace(webSpec, "host: web}", "host: gone}", 1), People},
		{"an ExternalName", "backend", strings.Replace(webSpec, "host: web}", "host: outside}", 1), People},
		{"a Service without a selector", "backend", strings.Replace(webSpec, "host: web}", "host: handmade}", 1), People},
		{"the local gateway", "backend", strings.Replace(webSpec, "host: web}", "host: knative-local-gateway.istio-system.svc.cluster.local}", 1), People},
		{"one of two elsewhere", "backend", strings.Replace(webSpec, "host: web}", "host: web}}, {destination: {host: own.kserve-test.svc.cluster.local}", 1), People},
		{"a mirror elsewhere", "backend", strings.Replace(webSpec, "[{route", "[{mirror: {host: own.kserve-test.svc.cluster.local}, route", 1), People},
		{"a wildcard beside it", "backend", strings.Replace(webSpec, "[web.example.com]", `[web.example.com, "*.example.org"]`, 1), People},
		{"one of Kubeflow's hosts beside it", "backend", strings.Replace(webSpec, "[web.example.com]", `[web.example.com, KF.example.com]`, 1), People},
		{"a delegate", "backend", strings.Replace(webSpec, "{route: [{destination: {host: web}}]}", "{delegate: {name: x}}", 1), People},
		{"Kubeflow's namespace", "kubeflow", strings.Replace(webSpec, "host: web}", "host: web.backend.svc.cluster.local}", 1), People},
		{"the gateway by its old name", "backend", strings.Replace(webSpec, "kubeflow/kubeflow-gateway", "kubeflow-gateway.kubeflow.svc.cluster.local", 1), Application},
		{"a gateway of its own name", "backend", strings.Replace(webSpec, "kubeflow/kubeflow-gateway", "kubeflow-gateway", 1), People},
		{"a route for another gateway only: Istio makes no host of it", "backend", strings.Replace(webSpec, "[{route", "[{match: [{gateways: [knative-serving/knative-local-gateway]}], route", 1), People},
		{"a route for another port only", "backend", strings.Replace(webSpec, "[{route", "[{match: [{port: 1}], route", 1), People},
		{"a route for other pods only", "backend", strings.Replace(webSpec, "[{route", "[{match: [{sourceLabels: {a: b}}], route", 1), People},
		{"one of its routes for this gateway", "backend", strings.Replace(webSpec, "[{route", "[{match: [{port: 1}, {gateways: [kubeflow/kubeflow-gateway]}], route", 1), Application},
		{"the mesh only", "backend", strings.Replace(webSpec, "kubeflow/kubeflow-gateway", "mesh", 1), People},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := compileMap(t, Config{Hosts: []string{"kf.example.com"}}, virtualService(tt.namespace, "web", tt.spec))
			if got := m.At(8080, "web.example.com", "/", "GET"); got.Kind != tt.want {
				t.Errorf("got %s %+v, want %s", got.Kind, got, tt.want)
			}
		})
	}
}

// TestNotModelled: what the package does not understand opens nothing.
func TestNotModelled(t *testing.T) {
	const irisHost = "iris.kserve-test.example.com"
	restricted := strings.Replace(gateways, `servers: [{hosts: ["*"], port: {name: http, number: 80`, `servers: [{hosts: ["kf.example.com"], port: {name: http, number: 80`, 1)
	for _, tt := range []struct{ name, text string }{
		{"a Gateway with a list of hosts", restricted},
		{"no such Gateway", strings.Replace(gateways, "name: kubeflow-gateway, namespace: kubeflow}\nspec:\n  selector", "name: another, namespace: kubeflow}\nspec:\n  selector", 1)},
		{"the mesh exports nothing", gateways + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'defaultVirtualServiceExportTo: [\".\"]'}\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set, err := manifest.Bytes("t.yaml", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			derived, _ := derive(set)
			m, err := Compile(set.With(derived...), Config{Doors: []Door{{"kubeflow/kubeflow-gateway", 8080}}, Namespaces: []string{"kubeflow", "istio-system"}, Derive: derive})
			if err != nil {
				t.Fatal(err)
			}
			if got := m.At(8080, irisHost, "/", "GET"); got.Kind != People && got.Kind != Refused {
				t.Errorf("got %s, want people or refused", got.Kind)
			}
		})
	}
}

// TestLedAway: the genuine routes, and a Service of the tenant's that leads on.
func TestLedAway(t *testing.T) {
	const host = "iris-predictor.kserve-test.svc.cluster.local"
	service := func(spec string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: iris-predictor-00001, namespace: kserve-test}\nspec: " + spec
	}
	if got := compileMap(t, Config{}, service("{ports: [{port: 80}]}")).At(8081, host, "/", "GET"); got.Kind != Model {
		t.Errorf("Knative's own Service: got %s, want a model", got.Kind)
	}
	if got := compileMap(t, Config{}, service("{type: ExternalName, externalName: ml-pipeline.kubeflow.svc.cluster.local}")).At(8081, host, "/", "GET"); got.Kind != People {
		t.Errorf("an ExternalName: got %s, want people", got.Kind)
	}
	for _, mark := range []string{"labels: {istio.io/rev: other}", `annotations: {internal.istio.io/route-semantics: gateway}`} {
		marked := strings.Replace(virtualService("backend", "web", webSpec), "name: web", "name: web, "+mark, 1)
		if got := compileMap(t, Config{}, marked).At(8080, "web.example.com", "/", "GET"); got.Kind != People {
			t.Errorf("%s: got %s, want people", mark, got.Kind)
		}
	}
	tenants := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: kserve-test}\ndata: {mesh: 'defaultVirtualServiceExportTo: [\".\"]'}\n"
	if got := compileMap(t, Config{}, tenants).At(8081, host, "/", "GET"); got.Kind != Model {
		t.Errorf("a tenant's ConfigMap: got %s, want a model", got.Kind)
	}
}

// TestUnderived: what cannot be derived takes nobody else's model away.
func TestUnderived(t *testing.T) {
	half := func(s *manifest.Set) ([]*manifest.Object, error) {
		all, _ := derive(s)
		return all, fmt.Errorf("x/y cannot be derived")
	}
	m := compileMap(t, Config{Derive: half})
	if m.Underived() == nil {
		t.Error("the error was lost")
	}
	if got := m.At(8080, "iris.kserve-test.example.com", "/", "GET"); got.Kind != Model {
		t.Errorf("got %s, want a model", got.Kind)
	}
	if _, err := Compile(&manifest.Set{}, Config{}); err == nil {
		t.Error("got a Map without Derive")
	}
}

// TestLostModel: login does not stand in for the rule of a model that could not be
// derived, whoever else claims its host; what else the namespace serves stays.
func TestLostModel(t *testing.T) {
	isvc := "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: odd, namespace: team}\nspec: {predictor: {sklearn: {storageUri: \"gs://x/y\"}}}\n"
	none := func(s *manifest.Set) ([]*manifest.Object, error) {
		var kept []*manifest.Object
		all, err := derive(s)
		for _, o := range all {
			if o.Meta.Namespace != "team" {
				kept = append(kept, o)
			}
		}
		return kept, err
	}
	to := func(namespace, name, host, service string) string {
		return virtualService(namespace, name, `{gateways: [kubeflow/kubeflow-gateway], hosts: ["`+host+`"], http: [{route: [{destination: {host: `+service+`}}]}]}`)
	}
	m := compileMap(t, Config{Derive: none}, isvc,
		to("team", "odd", "odd.example.com", "knative-local-gateway.istio-system.svc.cluster.local"),
		to("team", "odd-predictor-ingress", "inner.example.com", "odd-predictor-00001"),
		to("team", "oddly", "oddly.example.com", "elsewhere.other.svc.cluster.local"),
		to("team", "odd-all", "*.team.example.com", "knative-local-gateway.istio-system.svc.cluster.local"),
		to("other", "web", "odd.example.com", "web"), to("other", "web2", "inner.example.com", "x.y.svc.cluster.local"),
		to("team", "odd-steal", "victim.example.com", "x.other.svc.cluster.local"), to("other", "victim", "victim.example.com", "x.y.svc.cluster.local"),
		to("other", "odd", "other.example.com", "x.y.svc.cluster.local"))
	for host, want := range map[string]string{
		"odd.example.com": NotDerived, "inner.example.com": NotDerived, "oddly.example.com": "",
		"a.team.example.com": "", "victim.example.com": NotDerived, "other.example.com": "", "dashboard": "",
	} {
		if got := m.At(8080, host, "/", "GET"); got.Reason != want || (got.Kind == Refused) != (want != "") {
			t.Errorf("%s: got %s %q, want %q", host, got.Kind, got.Reason, want)
		}
	}
	if got := m.At(8080, "iris.kserve-test.example.com", "/", "GET"); got.Kind != Model || !got.Onward {
		t.Errorf("another's model: got %+v", got)
	}
}

func TestRoute(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"/apis/networking.istio.io/v1alpha3/namespaces/kserve-test/virtual-service/iris", "kserve-test/iris"},
		{"/apis/networking.istio.io/v1/namespaces/kserve-test/virtual-service/iris", "kserve-test/iris"},
		{"/apis/networking.istio.io/v1alpha3/namespaces/a/b/virtual-service/iris", ""},
		{"/apis/networking.istio.io/v1alpha3/namespaces//virtual-service/iris", ""},
		{"/apis/networking.istio.io/v1alpha3/namespaces/kserve-test/destination-rule/iris", ""},
		{"kserve-test/iris", ""},
		{"", ""},
	} {
		if got, ok := Route(tt.in); got != tt.want || ok != (tt.want != "") {
			t.Errorf("Route(%q) = %q %t, want %q", tt.in, got, ok, tt.want)
		}
	}
}

func TestMatcherNeedsTheWholeText(t *testing.T) {
	m := compileMap(t, Config{},
		virtualService("backend", "web", `{gateways: [kubeflow/kubeflow-gateway], hosts: [w.example.com], http: [{match: [{uri: {regex: "/a[0-9]"}}], route: [{destination: {host: web}}]}]}`),
		virtualService("backend", "web2", `{gateways: [kubeflow/kubeflow-gateway], hosts: [w.example.com], http: [{match: [{uri: {exact: /b}, ignoreUriCase: true}], route: [{destination: {host: web}}]}]}`))
	for path, want := range map[string]access.Resource{
		"/a1": access.Application("backend", "web"), "/a1/x": {}, "x/a1": {}, "/a1\n": {},
		"/b": access.Application("backend", "web2"), "/B": access.Application("backend", "web2"), "/b/": {},
	} {
		got := m.At(8080, "w.example.com", path, "GET")
		if got.Resource != want || (got.Kind == Refused) != want.IsZero() {
			t.Errorf("%q: got %s %s, want %s", path, got.Kind, got.Resource, want)
		}
	}
	if _, ok := matcher(nil, false); !ok {
		t.Error("no condition is a condition")
	}
}
