//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	// Messages of what istiod pushes that Postern's engine does not link: read with their types, the two sides are
	// written the same way.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/translate"
)

// proxy is a pod with an Envoy of Istio's.
type proxy struct {
	pod  corev1.Pod
	kind string // router or sidecar
}

func (p proxy) String() string { return p.pod.Name + "." + p.pod.Namespace }

// proxies are all that run: gateways, and sidecars.
func proxies(t *testing.T) (gateways, sidecars []proxy) {
	t.Helper()
	for _, raw := range list(t, "pods", "-A", "--field-selector=status.phase=Running") {
		var pod corev1.Pod
		if err := json.Unmarshal(raw, &pod); err != nil {
			t.Fatal(err)
		}
		has := func(containers []corev1.Container) bool {
			return slices.ContainsFunc(containers, func(c corev1.Container) bool { return c.Name == "istio-proxy" })
		}
		switch {
		case pod.DeletionTimestamp != nil || !has(pod.Spec.Containers) && !has(pod.Spec.InitContainers):
		case strings.HasSuffix(pod.Labels["istio"], "gateway"):
			gateways = append(gateways, proxy{pod, "router"})
		default:
			sidecars = append(sidecars, proxy{pod, "sidecar"})
		}
	}
	return gateways, sidecars
}

// dump is the configuration that the pod's Envoy has.
func (p proxy) dump(t *testing.T) []byte {
	t.Helper()
	return []byte(kubectl(t, "exec", "-n", p.pod.Namespace, p.pod.Name, "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", "config_dump"))
}

// list is live objects, each in JSON.
func list(t *testing.T, args ...string) []json.RawMessage {
	t.Helper()
	var list struct{ Items []json.RawMessage }
	if err := json.Unmarshal([]byte(kubectl(t, append([]string{"get", "-o", "json"}, args...)...)), &list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// istioKinds are what istiod makes a proxy's configuration of, but for ConfigMap istio. Of those that the translators
// do not read there is none here: one would be rejected, which fails the test.
const istioKinds = "namespaces,services,pods,gateways.networking.istio.io,virtualservices,destinationrules,serviceentries,workloadentries,workloadgroups," +
	"sidecars.networking.istio.io,envoyfilters.networking.istio.io,proxyconfigs,authorizationpolicies,requestauthentications,peerauthentications,telemetries.telemetry.istio.io,wasmplugins"

// TestPushed is the story's gateway and all sidecars.
func TestPushed(t *testing.T) {
	pushed(t, nil, 1)
	gateways, _ := proxies(t)
	explained(t, nil, gateways, []string{
		`{"url":"http://localhost/"}`,
		`{"url":"http://localhost/dex/auth"}`,
		`{"url":"http://localhost/jupyter/","session":"user@example.com"}`,
		`{"url":"http://localhost/v1/models/sklearn-iris:predict","headers":[["Host","sklearn-iris.kserve-test.example.com"]]}`,
		`{"url":"http://localhost/v1/models/sklearn-iris:predict","headers":[["Host","sklearn-iris.kserve-test.example.com"],["kubeflow-userid","admin@example.com"]],"session":"user@example.com"}`,
		`{"from":"pod:default/myapp-pod","url":"` + modelURL + `"}`,
		`{"from":"pod:default/myapp-pod","url":"` + modelURL + `","authz":{"status":200}}`,
		`{"from":"pod:default/myapp-pod","url":"` + modelURL + `","authz":{"status":200},"scaledToZero":true}`,
		`{"from":"pod:default/myapp-pod","url":"` + ordersURL + `"}`,
		`{"from":"pod:default/myapp-pod","url":"http://sklearn-iris-predictor-00001.kserve-test.svc.cluster.local/"}`,
	})
}

// pushed holds what istiod pushed to each Envoy (its config_dump) against what the translator of the same line makes of the
// objects that the API server has: that many gateways, and the sidecars of Knative's pods at least. keys are key sets by
// issuer, as istiod fetched them.
//
// Compared are all listeners, route configurations and clusters that istiod pushed, whole, by their names: the order
// of a dump means nothing, and what is static is the bootstrap's. What is left out, and why, says normal.
func pushed(t *testing.T, keys map[string]string, gateways int) {
	t.Helper()
	eventually(t, "what istiod pushed is what the translator makes", 5*time.Minute, func() error { // istiod pushes within a second; a loaded machine takes its time
		in := translate.Input{JWKS: keys, Objects: append(list(t, "-A", istioKinds), list(t, "configmaps", "-n", "istio-system", "--field-selector=metadata.name=istio")...)}
		selects := map[string]bool{}
		for _, raw := range in.Objects {
			var s corev1.Service
			if json.Unmarshal(raw, &s) == nil && s.Kind == "Service" && len(s.Spec.Selector) > 0 {
				selects[s.Name+"."+s.Namespace+".svc.cluster.local"] = true
			}
		}
		dumps := map[string][3]map[string]any{}
		routers, sidecars := proxies(t)
		if len(routers) != gateways || len(sidecars) < 4 {
			return fmt.Errorf("got %d gateways and %d sidecars, want %d and 4 at least", len(routers), len(sidecars), gateways)
		}
		for _, p := range append(routers, sidecars...) {
			in.Proxies = append(in.Proxies, translate.Proxy{Name: p.String(), Type: p.kind, Namespace: p.pod.Namespace,
				ServiceAccount: p.pod.Spec.ServiceAccountName, Labels: p.pod.Labels, Addresses: []string{p.pod.Status.PodIP}})
			has, err := ofDump(p.dump(t))
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			dumps[p.String()] = generic(t, has)
		}
		out, err := translate.Translate(context.Background(), in, translate.Options{Version: istioVersion, Checkout: root, Progress: os.Stderr})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Rejected)+len(out.Warnings) > 0 || out.Istio != istioVersion {
			t.Fatalf("Istio %s rejects %+v and warns %v; want neither, of Istio %s", out.Istio, out.Rejected, out.Warnings, istioVersion)
		}
		var differences []string
		for _, made := range out.Proxies {
			resources, err := envoy.ParseResources(made.Listeners, made.Routes, made.Clusters)
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range generic(t, resources) {
				kind := []string{"listener", "route configuration", "cluster"}[i]
				has := dumps[made.Name][i]
				if len(has) == 0 {
					return fmt.Errorf("%s has no %s", made.Name, kind)
				}
				for name := range merged(want, has) {
					known := kind != "cluster" || selects[name[strings.LastIndex(name, "|")+1:]]
					differ(made.Name+" "+kind+" "+name, normal(has[name], known), normal(want[name], known), &differences)
				}
			}
		}
		if len(differences) > 0 {
			slices.Sort(differences)
			return fmt.Errorf("%d differences:\n%s", len(differences), strings.Join(differences[:min(20, len(differences))], "\n"))
		}
		return nil
	})
}

// ofDump is what istiod pushed, out of Envoy's config_dump.
func ofDump(text []byte) (envoy.Resources, error) {
	var file struct {
		Configs []struct {
			Listeners []struct {
				Name   string
				Active struct{ Listener json.RawMessage } `json:"active_state"`
				Error  json.RawMessage                    `json:"error_state"`
			} `json:"dynamic_listeners"`
			Routes []struct {
				Config json.RawMessage `json:"route_config"`
			} `json:"dynamic_route_configs"`
			Clusters []struct{ Cluster json.RawMessage } `json:"dynamic_active_clusters"`
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return envoy.Resources{}, err
	}
	var lists [3][]json.RawMessage
	add := func(i int, raw json.RawMessage) error {
		var v map[string]json.RawMessage
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		delete(v, "@type")
		raw, err := json.Marshal(v)
		lists[i] = append(lists[i], raw)
		return err
	}
	for _, c := range file.Configs {
		for _, l := range c.Listeners {
			if l.Error != nil {
				return envoy.Resources{}, fmt.Errorf("Envoy refused listener %s: %s", l.Name, l.Error)
			}
			if err := add(0, l.Active.Listener); err != nil {
				return envoy.Resources{}, fmt.Errorf("listener %s is not in force: %w", l.Name, err)
			}
		}
		for _, r := range c.Routes {
			if err := add(1, r.Config); err != nil {
				return envoy.Resources{}, err
			}
		}
		for _, l := range c.Clusters {
			if err := add(2, l.Cluster); err != nil {
				return envoy.Resources{}, err
			}
		}
	}
	return envoy.ParseResources(lists[0], lists[1], lists[2])
}

// generic is listeners, route configurations and clusters by name, in one way of writing.
func generic(t *testing.T, r envoy.Resources) [3]map[string]any {
	t.Helper()
	out := [3]map[string]any{{}, {}, {}}
	add := func(i int, name string, m proto.Message) {
		raw, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		if out[i][name] != nil {
			t.Fatalf("two of name %s", name)
		}
		out[i][name] = v
	}
	for _, l := range r.Listeners {
		add(0, l.Name, l)
	}
	for _, c := range r.Routes {
		add(1, c.Name, c)
	}
	for _, c := range r.Clusters {
		add(2, c.Name, c)
	}
	return out
}

// normal takes out what must differ:
//   - Istio's own filters (istio.metadata_exchange, istio.alpn) and the protocol by which two of them know each other:
//     istiod here is told to leave them out (manifests/istio.yaml), because Envoy as its authors release it has none;
//   - the trace tag istio.mesh_id, which a proxy is told by its Deployment, and no object tells a translator;
//   - known is false: the identities behind a Service without a selector (Knative writes the endpoints of a
//     revision's; istiod reads these, a translator reads no EndpointSlices), in a cluster's matchSubjectAltNames;
//   - the order of spaceDelimitedClaims, which Istio takes from a map: here, sorted.
func normal(v any, known bool) any {
	switch v := v.(type) {
	case []any:
		out := []any{}
		for _, e := range v {
			m, _ := e.(map[string]any)
			name, _ := m["name"].(string)
			if e == "istio-peer-exchange" || name == "istio.metadata_exchange" || name == "istio.alpn" || m["tag"] == "istio.mesh_id" {
				continue
			}
			out = append(out, normal(e, known))
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			if k == "matchSubjectAltNames" && !known {
				continue
			}
			e = normal(e, known)
			if list, ok := e.([]any); ok {
				if len(list) == 0 {
					continue // all of it was taken out
				}
				if k == "spaceDelimitedClaims" {
					slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
				}
			}
			out[k] = e
		}
		return out
	}
	return v
}

func merged(a, b map[string]any) map[string]any {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// differ says where two values differ.
func differ(at string, got, want any, out *[]string) {
	g, isMap := got.(map[string]any)
	w, alsoMap := want.(map[string]any)
	gl, isList := got.([]any)
	wl, alsoList := want.([]any)
	switch {
	case isMap && alsoMap:
		for k := range merged(g, w) {
			differ(at+"."+k, g[k], w[k], out)
		}
	case isList && alsoList && len(gl) == len(wl):
		for i := range gl {
			differ(fmt.Sprintf("%s[%d]", at, i), gl[i], wl[i], out)
		}
	case !reflect.DeepEqual(got, want):
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		*out = append(*out, fmt.Sprintf("%s: pushed %.300s, translated %.300s", at, g, w))
	}
}
