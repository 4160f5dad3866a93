package contracttest

import (
	"bytes"
	"encoding/json"
	"math/rand"
	"strings"
	"testing"

	"postern.dev/postern/translator/contract"
)

// world has something of each kind that is read, and each kind of thing whose order Istio takes from a map somewhere.
const world = `
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    rootNamespace: istio-system
    trustDomain: example.org
    extensionProviders:
    - name: login
      envoyExtAuthzHttp: {service: login.istio-system.svc.cluster.local, port: 8080, includeRequestHeadersInCheck: [cookie]}
---
apiVersion: v1
kind: Namespace
metadata: {name: app}
---
apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  ports: [{name: http2, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: login, namespace: istio-system}
spec: {ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: app}
spec:
  selector: {app: shop}
  ports: [{name: http-web, port: 80, targetPort: web}, {name: http-again, port: 81, targetPort: web}]
---
apiVersion: v1
kind: Service
metadata: {name: shop-headless, namespace: app}
spec:
  clusterIP: None
  selector: {app: shop}
  ports: [{name: tcp-raw, port: 7000, targetPort: 7000}]
---
apiVersion: v1
kind: Pod
metadata: {name: shop-1, namespace: app, labels: {app: shop}}
spec:
  serviceAccountName: shop
  containers: [{name: main, ports: [{name: web, containerPort: 3000}]}]
status: {podIP: 10.0.0.5}
---
apiVersion: v1
kind: Pod
metadata: {name: shop-2, namespace: app, labels: {app: shop}}
spec: {containers: [{name: main, ports: [{name: web, containerPort: 3000}]}]}
status: {podIP: 10.0.0.6}
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: gateway, namespace: app}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: shop-b, namespace: app}
spec:
  hosts: [shop.example.org]
  gateways: [gateway]
  http: [{match: [{uri: {prefix: /b}}], route: [{destination: {host: shop, port: {number: 80}}}]}]
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: shop-a, namespace: app}
spec:
  hosts: [shop.example.org]
  gateways: [gateway]
  http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: shop, port: {number: 80}, subset: new}}]}]
---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: shop, namespace: app}
spec: {host: shop, subsets: [{name: new, labels: {version: new}}]}
---
apiVersion: networking.istio.io/v1beta1
kind: Sidecar
metadata: {name: default, namespace: app}
spec: {egress: [{hosts: [./*, istio-system/*]}]}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: headers, namespace: istio-system}
spec:
  configPatches:
  - applyTo: NETWORK_FILTER
    match: {context: GATEWAY, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: MERGE
      value:
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          via: postern-test
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: login, namespace: istio-system}
spec:
  action: CUSTOM
  provider: {name: login}
  selector: {matchLabels: {istio: ingressgateway}}
  rules: [{to: [{operation: {notPaths: [/open]}}]}]
---
apiVersion: security.istio.io/v1beta1
kind: RequestAuthentication
metadata: {name: inline, namespace: istio-system}
spec:
  jwtRules:
  - {issuer: https://one.example.org, jwks: '{"keys":[{"kty":"RSA","e":"AQAB","kid":"one","n":"xAE7eB6qugXyCAG3yhh7pkDkT65pHymX"}]}'}
  - {issuer: https://two.example.org, jwks: '{"keys":[{"kty":"RSA","e":"AQAB","kid":"two","n":"xAE7eB6qugXyCAG3yhh7pkDkT65pHymY"}]}'}
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: claims, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/app/sa/shop]}}]
    when:
    - {key: 'request.auth.claims[groups]', values: [admin]}
    - {key: 'request.auth.claims[realm_access][roles]', values: [admin]}
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: strict, namespace: app}
spec: {mtls: {mode: STRICT}}
---
apiVersion: telemetry.istio.io/v1alpha1
kind: Telemetry
metadata: {name: log, namespace: istio-system}
spec: {accessLogging: [{disabled: true}]}
`

// refusals are objects that must be reported, each with a part of the message.
var refusals = []struct{ name, yaml, message string }{
	{"a kind that is not read", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: x, namespace: app}}`, "not read"},
	{"another ConfigMap", `{apiVersion: v1, kind: ConfigMap, metadata: {name: other, namespace: app}}`, "only istio"},
	{"ServiceEntry", `{apiVersion: networking.istio.io/v1beta1, kind: ServiceEntry, metadata: {name: x, namespace: app}, spec: {hosts: [a.b]}}`, "ServiceEntry is not supported yet"},
	{"WasmPlugin", `{apiVersion: extensions.istio.io/v1alpha1, kind: WasmPlugin, metadata: {name: x, namespace: app}}`, "WasmPlugin is not supported yet"},
	{"Ingress", `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: x, namespace: app}}`, "Ingress is not supported yet"},
	{"HTTPRoute", `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: x, namespace: app}}`, "HTTPRoute is not supported yet"},
	{"a version that no Istio has", `{apiVersion: networking.istio.io/v9, kind: VirtualService, metadata: {name: x, namespace: app}, spec: {hosts: [a.b]}}`, "has no networking.istio.io/v9 VirtualService"},
	{"what Istio's validation refuses", `{apiVersion: networking.istio.io/v1beta1, kind: VirtualService, metadata: {name: x, namespace: app}, spec: {hosts: ['a b'], http: [{route: [{destination: {host: x}}]}]}}`, "configuration is invalid"},
	{"what Istio cannot parse", `{apiVersion: networking.istio.io/v1beta1, kind: VirtualService, metadata: {name: x, namespace: app}, spec: {hosts: 7}}`, "cannot parse proto message"},
	{"a second of the same name", `{apiVersion: networking.istio.io/v1beta1, kind: Sidecar, metadata: {name: default, namespace: app}}`, "given twice"},
	{"a Service of wrong shape", `{apiVersion: v1, kind: Service, metadata: {name: x, namespace: app}, spec: {ports: 7}}`, "cannot unmarshal"},
	{"a target port that no container has", `{apiVersion: v1, kind: Service, metadata: {name: x, namespace: istio-system}, spec: {selector: {istio: ingressgateway}, ports: [{port: 9, targetPort: nope}]}}`, `targetPort "nope"`},
}

// Suite is the contract, for any line.
func Suite(t *testing.T, line contract.Line, toJSON ToJSON) {
	objects := Objects(t, toJSON, world)
	shop := contract.Proxy{
		Name: "shop-1.app", Type: "sidecar", Namespace: "app", ServiceAccount: "shop",
		Labels: map[string]string{"app": "shop"}, Addresses: []string{"10.0.0.5"},
	}
	t.Run("reads all of the world", func(t *testing.T) {
		got := Translate(t, line, objects, IngressGateway(), shop)
		if len(got.Rejected) != 0 || len(got.Warnings) != 0 {
			t.Errorf("got rejected %+v and warnings %+v, want none", got.Rejected, got.Warnings)
		}
		if got.Istio != line.Version || len(got.Proxies) != 2 {
			t.Fatalf("got istio %q and %d proxies, want %q and 2", got.Istio, len(got.Proxies), line.Version)
		}
		checkGateway(t, got.Proxies[0])
		checkSidecar(t, got.Proxies[1])
	})
	t.Run("inbound only", func(t *testing.T) { testInbound(t, line, objects, shop) })
	t.Run("same bytes whatever the order", func(t *testing.T) { sameBytes(t, line, objects, IngressGateway(), shop) })
	for _, r := range refusals {
		t.Run("rejects "+r.name, func(t *testing.T) {
			extra := Objects(t, toJSON, r.yaml)
			got := Translate(t, line, append(append([]json.RawMessage(nil), objects...), extra...), IngressGateway())
			if len(got.Rejected) != 1 || !strings.Contains(got.Rejected[0].Message, r.message) {
				t.Fatalf("got rejected %+v, want one with %q", got.Rejected, r.message)
			}
			o := got.Rejected[0]
			if o.APIVersion == "" || o.Kind == "" || o.Namespace == "" || o.Name == "" {
				t.Errorf("got %+v, want all of the object's identity", o)
			}
		})
	}
	t.Run("keys", func(t *testing.T) { testKeys(t, line, toJSON) })
	t.Run("rejects a bad mesh configuration", func(t *testing.T) {
		bad := Objects(t, toJSON, `{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'trustDomain: [1'}}`)
		got := Translate(t, line, bad, IngressGateway())
		if len(got.Rejected) != 1 || got.Rejected[0].Kind != "ConfigMap" {
			t.Errorf("got rejected %+v, want the ConfigMap", got.Rejected)
		}
	})
}

// noKeys has rules whose keys istiod would fetch: from where they lie, by asking the issuer, and one that needs no fetching. A rule that
// reached Istio without keys would be a nil pointer there: the translators have no fetcher.
const noKeys = `
apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec: {selector: {istio: ingressgateway}, ports: [{name: http2, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: gateway, namespace: app}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: security.istio.io/v1beta1
kind: RequestAuthentication
metadata: {name: fetch, namespace: istio-system}
spec:
  jwtRules:
  - {issuer: https://uri.example.org, jwksUri: https://127.0.0.1:1/keys}
  - {issuer: https://127.0.0.1:1}
  - {issuer: https://inline.example.org, jwks: '{"keys":[{"kty":"RSA","e":"AQAB","kid":"inline","n":"xAE7eB6qugXyCAG3yhh7pkDkT65pHymX"}]}'}
`

// testKeys: a rule without keys gets the caller's, or this Istio's own placeholder and a warning. No private member is ever passed on.
func testKeys(t *testing.T, line contract.Line, toJSON ToJSON) {
	objects := Objects(t, toJSON, noKeys)
	key := func(kid string) string {
		return `{"keys":[{"kty":"RSA","e":"AQAB","kid":"` + kid + `","n":"xAE7eB6qugXyCAG3yhh7pkDkT65pHymX"}]}`
	}
	uri, issuer := "https://127.0.0.1:1/keys", "https://127.0.0.1:1"
	for _, tt := range []struct {
		name   string
		given  map[string]string
		kids   []string
		warned []string // the rules
	}{
		{"none given", nil, []string{"inline"}, []string{"jwtRules[0]", "jwtRules[1]"}},
		{"by jwksUri", map[string]string{uri: key("given")}, []string{"given", "inline"}, []string{"jwtRules[1]"}},
		{"by issuer, where there is no jwksUri", map[string]string{issuer: key("given")}, []string{"given", "inline"}, []string{"jwtRules[0]"}},
		{"by issuer, where there is a jwksUri", map[string]string{"https://uri.example.org": key("given")}, []string{"inline"}, []string{"jwtRules[0]", "jwtRules[1]"}},
		{"both", map[string]string{uri: key("one"), issuer: key("two")}, []string{"one", "two", "inline"}, nil},
		{"inline keys stay", map[string]string{"https://inline.example.org": key("given")}, []string{"inline"}, []string{"jwtRules[0]", "jwtRules[1]"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := TranslateRequest(t, line, contract.Request{Objects: objects, Proxies: []contract.Proxy{IngressGateway()}, JWKS: tt.given})
			if len(out.Rejected) != 0 {
				t.Errorf("got rejected %+v, want none", out.Rejected)
			}
			all := text(out.Proxies[0])
			for _, kid := range []string{"given", "one", "two", "inline"} {
				want := false
				for _, k := range tt.kids {
					want = want || k == kid
				}
				if got := strings.Contains(all, `\"kid\":\"`+kid+`\"`); got != want {
					t.Errorf("got key %s in force: %v, want %v", kid, got, want)
				}
			}
			for _, member := range []string{`\"d\"`, `\"p\"`, `\"qi\"`} {
				if strings.Contains(all, member) {
					t.Errorf("got a private member %s, want none", member)
				}
			}
			var warned []string
			for _, w := range out.Warnings {
				if w.Kind != "RequestAuthentication" || w.Namespace != "istio-system" || w.Name != "fetch" || !strings.Contains(w.Message, "nothing is fetched") {
					t.Errorf("got warning %+v, want it to name RequestAuthentication istio-system/fetch and what is missing", w)
				}
				warned = append(warned, w.Message[strings.Index(w.Message, "jwtRules"):strings.Index(w.Message, ":")])
			}
			if strings.Join(warned, " ") != strings.Join(tt.warned, " ") {
				t.Errorf("got warnings for %q, want %q", warned, tt.warned)
			}
		})
	}
}

func sameBytes(t *testing.T, line contract.Line, objects []json.RawMessage, proxies ...contract.Proxy) {
	first, err := line.Run(&contract.Request{Objects: objects, Proxies: proxies})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewSource(1))
	for i := 0; i < 20; i++ {
		shuffled := append([]json.RawMessage(nil), objects...)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		again, err := line.Run(&contract.Request{Objects: shuffled, Proxies: proxies})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, again) {
			at := 0
			for at < len(first) && at < len(again) && first[at] == again[at] {
				at++
			}
			t.Fatalf("run %d differs at byte %d:\n got %s\nwant %s", i, at, around(string(again), at), around(string(first), at))
		}
	}
}

// checkGateway holds what must come of each object of the world.
func checkGateway(t *testing.T, c contract.ProxyConfig) {
	t.Helper()
	all := text(c)
	for what, want := range map[string]string{
		"the Service's target port":  `"portValue":8080`,
		"the EnvoyFilter's patch":    `"via":"postern-test"`,
		"the CUSTOM provider":        `outbound|8080||login.istio-system.svc.cluster.local`,
		"inline keys":                `\"kid\":\"two\"`,
		"a VirtualService's name":    `/virtual-service/shop-a`,
		"a DestinationRule's subset": `outbound|80|new|shop.app.svc.cluster.local`,
		"the mesh's trust domain":    `example.org/ns/app/sa/shop`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("gateway: got no %s, want %s", what, want)
		}
	}
	if strings.Contains(all, "/dev/stdout") {
		t.Error("gateway: got an access log, want none: Telemetry disables it")
	}
	a, b := strings.Index(all, "/virtual-service/shop-a"), strings.Index(all, "/virtual-service/shop-b")
	if a > b {
		t.Errorf("gateway: got shop-b at %d before shop-a at %d, want equal timestamps ordered by name", b, a)
	}
}

func checkSidecar(t *testing.T, c contract.ProxyConfig) {
	t.Helper()
	all := text(c)
	for what, want := range map[string]string{
		"the inbound cluster of the named port":       `"name":"inbound|3000||"`,
		"the listener of the headless Service's pods": `"address":"10.0.0.6"`,
		"the identity that a pod has to prove":        `"exact":"spiffe://example.org/ns/app/sa/shop"`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("sidecar: got no %s, want %s", what, want)
		}
	}
}

// testInbound: of the whole configuration of a sidecar, inbound is the listener that takes what comes to its workload, and where that leads.
func testInbound(t *testing.T, line contract.Line, objects []json.RawMessage, shop contract.Proxy) {
	whole := Translate(t, line, objects, shop).Proxies[0]
	shop.Inbound = true
	got := Translate(t, line, objects, shop).Proxies[0]
	if len(got.Listeners) != 1 || !strings.Contains(string(got.Listeners[0]), `"name":"virtualInbound"`) || len(got.Routes) != 0 {
		t.Fatalf("got %d listeners and %d routes, want virtualInbound alone", len(got.Listeners), len(got.Routes))
	}
	if !strings.Contains(text(whole), string(got.Listeners[0])) {
		t.Error("got another listener than without inbound")
	}
	var fewer []json.RawMessage
	for _, o := range objects {
		if !bytes.Contains(o, []byte(`"kind":"VirtualService"`)) && !bytes.Contains(o, []byte(`"kind":"Gateway"`)) {
			fewer = append(fewer, o)
		}
	}
	if again := Translate(t, line, fewer, shop).Proxies[0]; len(fewer) == len(objects) || text(again) != text(got) {
		t.Errorf("got another configuration without the %d VirtualServices and Gateways, want the same: they have no part in it", len(objects)-len(fewer))
	}
	if all := text(got); !strings.Contains(all, `"name":"inbound|3000||"`) || strings.Contains(all, `"name":"outbound|`) {
		t.Error("got clusters other than the workload's own, want inbound|3000|| and no outbound ones")
	}
}

func text(c contract.ProxyConfig) string {
	var b strings.Builder
	for _, list := range [][]json.RawMessage{c.Listeners, c.Routes, c.Clusters} {
		for _, r := range list {
			b.Write(r)
			b.WriteByte('\n')
		}
	}
	return b.String()
}
