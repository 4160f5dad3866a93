package explain_test

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"postern.dev/postern/deploy"
	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/explain"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
)

const dumpFile = "testdata/path-exempt.config_dump.json"

func fromDump(t *testing.T, text string, set *manifest.Set) *explain.System {
	t.Helper()
	s, err := explain.FromDump([]explain.Dump{{Name: "dump", Reader: strings.NewReader(text)}}, set, translate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readDump(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(dumpFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A dump with its manifests gives the answers of the translation it was made
// from; e2e/explain takes the dump from a real Envoy.
func TestDumpWithManifests(t *testing.T) {
	translated, dumped := system(t, "3-path-exempt"), fromDump(t, readDump(t), stateSet(t, "3-path-exempt"))
	for name, call := range rows {
		want, got := ask(t, translated, call), ask(t, dumped, call)
		if got.Outcome != want.Outcome || got.Backend != want.Backend || got.By.String() != want.By.String() || len(got.Hops) != len(want.Hops) {
			t.Errorf("%s: got %s %s by %s in %d hops, want %s %s by %s in %d", name, got.Outcome, got.Backend, got.By, len(got.Hops), want.Outcome, want.Backend, want.By, len(want.Hops))
		}
	}
}

// The sidecars behind a live gateway are translated from the manifests by the
// gateway's own Istio.
func TestDumpWithSidecars(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no translator and no Go to build one
	translated, err := fs.Sub(story.FS, "translated")
	if err != nil {
		t.Fatal(err)
	}
	s, err := explain.FromDump([]explain.Dump{{Name: "dump", Reader: strings.NewReader(readDump(t))}}, stateSet(t, "3-path-exempt"), translate.Options{Bundled: translated, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	a := ask(t, s, explain.Call{From: "pod:default/myapp-pod", URL: "http://ml-pipeline-ui.kubeflow/"})
	if a.Outcome != explain.Refused || a.Status != 403 || a.By == nil || a.By.Name != "ml-pipeline-ui" {
		t.Errorf("got %s %d by %s, want the sidecar's refusal; why: %q", a.Outcome, a.Status, a.By, a.Why)
	}
	// Near miss: without its translation it cannot be told.
	if s, err = explain.FromDump([]explain.Dump{{Name: "dump", Reader: strings.NewReader(readDump(t))}}, stateSet(t, "3-path-exempt"), translate.Options{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	a = ask(t, s, explain.Call{From: "pod:default/myapp-pod", URL: "http://ml-pipeline-ui.kubeflow/"})
	if a.Outcome != explain.Unknown {
		t.Errorf("got %s, want unknown", a.Outcome)
	}
	why(t, a, "whether its sidecar lets it in is not known")
}

// Each gateway has one dump: of a second of the same it would be unclear which is in force.
func TestDumpsOfOneGateway(t *testing.T) {
	one := func(name string) explain.Dump {
		return explain.Dump{Name: name, Reader: strings.NewReader(readDump(t))}
	}
	_, err := explain.FromDump([]explain.Dump{one("a.json"), one("b.json")}, stateSet(t, "3-path-exempt"), translate.Options{})
	if err == nil || !strings.HasPrefix(err.Error(), "b.json: is of Deployment istio-system/istio-ingressgateway") {
		t.Errorf("got %v, want b.json refused", err)
	}
	if _, err := explain.FromDump(nil, stateSet(t, "3-path-exempt"), translate.Options{}); err == nil {
		t.Error("took no dump at all")
	}
}

// posternd's own settings stand beside the authorizer's in what is applied to a cluster.
func TestDumpWithDeploysObjects(t *testing.T) {
	layout, ok := deploy.Find("v1.8.1-shared")
	if !ok {
		t.Fatal("no such layout")
	}
	own, _, err := layout.Objects()
	if err != nil {
		t.Fatal(err)
	}
	fromDump(t, readDump(t), stateSet(t, "3-path-exempt").With(own...))
}

func TestDumpAlone(t *testing.T) {
	s := fromDump(t, readDump(t), nil)
	a := ask(t, s, rows["outside calls the model"])
	if a.Outcome != explain.Forwarded || a.Backend != "istio-system/knative-local-gateway:80" || a.By.String() != "VirtualService kserve-test/sklearn-iris prefix /" {
		t.Errorf("got %s %s by %s", a.Outcome, a.Backend, a.By)
	}
	why(t, a, "is not followed", "dex-auth rules[0]")
	a = ask(t, s, rows["browser at the dashboard"])
	if a.Outcome != explain.Redirected || a.Status != 302 || a.By.Name != "dex-auth" {
		t.Errorf("got %s %d by %s", a.Outcome, a.Status, a.By)
	}
	a = ask(t, s, explain.Call{URL: "http://localhost/", Headers: host("fraud.team-c.example.com"), Door: "8081"})
	if a.Status != 404 || !strings.Contains(strings.Join(a.Nearest, ""), "virtual host fraud.team-b") {
		t.Errorf("got %d, nearest %q", a.Status, a.Nearest)
	}
}

// An EnvoyFilter of the manifests that the live gateway does not have is named.
func TestDumpWithoutAFilter(t *testing.T) {
	set, err := manifest.Bytes("more.yaml", []byte(`apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: extra, namespace: istio-system}
spec:
  workloadSelector: {labels: {istio: ingressgateway}}
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: GATEWAY, listener: {filterChain: {filter: {name: envoy.http_connection_manager}}}}
    patch: {operation: INSERT_BEFORE, value: {name: extra-filter}}
`))
	if err != nil {
		t.Fatal(err)
	}
	var more []*manifest.Object
	for o := range set.All() {
		more = append(more, o)
	}
	s := fromDump(t, readDump(t), stateSet(t, "3-path-exempt").With(more...))
	const want = `more.yaml:1: EnvoyFilter istio-system/extra: spec.configPatches[0] is to insert filter "extra-filter" and is not in force: its match names "envoy.http_connection_manager"`
	if got := strings.Join(s.Findings(), "\n"); !strings.Contains(got, want) {
		t.Errorf("got findings\n%s\nwant %s", got, want)
	}
}

func TestBadDumps(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", "not a config_dump"},
		{"{}", `got no "configs"`},
		{"[1]", "not a config_dump"},
		{`{"configs":[{}]}`, "no listener that is in force"},
		{`{"configs":[{"dynamic_listeners":[{"name":"x","error_state":{"details":"bad"}}]}]}`, "no listener that is in force"},
		{`{"configs":[{"static_listeners":[{"listener":{"address":7}}]}]}`, "listeners: [0]"},
		{`{"configs":[{"static_listeners":[{"listener":null}]}]}`, ""},
	} {
		_, err := explain.FromDump([]explain.Dump{{Name: "dump", Reader: strings.NewReader(tt.text)}}, nil, translate.Options{})
		if err != nil && !strings.Contains(err.Error(), tt.want) || err == nil && tt.want != "" {
			t.Errorf("%s: got %v, want %q", tt.text, err, tt.want)
		}
	}
}

func FuzzDump(f *testing.F) {
	f.Add(`{"configs":[{"static_listeners":[{"listener":{"name":"a","address":{"socket_address":{"address":"0.0.0.0","port_value":80}}}}]}]}`)
	f.Add(`{"configs":[{"static_route_configs":[{"route_config":{"name":"r"}}]}]}`)
	const manager = `{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","use_remote_address":true,%s,"http_filters":[%s{"name":"envoy.filters.http.router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}`
	const listener = `{"configs":[{"@type":"type.googleapis.com/envoy.admin.v3.BootstrapConfigDump","bootstrap":{"node":{"id":"router~10.1.2.3~gw-1.istio-system~istio-system.svc.cluster.local","metadata":{"ISTIO_VERSION":"1.28.0","LABELS":{"istio":"ingressgateway"}}}}},` +
		`{"dynamic_listeners":[{"name":"l","active_state":{"listener":{"name":"l","address":{"socket_address":{"address":"0.0.0.0","port_value":80}},"filter_chains":[{"filters":[{"name":"hcm","typed_config":%s}]}]}}}]},%s{"dynamic_active_clusters":[{"cluster":{"name":"outbound|80||a.b.svc.cluster.local"}}]}]}`
	const routes = `{"name":"http.80","virtual_hosts":[{"name":"v","domains":["*.example.com","a"],"routes":[{"match":{"safe_regex":{"regex":"/v.*"},"headers":[{"name":":authority","string_match":{"safe_regex":{"regex":"^a(?::\\d{1,5})?$"}}}]},"route":{"cluster":"outbound|80||a.b.svc.cluster.local"},"metadata":{"filter_metadata":{"istio":{"config":"/apis/networking.istio.io/v1/namespaces/b/virtual-service/a"}}}},{"match":{"prefix":"/"},"redirect":{"https_redirect":true}}]}]}`
	f.Add(fmt.Sprintf(listener, fmt.Sprintf(manager, `"rds":{"route_config_name":"http.80"}`, ""), `{"dynamic_route_configs":[{"route_config":`+routes+`}]},`))
	f.Add(fmt.Sprintf(listener, fmt.Sprintf(manager, `"route_config":`+routes, `{"name":"envoy.filters.http.rbac","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC","rules":{"policies":{"ns[n]-policy[p]-rule[0]":{"permissions":[{"url_path":{"path":{"prefix":"/v1"}}}],"principals":[{"direct_remote_ip":{"address_prefix":"10.0.0.0","prefix_len":8}}]}}}}},`), ""))
	f.Add(fmt.Sprintf(listener, fmt.Sprintf(manager, `"route_config":`+routes, `{"name":"my.wasm","typed_config":{"@type":"type.googleapis.com/unheard.of.Filter","a":{"@type":"b"}}},`), ""))
	f.Add(fmt.Sprintf(listener, `{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"}`, ""))
	f.Fuzz(func(t *testing.T, text string) {
		s, err := explain.FromDump([]explain.Dump{{Name: "dump", Reader: strings.NewReader(text)}}, nil, translate.Options{})
		if err != nil {
			return
		}
		if _, err := s.Explain(t.Context(), explain.Call{URL: "http://a/", Door: "80"}); err != nil && !strings.Contains(err.Error(), "door") {
			t.Error(err)
		}
	})
}
