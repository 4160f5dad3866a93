package territory

import (
	"strings"
	"testing"
)

// FuzzAt: whatever the host, the path and the method are, a request is a model's only
// at a host that a genuine VirtualService has, which is then named, and a refusal has
// a reason.
func FuzzAt(f *testing.F) {
	m := compileMap(f, Config{}, modelOf(kserveVS, "kserve-test", "iris"), virtualService("kserve-test", "x", `{gateways: [kubeflow/kubeflow-gateway], hosts: [iris.kserve-test.example.com], http: [{match: [{uri: {prefix: /own}, method: {exact: GET}}], route: [{destination: {host: own}}]}]}`))
	if got := m.At(8080, "iris.kserve-test.example.com", "/v1/models/iris:predict", "POST"); got.Kind != Model {
		f.Fatalf("got %+v, want a model", got)
	}
	for _, host := range []string{"iris.kserve-test.example.com", "IRIS.kserve-test.example.com:80", "iris.kserve-test.example.com.", "iris.kserve-test.example.com:80:80", "[::1]:80", "*", "", ":", "x.example.com"} {
		f.Add(uint16(8080), host, "/v1/models/iris:predict", "POST")
		f.Add(uint16(8081), host, "/own/x", "GET")
	}
	f.Add(uint16(0), "iris.kserve-test.example.com", "", "")
	f.Fuzz(func(t *testing.T, door uint16, host, path, method string) {
		got := m.At(door, host, path, method)
		name := HostOf(host)
		switch got.Kind {
		case Refused:
			if got.Reason == "" {
				t.Error("refused without a reason")
			}
		case Model, Application:
			if got.Host != name || got.Resource.IsZero() || len(got.VirtualServices) == 0 {
				t.Errorf("%q: got %+v", host, got)
			}
			for _, vs := range got.VirtualServices {
				if !m.Owned(vs) {
					t.Errorf("%q: %s is nobody's", host, vs)
				}
			}
			if strings.HasPrefix(path, "/own") && method == "GET" && got.Host == "iris.kserve-test.example.com" && door == 8080 {
				t.Errorf("%q %q: two routes match, got %+v", method, path, got)
			}
		}
		if again := m.At(door, strings.ToUpper(host), path, method); again.Kind != got.Kind && strings.ToLower(strings.ToUpper(host)) == strings.ToLower(host) {
			t.Errorf("%q: got %s, in capitals %s", host, got.Kind, again.Kind)
		}
	})
}

// FuzzRoute: what is read from a route's metadata is a namespace and a name.
func FuzzRoute(f *testing.F) {
	f.Add("/apis/networking.istio.io/v1alpha3/namespaces/kserve-test/virtual-service/iris")
	f.Add("/apis/networking.istio.io/v1/namespaces//virtual-service/iris")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if vs, ok := Route(text); ok && (strings.Count(vs, "/") != 1 || strings.HasPrefix(vs, "/") || strings.HasSuffix(vs, "/")) {
			t.Errorf("%q: got %q", text, vs)
		}
	})
}
