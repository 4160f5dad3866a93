package main

import (
	"encoding/json"
	"testing"

	"sigs.k8s.io/yaml"

	"postern.dev/postern/translator/contract/contracttest"
)

func TestContract(t *testing.T) { contracttest.Suite(t, line, yaml.YAMLToJSON) }

// TestGoldens compares with what Istio 1.17.5 made of two releases, by another program (Istio's own test server, another registry, see
// reference/TRANSLATOR.md). Listeners and route configurations are compared whole and nothing in them is ignored: filters that upstream
// Envoy does not know (istio_authn, istio.metadata_exchange, istio.stats, istio.alpn) are TypedStruct or Any on both sides. Of clusters
// the goldens hold the names only.
func TestGoldens(t *testing.T) {
	for _, release := range []string{"v1.8.1-shared", "v1.8.1-shared-blogfix"} {
		t.Run(release, func(t *testing.T) {
			objects := contracttest.Release(t, yaml.YAMLToJSON, release)
			goldens := contracttest.Goldens(t, release, version)
			if len(goldens) != 2 {
				t.Fatalf("got %d goldens, want one for each gateway", len(goldens))
			}
			for _, want := range goldens {
				t.Run(want.Proxy.Name, func(t *testing.T) { compare(t, objects, want) })
			}
		})
	}
}

func compare(t *testing.T, objects []json.RawMessage, want contracttest.Golden) {
	out := contracttest.Translate(t, line, objects, want.AsProxy())
	got := out.Proxies[0]
	if out.Istio != want.Istio || len(got.Listeners) != len(want.Listeners) || len(got.Routes) != len(want.Routes) || len(got.Clusters) != len(want.Clusters) {
		t.Fatalf("got istio %s, %d listeners, %d routes, %d clusters, want %s, %d, %d, %d", out.Istio, len(got.Listeners), len(got.Routes),
			len(got.Clusters), want.Istio, len(want.Listeners), len(want.Routes), len(want.Clusters))
	}
	for i := range want.Listeners {
		contracttest.Equal(t, "listener", got.Listeners[i], want.Listeners[i])
	}
	for i := range want.Routes {
		contracttest.Equal(t, "route configuration", got.Routes[i], want.Routes[i])
	}
	for i, name := range want.Clusters {
		var c struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(got.Clusters[i], &c); err != nil || c.Name != name {
			t.Errorf("cluster %d: got %q (%v), want %q", i, c.Name, err, name)
		}
	}
	for _, r := range out.Rejected {
		if r.Kind != "ConfigMap" && r.Kind != "Deployment" && r.Kind != "StatefulSet" {
			t.Errorf("got rejected %+v, want only kinds Istio does not read", r)
		}
	}
}
