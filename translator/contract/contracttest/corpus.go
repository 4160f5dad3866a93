// Package contracttest is the part of a translator's tests that is the same for every line.
package contracttest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"postern.dev/postern/translator/contract"
)

// corpus is where the corpus lies, seen from a translator's directory. It is not part of the checkout.
const corpus = "../../../shared/corpus"

// ToJSON turns one YAML document into JSON. The contract is stdlib only, so the translators bring it.
type ToJSON func(yaml []byte) ([]byte, error)

// Derived are the objects that exist only at run time and that the goldens were made with.
var Derived = []string{"isvc-runtime", "knative-vs-external", "kserve-vs-external"}

// Release returns the objects of a release of the corpus, with Derived. Without a corpus it skips the test; a release that is missing in
// a corpus that is there fails it.
func Release(t *testing.T, toJSON ToJSON, release string) []json.RawMessage {
	t.Helper()
	if _, err := os.Stat(corpus); os.IsNotExist(err) {
		t.Skipf("NOT TESTED: no corpus at %s (it is not part of the checkout)", corpus)
	}
	files, err := filepath.Glob(filepath.Join(corpus, release, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("release %s: got %d files (%v), want some", release, len(files), err)
	}
	sort.Strings(files)
	for _, d := range Derived {
		files = append(files, filepath.Join(corpus, "derived", d+".yaml"))
	}
	var out []json.RawMessage
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Objects(t, toJSON, string(b))...)
	}
	return out
}

// Objects splits a YAML stream.
func Objects(t *testing.T, toJSON ToJSON, stream string) []json.RawMessage {
	t.Helper()
	var out []json.RawMessage
	for _, doc := range strings.Split("\n"+stream, "\n---") {
		b, err := toJSON([]byte(doc))
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if string(b) != "null" {
			out = append(out, b)
		}
	}
	return out
}

// Golden is what an Istio version made of a release for one proxy, written by another program than the translators.
type Golden struct {
	Istio     string            `json:"istio"`
	Listeners []json.RawMessage `json:"listeners"`
	Routes    []json.RawMessage `json:"routes"`
	Clusters  []string          `json:"clusters"` // names only
	Proxy     struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Type      string            `json:"type"`
		Address   string            `json:"address"`
		Labels    map[string]string `json:"labels"`
	} `json:"proxy"`
}

// Goldens reads those of a release and version. Call Release first: it skips.
func Goldens(t *testing.T, release, version string) []Golden {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(corpus, release, "translated", "istio-"+version+"-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("release %s: got %d goldens of istio %s (%v), want some", release, len(files), version, err)
	}
	var out []Golden
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var g Golden
		if err := json.Unmarshal(b, &g); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		out = append(out, g)
	}
	return out
}

// AsProxy is the proxy a golden was made for.
func (g Golden) AsProxy() contract.Proxy {
	return contract.Proxy{
		Name: g.Proxy.Name, Type: g.Proxy.Type, Namespace: g.Proxy.Namespace,
		Labels: g.Proxy.Labels, Addresses: []string{g.Proxy.Address},
	}
}

// IngressGateway is Kubeflow's gateway.
func IngressGateway() contract.Proxy {
	return contract.Proxy{
		Name: "istio-ingressgateway.istio-system", Type: "router", Namespace: "istio-system",
		ServiceAccount: "istio-ingressgateway-service-account",
		Labels:         map[string]string{"app": "istio-ingressgateway", "istio": "ingressgateway"},
		Addresses:      []string{"10.0.0.1"},
	}
}

// Translate runs a line and fails the test if it does.
func Translate(t *testing.T, line contract.Line, objects []json.RawMessage, proxies ...contract.Proxy) contract.Response {
	t.Helper()
	b, err := line.Run(&contract.Request{Objects: objects, Proxies: proxies})
	if err != nil {
		t.Fatal(err)
	}
	var out contract.Response
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Equal compares two protos in JSON, whatever their white space and order of keys.
func Equal(t *testing.T, what string, got, want json.RawMessage) {
	t.Helper()
	g, w := canonical(t, got), canonical(t, want)
	if g == w {
		return
	}
	i := 0
	for i < len(g) && i < len(w) && g[i] == w[i] {
		i++
	}
	t.Errorf("%s: differs at byte %d:\n got %s\nwant %s", what, i, around(g, i), around(w, i))
}

func canonical(t *testing.T, b json.RawMessage) string {
	t.Helper()
	sorted, err := contract.Sorted([]contract.Resource{{JSON: b}})
	if err != nil {
		t.Fatal(err)
	}
	return string(sorted[0])
}

func around(s string, i int) string {
	from, to := i-100, i+100
	if from < 0 {
		from = 0
	}
	if to > len(s) {
		to = len(s)
	}
	return s[from:to]
}

// Filters are the names of the HTTP filters of a proxy's listener on a port, in order.
func Filters(t *testing.T, c contract.ProxyConfig, port int) []string {
	t.Helper()
	for _, l := range c.Listeners {
		var read struct {
			Address struct {
				SocketAddress struct {
					PortValue int `json:"portValue"`
				} `json:"socketAddress"`
			} `json:"address"`
			FilterChains []struct {
				Filters []struct {
					TypedConfig struct {
						HTTPFilters []struct {
							Name string `json:"name"`
						} `json:"httpFilters"`
					} `json:"typedConfig"`
				} `json:"filters"`
			} `json:"filterChains"`
		}
		if err := json.Unmarshal(l, &read); err != nil {
			t.Fatal(err)
		}
		if read.Address.SocketAddress.PortValue != port {
			continue
		}
		var out []string
		for _, chain := range read.FilterChains {
			for _, filter := range chain.Filters {
				for _, h := range filter.TypedConfig.HTTPFilters {
					out = append(out, h.Name)
				}
			}
		}
		return out
	}
	t.Fatalf("proxy %s: no listener on port %d", c.Name, port)
	return nil
}
