//go:build e2e

package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// dex issues 26.03's tokens (its RequestAuthentication dex-jwt).
const dex = "http://dex.auth.svc.cluster.local:5556/dex"

// translated are a release's gateways that no golden holds in a form that a current
// Envoy takes, made from its objects.
type translated struct {
	release, with string   // with: what is special about the models' objects
	istio         string   // the line that translates
	models        []string // of corpus/derived
	workloads     []string
	tokens        bool
}

// byTranslator are v1.4.0-shared, whose golden is Istio 1.9's, by the oldest line there
// is, in which deprecated names of filters match as they did; and the models' objects
// that are in no golden: without a domain, and under one host by path.
var byTranslator = []translated{
	{"v1.4.0-shared", "", "1.17", []string{"isvc-runtime", "kserve-vs-external", "knative-vs-external"}, []string{"istio-ingressgateway", "cluster-local-gateway"}, false},
	{"v1.8.1-shared", "-internal", "1.17", []string{"isvc-runtime", "kserve-vs-internal", "knative-vs-internal"}, []string{"istio-ingressgateway"}, false},
	{"26.03", "-pathtemplate", "1.28", []string{"isvc-runtime", "kserve-vs-26.03-pathtemplate", "knative-vs-external"}, []string{"istio-ingressgateway"}, true},
}

// translations are byTranslator's configurations, jwks in the place of the issuer's keys.
func translations(t *testing.T, tokens *mint, jwks string) []configuration {
	t.Helper()
	var out []configuration
	for _, tr := range byTranslator {
		names := []string{}
		releases, err := filepath.Glob(filepath.Join(corpus, tr.release, "*.yaml"))
		if err != nil || len(releases) == 0 {
			t.Fatalf("release %s: got %d files, %v", tr.release, len(releases), err)
		}
		names = append(names, releases...)
		for _, m := range tr.models {
			names = append(names, filepath.Join(corpus, "derived", m+".yaml"))
		}
		set, err := manifest.Files(names, nil)
		if err != nil {
			t.Fatal(err)
		}
		w, err := world.Build(context.Background(), set, world.Options{Translate: translate.Options{Version: tr.istio, Progress: os.Stderr}, JWKS: map[string]string{dex: jwks}})
		if err != nil {
			t.Fatalf("%s: %v", tr.release, err)
		}
		found := 0
		for _, g := range w.Gateways {
			if !slices.Contains(tr.workloads, g.Workload.Name) {
				continue
			}
			found++
			c := configuration{name: tr.release + tr.with + "-istio-" + w.Istio + "-" + strings.TrimPrefix(g.Workload.Name, "istio-"), resources: withDestinations(g.Resources)}
			if tr.tokens {
				c.tokens = tokens
			}
			out = append(out, c)
		}
		if found != len(tr.workloads) {
			t.Fatalf("%s: got %d of the gateways %v", tr.release, found, tr.workloads)
		}
	}
	return out
}

// withDestinations adds the clusters of Services that the corpus has routes to, but not
// the objects of.
func withDestinations(r envoy.Resources) envoy.Resources {
	has := map[string]bool{}
	for _, c := range r.Clusters {
		has[c.Name] = true
	}
	for _, name := range destinations(r) {
		if !has[name] {
			has[name] = true
			r.Clusters = append(r.Clusters, &clusterv3.Cluster{Name: name})
		}
	}
	return r
}

// TestOldReleaseKeepsItsRoutes: what Istio 1.17 makes of v1.4.0-shared has the hosts,
// matches and destinations that Istio 1.9.6 gave it.
func TestOldReleaseKeepsItsRoutes(t *testing.T) {
	if _, err := os.Stat(corpus); err != nil {
		t.Skipf("the corpus of Kubeflow releases is absent: %v", err)
	}
	var golden struct{ Routes []json.RawMessage }
	readJSON(t, filepath.Join(corpus, "v1.4.0-shared/translated/istio-1.9.6-ingressgateway.json"), &golden)
	want := routesOf(parse(t, nil, golden.Routes, nil))
	tokens := newMint(t)
	got := routesOf(translations(t, tokens, tokens.jwks(t, "", ""))[1].resources)
	if !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// routesOf are a gateway's routes, a line for each host. Istio 1.9 names the Service's
// port and not the pod's, writes a host with any port where newer lines ignore ports, and
// header matchers in their old form.
func routesOf(r envoy.Resources) []string {
	var out []string
	for _, rc := range r.Routes {
		for _, vh := range rc.VirtualHosts {
			for _, d := range vh.Domains {
				if strings.HasSuffix(d, ":*") {
					continue
				}
				for _, rt := range vh.Routes {
					line := fmt.Sprintf("%s %s%s -> %s", strings.Replace(rc.Name, "http.8080", "http.80", 1), d, rt.Match.GetPrefix(), rt.GetRoute().GetCluster())
					for _, h := range rt.Match.Headers {
						//lint:ignore SA1019 the form that Istio 1.9 writes
						line += fmt.Sprintf(" %s=%s%s%s%s%s%s", h.Name, h.GetExactMatch(), h.GetPrefixMatch(), h.GetSafeRegexMatch().GetRegex(),
							h.GetStringMatch().GetExact(), h.GetStringMatch().GetPrefix(), h.GetStringMatch().GetSafeRegex().GetRegex())
					}
					out = append(out, line)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
