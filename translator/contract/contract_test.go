package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const gateway = `{"name":"gw.ns","type":"router","namespace":"ns","labels":{"app":"gw"},"addresses":["10.0.0.1"]}`

// echo is a line that translates nothing.
var echo = Line{Version: "0.1.2", Translate: func(w *World) ([]ProxyConfig, error) {
	var out []ProxyConfig
	for _, p := range w.Proxies {
		out = append(out, ProxyConfig{Name: p.Name})
	}
	return out, nil
}}

func TestMain(t *testing.T) {
	failing := Line{Version: "0.1.2", Translate: func(*World) ([]ProxyConfig, error) { return nil, errors.New("no luck") }}
	panicking := Line{Version: "0.1.2", Translate: func(*World) ([]ProxyConfig, error) { panic("index out of luck") }}
	for _, tt := range []struct {
		name, stdin    string
		line           Line
		args           []string
		code           int
		stdout, stderr string
	}{
		{"version", "", echo, []string{"-version"}, 0, "0.1.2\n", ""},
		{"another flag", "", echo, []string{"-versions"}, 2, "", "got arguments"},
		{"empty world", `{"objects":[],"proxies":[]}`, echo, nil, 0, `{"istio":"0.1.2","rejected":[],"proxies":[]}` + "\n", ""},
		{"proxy", `{"proxies":[` + gateway + `]}`, echo, nil, 0, `"name":"gw.ns"`, ""},
		{"proxy twice", `{"proxies":[` + gateway + `,` + gateway + `]}`, echo, nil, 2, "", "gw.ns: named twice"},
		{"unknown type", `{"proxies":[` + strings.Replace(gateway, "router", "waypoint", 1) + `]}`, echo, nil, 2, "", `got type "waypoint"`},
		{"inbound of a gateway", `{"proxies":[` + strings.Replace(gateway, `"addresses"`, `"inbound":true,"addresses"`, 1) + `]}`, echo, nil, 2, "", "inbound is for sidecars, got type router"},
		{"inbound of nothing", `{"proxies":[` + strings.Replace(strings.Replace(gateway, "router", "sidecar", 1), `"addresses"`, `"inbound":true,"addresses"`, 1) + `]}`, echo, nil, 1, "", "got 0 listeners virtualInbound, want 1"},
		{"no address", `{"proxies":[` + strings.Replace(gateway, `"10.0.0.1"`, "", 1) + `]}`, echo, nil, 2, "", "no address"},
		{"no namespace", `{"proxies":[` + strings.Replace(gateway, `"namespace":"ns"`, `"namespace":""`, 1) + `]}`, echo, nil, 2, "", "no namespace"},
		{"no name", `{"proxies":[` + strings.Replace(gateway, "gw.ns", "", 1) + `]}`, echo, nil, 2, "", "no name"},
		{"unknown field", `{"objets":[]}`, echo, nil, 2, "", `unknown field "objets"`},
		{"not JSON", `objects: []`, echo, nil, 2, "", "invalid character"},
		{"two values", `{} {}`, echo, nil, 2, "", "more than one"},
		{"keys that are not JSON", `{"jwks":{"https://a.b/keys":"<html>"}}`, echo, nil, 2, "", "jwks of https://a.b/keys: invalid character"},
		{"keys that are no set", `{"jwks":{"https://a.b/keys":"{\"kty\":\"RSA\"}"}}`, echo, nil, 2, "", "got no list keys"},
		{"translation fails", `{}`, failing, nil, 1, "", "translator 0.1.2: no luck"},
		{"istio panics", `{}`, panicking, nil, 1, "", "istio panicked: index out of luck"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := tt.line.Main(tt.args, strings.NewReader(tt.stdin), &stdout, &stderr)
			if code != tt.code {
				t.Errorf("got exit code %d (%s), want %d", code, stderr.String(), tt.code)
			}
			if !strings.Contains(stdout.String(), tt.stdout) || tt.stdout == "" && stdout.Len() > 0 {
				t.Errorf("got stdout %q, want %q", stdout.String(), tt.stdout)
			}
			if !strings.Contains(stderr.String(), tt.stderr) || tt.stderr == "" && stderr.Len() > 0 {
				t.Errorf("got stderr %q, want %q", stderr.String(), tt.stderr)
			}
		})
	}
}

func TestWorld(t *testing.T) {
	mesh := func(ns, yaml string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"istio","namespace":"` + ns + `"},"data":{"mesh":"` + yaml + `"}}`
	}
	for _, tt := range []struct {
		name     string
		objects  []string
		mesh     string
		rejected []string // kind and a part of the message
	}{
		{"mesh", []string{mesh("istio-system", "a: b")}, "a: b", nil},
		{"mesh elsewhere", []string{mesh("mesh", "a: b")}, "a: b", nil},
		{"istio-system's wins, given last", []string{mesh("a", "x"), mesh("istio-system", "a: b")}, "a: b", []string{"ConfigMap from namespace istio-system"}},
		{"istio-system's wins, sorted first", []string{mesh("z", "x"), mesh("istio-system", "a: b")}, "a: b", []string{"ConfigMap from namespace istio-system"}},
		{"no key mesh", []string{`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"istio"},"data":{"mesh2":"x"}}`}, "", []string{"ConfigMap key mesh"}},
		{"not an object", []string{`7`}, "", []string{" cannot unmarshal"}},
		{"null", []string{`null`}, "", []string{` got apiVersion ""`}},
		{"no name", []string{`{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"x"}}`}, "", []string{`Pod name ""`}},
		{"metadata in other letters", []string{`{"apiVersion":"v1","kind":"Pod","MetaData":{"name":"x"}}`}, "", []string{"Pod no metadata"}},
		{"one object in two versions", []string{
			`{"apiVersion":"networking.istio.io/v1","kind":"Gateway","metadata":{"name":"x"}}`,
			`{"apiVersion":"networking.istio.io/v1beta1","kind":"Gateway","metadata":{"name":"x","namespace":"default"}}`,
		}, "", []string{"Gateway given twice"}},
		{"two groups, one kind", []string{
			`{"apiVersion":"networking.istio.io/v1","kind":"Gateway","metadata":{"name":"x"}}`,
			`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"name":"x"}}`,
		}, "", []string{"Gateway not supported yet"}},
		{"a Service of another group", []string{`{"apiVersion":"serving.knative.dev/v1","kind":"Service","metadata":{"name":"x"}}`}, "", []string{"Service not read"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := world(tt.objects...)
			if w.Mesh != tt.mesh {
				t.Errorf("got mesh %q, want %q", w.Mesh, tt.mesh)
			}
			got := w.rejections()
			if len(got) != len(tt.rejected) {
				t.Fatalf("got rejected %+v, want %q", got, tt.rejected)
			}
			for i, want := range tt.rejected {
				kind, message, _ := strings.Cut(want, " ")
				if got[i].Kind != kind || !strings.Contains(got[i].Message, message) {
					t.Errorf("got rejected %+v, want %q", got[i], want)
				}
			}
		})
	}
}

func world(objects ...string) *World {
	req := &Request{}
	for _, o := range objects {
		req.Objects = append(req.Objects, json.RawMessage(o))
	}
	return newWorld(req)
}

func TestDefaults(t *testing.T) {
	w := world(
		`{"apiVersion":"v1","kind":"Service","metadata":{"name":"a","creationTimestamp":null},"spec":{"ports":[{"port":80}]}}`,
		`{"apiVersion":"v1","kind":"Service","metadata":{"name":"b","namespace":"n","creationTimestamp":"2024-01-01T00:00:00Z"},"spec":{"ports":[{"port":53,"protocol":"UDP","targetPort":"dns"}]}}`,
	)
	want := []string{
		`{"apiVersion":"v1","kind":"Service","metadata":{"creationTimestamp":"` + created + `","name":"a","namespace":"default"},"spec":{"ports":[{"port":80,"protocol":"TCP","targetPort":80}]}}`,
		`{"apiVersion":"v1","kind":"Service","metadata":{"creationTimestamp":"2024-01-01T00:00:00Z","name":"b","namespace":"n"},"spec":{"ports":[{"port":53,"protocol":"UDP","targetPort":"dns"}]}}`,
	}
	for i, s := range w.Services {
		if got := strings.TrimSpace(string(s.Raw)); got != want[i] {
			t.Errorf("got %s\nwant %s", got, want[i])
		}
	}
}

func TestTargets(t *testing.T) {
	service := func(spec string) string {
		return `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s","namespace":"ns"},"spec":` + spec + `}`
	}
	pod := func(name, labels, ports string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"` + name + `","namespace":"ns","labels":` + labels +
			`},"spec":{"containers":[{"ports":[` + ports + `]}]}}`
	}
	proxy := Proxy{Name: "gw.ns", Namespace: "ns", Labels: map[string]string{"app": "gw", "tier": "edge"}, Addresses: []string{"10.0.0.1"}}
	for _, tt := range []struct {
		name     string
		objects  []string
		want     []int
		rejected string
	}{
		{"number", []string{service(`{"selector":{"app":"gw"},"ports":[{"port":80,"targetPort":8080}]}`)}, []int{8080}, ""},
		{"all labels", []string{service(`{"selector":{"app":"gw","tier":"edge"},"ports":[{"port":80}]}`)}, []int{80}, ""},
		{"one label differs", []string{service(`{"selector":{"app":"gw","tier":"core"},"ports":[{"port":80}]}`)}, nil, ""},
		{"no selector", []string{service(`{"ports":[{"port":80}]}`)}, nil, ""},
		{"another namespace", []string{strings.Replace(service(`{"selector":{"app":"gw"},"ports":[{"port":80}]}`), `"ns"`, `"other"`, 1)}, nil, ""},
		{"name, the proxy's own Pod", []string{
			service(`{"selector":{"app":"gw"},"ports":[{"port":80,"targetPort":"web"}]}`),
			pod("alike", `{"app":"gw"}`, `{"name":"web","containerPort":1}`),
			pod("gw", `{"app":"gw"}`, `{"name":"web","containerPort":2}`),
		}, []int{2}, ""},
		{"name, a Pod alike", []string{
			service(`{"selector":{"app":"gw"},"ports":[{"port":80,"targetPort":"web"}]}`),
			pod("alike", `{"app":"gw"}`, `{"name":"web","containerPort":1,"protocol":"TCP"}`),
		}, []int{1}, ""},
		{"name, another protocol", []string{
			service(`{"selector":{"app":"gw"},"ports":[{"port":80,"targetPort":"web"}]}`),
			pod("gw", `{"app":"gw"}`, `{"name":"web","containerPort":1,"protocol":"UDP"}`),
		}, nil, `no container of Pod gw has a TCP port named "web"`},
		{"name, no Pod", []string{service(`{"selector":{"app":"gw"},"ports":[{"port":80,"targetPort":"web"}]}`)}, nil, "needs the workload's Pod"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := world(tt.objects...)
			var got []int
			for _, target := range w.Targets(proxy) {
				got = append(got, target.TargetPort)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got target ports %v, want %v", got, tt.want)
			}
			rejected := w.rejections()
			if tt.rejected == "" && len(rejected) > 0 || tt.rejected != "" && (len(rejected) != 1 || !strings.Contains(rejected[0].Message, tt.rejected)) {
				t.Errorf("got rejected %+v, want %q", rejected, tt.rejected)
			}
		})
	}
}

func TestSorted(t *testing.T) {
	got, err := Sorted([]Resource{
		{"b", []byte(`{"z": 1.50, "a": "<&>"}`)},
		{"a", []byte(`{"providers": {"p": {"spaceDelimitedClaims": ["scope", "groups"]}}, "order": ["z", "a"]}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`{"order":["z","a"],"providers":{"p":{"spaceDelimitedClaims":["groups","scope"]}}}`, `{"a":"<&>","z":1.50}`}
	for i := range want {
		if string(got[i]) != want[i] {
			t.Errorf("got %s, want %s", got[i], want[i])
		}
	}
}

func TestRouteNames(t *testing.T) {
	got, err := RouteNames([]json.RawMessage{
		[]byte(`{"filterChains":[{"filters":[{"typedConfig":{"rds":{"routeConfigName":"http.8081"}}}]}]}`),
		[]byte(`{"defaultFilterChain":{"filters":[{"typedConfig":{"rds":{"routeConfigName":"http.8080"}}}]}}`),
		[]byte(`{"filterChains":[{"filters":[{"typedConfig":{"routeConfig":{"name":"inline"}}},{"typedConfig":{"rds":{"routeConfigName":"http.8080"}}}]}]}`),
	})
	if want := []string{"http.8080", "http.8081"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
}

func TestKeys(t *testing.T) {
	const (
		secret = `{"keys": [{"kty": "RSA", "e": "AQAB", "n": "abc", "d": "x", "p": "x", "q": "x", "dp": "x", "dq": "x", "qi": "x"}]}`
		open   = `{"keys": [{"kty": "RSA", "e": "AQAB", "n": "abc"}]}`
		given  = `{"keys": [{"kty": "EC"}]}`
	)
	for _, tt := range []struct {
		name                  string
		given                 map[string]string
		uri, fallback         string
		want, warning, errors string
	}{
		{"given by jwksUri", map[string]string{"https://a.b/keys": given}, "https://a.b/keys", open, given, "", ""},
		{"given by issuer", map[string]string{"https://a.b": given}, "", open, given, "", ""},
		{"given for another", map[string]string{"https://a.b": given}, "https://a.b/keys", open, open, "none were given for https://a.b/keys", ""},
		{"a placeholder nobody can sign with", nil, "", open, open, "No token that the issuer signed is accepted", ""},
		{"a published placeholder", nil, "", secret, `{"keys":[{"e":"AQAB","kty":"RSA","n":"abc"}]}`, "CVE-2026-31837", ""},
		{"a broken placeholder", nil, "", "?", "", "", "istio's fallback keys"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(&Request{JWKS: tt.given})
			got, err := w.Keys(Object{Kind: "RequestAuthentication"}, 0, tt.uri, "https://a.b", func(string) string { return tt.fallback })
			if got != tt.want || (err == nil) != (tt.errors == "") || err != nil && !strings.Contains(err.Error(), tt.errors) {
				t.Errorf("got %s, %v, want %s, %q", got, err, tt.want, tt.errors)
			}
			warned := w.warned()
			if tt.warning == "" && len(warned) > 0 || tt.warning != "" && (len(warned) != 1 || !strings.Contains(warned[0].Message, tt.warning)) {
				t.Errorf("got warnings %+v, want %q", warned, tt.warning)
			}
			if tt.fallback == open && len(warned) == 1 && strings.Contains(warned[0].Message, "CVE") {
				t.Errorf("got warning %q, want none of a published key", warned[0].Message)
			}
		})
	}
}

// shared are the source files that all lines share: links to the newest line's, so that a fix lands in all. Istio 1.17 has another
// registry.
var shared = []string{"main.go", "translate.go", "registry.go"}

// TestShared: where a checkout has no symbolic links (git's core.symlinks is off), or somebody replaced one, a line would be built from
// something else.
func TestShared(t *testing.T) {
	newest := filepath.Join("..", "istio-1.31")
	dirs, err := filepath.Glob(filepath.Join("..", "istio-*"))
	if err != nil || len(dirs) < 2 {
		t.Fatalf("got lines %q (%v), want several", dirs, err)
	}
	for _, dir := range dirs {
		for _, name := range shared {
			if name == "registry.go" && filepath.Base(dir) == "istio-1.17" {
				continue
			}
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join(newest, name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s/%s is not %s/%s: it must be a link to it (git config core.symlinks true)", dir, name, newest, name)
			}
		}
	}
}
