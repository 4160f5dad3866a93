package contracttest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"postern.dev/postern/translator/contract"
)

// golden is what an Istio version made of a release for one proxy, written by another program than the translators.
type golden struct {
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

// readGoldens reads those of a release and version. Call Release first: it skips.
func readGoldens(t *testing.T, release, version string) []golden {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(corpus, release, "translated", "istio-"+version+"-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("release %s: got %d goldens of istio %s (%v), want some", release, len(files), version, err)
	}
	var out []golden
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var g golden
		if err := json.Unmarshal(b, &g); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		out = append(out, g)
	}
	return out
}

// asProxy is the proxy a golden was made for.
func (g golden) asProxy() contract.Proxy {
	return contract.Proxy{
		Name: g.Proxy.Name, Type: g.Proxy.Type, Namespace: g.Proxy.Namespace,
		Labels: g.Proxy.Labels, Addresses: []string{g.Proxy.Address},
	}
}

// CompareGoldens compares a line with what an Istio version made of a release for both gateways, by another program (Istio's own test
// server, another registry). Listeners and route configurations are compared whole. What is ignored, and why:
//
//   - the order of object keys and white space, which protojson varies on purpose, also inside a key set in a string: the goldens' were
//     written anew when the private members of Istio's placeholder key were left out, as the translators leave them out;
//   - the order of spaceDelimitedClaims, which Istio takes from a map;
//   - all of a cluster but its name: the goldens hold no more;
//   - the value of the trace tag istio.cluster_id, which is "unknown" there: the goldens' proxies did not say which cluster they are of,
//     as a real one does;
//   - the version's name, where the golden is of another patch (1.28.0, which the module proxy refuses, beside 1.28.2).
//
// Filters that upstream Envoy does not know (istio_authn, istio.metadata_exchange, istio.stats, istio.alpn) are TypedStruct or Any on both
// sides and compared too.
func CompareGoldens(t *testing.T, line contract.Line, toJSON ToJSON, release, version string) {
	t.Helper()
	objects := Release(t, toJSON, release)
	goldens := readGoldens(t, release, version)
	if len(goldens) != 2 {
		t.Fatalf("release %s: got %d goldens, want one for each gateway", release, len(goldens))
	}
	for _, want := range goldens {
		t.Run(release+"/"+want.Proxy.Name, func(t *testing.T) {
			out := Translate(t, line, objects, want.asProxy())
			if want.Istio != version {
				t.Errorf("got a golden of istio %s, want one of %s", want.Istio, version)
			}
			compare(t, out.Proxies[0], want)
			for _, r := range out.Rejected {
				if r.Kind != "ConfigMap" && r.Kind != "Deployment" && r.Kind != "StatefulSet" && r.Kind != "NetworkPolicy" {
					t.Errorf("got rejected %+v, want only kinds Istio does not read", r)
				}
			}
		})
	}
}

func compare(t *testing.T, got contract.ProxyConfig, want golden) {
	if len(got.Listeners) != len(want.Listeners) || len(got.Routes) != len(want.Routes) || len(got.Clusters) != len(want.Clusters) {
		t.Fatalf("got %d listeners, %d routes, %d clusters, want %d, %d, %d", len(got.Listeners), len(got.Routes), len(got.Clusters),
			len(want.Listeners), len(want.Routes), len(want.Clusters))
	}
	for i := range want.Listeners {
		equal(t, "listener", got.Listeners[i], want.Listeners[i])
	}
	for i := range want.Routes {
		equal(t, "route configuration", got.Routes[i], want.Routes[i])
	}
	for i, name := range want.Clusters {
		var c struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(got.Clusters[i], &c); err != nil || c.Name != name {
			t.Errorf("cluster %d: got %q (%v), want %q", i, c.Name, err, name)
		}
	}
}

// equal compares two protos in JSON, whatever their white space and order of keys.
func equal(t *testing.T, what string, got, want json.RawMessage) {
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
	var v any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	leaveOut(v)
	again, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	sorted, err := contract.Sorted([]contract.Resource{{JSON: again}})
	if err != nil {
		t.Fatal(err)
	}
	return string(sorted[0])
}

// leaveOut evens out what CompareGoldens ignores: key sets in strings are written anew, and the cluster's name in traces is taken away.
func leaveOut(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			leaveOut(e)
		}
	case map[string]any:
		if local, ok := v["localJwks"].(map[string]any); ok {
			text, _ := local["inlineString"].(string)
			var keys any
			if err := json.Unmarshal([]byte(text), &keys); err == nil {
				if b, err := json.Marshal(keys); err == nil {
					local["inlineString"] = string(b)
				}
			}
		}
		if v["tag"] == "istio.cluster_id" {
			delete(v, "literal")
		}
		for _, e := range v {
			leaveOut(e)
		}
	}
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
