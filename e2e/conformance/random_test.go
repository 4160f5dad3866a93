//go:build e2e

package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// TestRandomConfigurations adds policies, routes and filters that nobody wrote to
// the story's manifests, has Istio 1.17 translate them, and compares the engine
// with a real Envoy. POSTERN_RANDOM_CONFIGS says how many.
func TestRandomConfigurations(t *testing.T) {
	n := 24
	if text := os.Getenv("POSTERN_RANDOM_CONFIGS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("POSTERN_RANDOM_CONFIGS: %v", err)
		}
	}
	seed := uint64(1) // the same requests every time; POSTERN_SEED=$(date +%s) for others
	if text := os.Getenv("POSTERN_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("POSTERN_SEED: %v", err)
		}
	}
	tokens := newMint(t)
	tokens.issuers, tokens.audiences, tokens.keys = []string{"https://one.example", "https://two.example"}, []string{"postern", "others"}, tokens.jwks(t, "", "")
	total, causes := 0, map[string]int{}
	byIstio, byEnvoy := 0, 0
	for i := range n {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		state := story.States()[r.IntN(4)]
		extra := randomObjects(r, tokens)
		resources, err := mutated(state, extra)
		if err != nil {
			// Istio's own validation refuses some of what is made up.
			if !strings.Contains(err.Error(), "Istio") {
				t.Fatalf("seed %d, configuration %d: %v\n%s", seed, i, err, extra)
			}
			t.Logf("configuration %d: %v", i, err)
			byIstio++
			continue
		}
		if r.IntN(2) == 0 {
			extra += "\n---\n# " + flip(t, r, resources)
		}
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			n := compareRandom(t, configuration{name: fmt.Sprintf("random-%d", i), resources: resources, tokens: tokens}, extra, seed, byte(100+i%100), causes)
			if total += n; n == 0 {
				byEnvoy++
			}
		})
	}
	unknown := 0
	var list []string
	for cause, k := range causes {
		// What a filter removed concerns all of a configuration: the engine says so and no more.
		if !strings.Contains(cause, "behind one that removes") && !strings.Contains(cause, "a rewrite of what a filter removed") {
			unknown += k
		}
		list = append(list, fmt.Sprintf("%s: %d", cause, k))
	}
	sort.Strings(list)
	t.Logf("seed %d: %d configurations, %d refused by Istio, %d by both Envoy and the engine, %d requests, %d unknown; %s", seed, n, byIstio, byEnvoy, total, unknown, strings.Join(list, "; "))
	if total == 0 || unknown*100 > total {
		t.Errorf("%d of %d answers are unknown, want at most 1 %%", unknown, total)
	}
}

// mutated is what Istio makes of a state with more objects, also what the engine does
// not take.
func mutated(state story.State, extra string) (envoy.Resources, error) {
	base, err := manifest.FS(story.FS, state.Dirs...)
	if err != nil {
		return envoy.Resources{}, err
	}
	more, err := manifest.Bytes("extra.yaml", []byte(extra))
	if err != nil {
		return envoy.Resources{}, err
	}
	var objects []*manifest.Object
	for _, s := range []*manifest.Set{base, more} {
		for o := range s.All() {
			objects = append(objects, o)
		}
	}
	set, err := manifest.New(objects...)
	if err != nil {
		return envoy.Resources{}, err
	}
	o := translate.Options{Progress: os.Stderr}
	// Behind RequestAuthentications older ones have a filter of their own, which upstream
	// Envoy does not know; the others older ones do not know.
	for _, newer := range []string{`"RequestAuthentication"`, "header_mutation.v3", `"OVERWRITE_IF_EXISTS"`} {
		if strings.Contains(extra, newer) {
			o.Version = "newest"
		}
	}
	w, err := world.Build(context.Background(), set, world.Options{Translate: o})
	if refused := (*world.RefusedError)(nil); errors.As(err, &refused) {
		return refused.Resources, nil
	}
	if err != nil {
		return envoy.Resources{}, err
	}
	return w.Gateways[0].Resources, nil
}

// compareRandom runs requests on one configuration and counts the unknown answers by
// cause; any other difference is an error, also that only one of the two takes the
// configuration. No requests: neither does.
func compareRandom(t *testing.T, c configuration, extra string, seed uint64, host byte, causes map[string]int) int {
	t.Helper()
	const requests, workers = 400, 4
	if _, err := envoy.Compile(c.resources); err != nil {
		refusals(t, fmt.Sprintf("seed %d, %s, with\n%s\n", seed, c.name, extra), c.resources)
		return 0
	}
	p, err := start(t, c, host)
	if err != nil {
		t.Fatalf("seed %d, %s: the engine takes the configuration, Envoy does not: %v\nwith\n%s", seed, c.name, err, extra)
	}
	v := read(c.resources, p.proxy.Ports())
	v.names = append(v.names, "x-foo", "x-tenant")
	v.values = append(v.values, "a", "b", "alpha")
	var wg sync.WaitGroup
	var mu sync.Mutex
	for worker := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(worker)+1000*uint64(host)))
			conns := p.clients()
			defer conns.close()
			for i := worker; i < requests; i += workers {
				q := v.generate(r, i, c.tokens)
				diff := p.compare(conns.of(q), q, strconv.Itoa(i))
				mu.Lock()
				if cause, ok := strings.CutPrefix(diff, "the engine cannot tell: "); ok {
					causes[cause]++
				} else if diff != "" {
					t.Errorf("seed %d, %s, request %d:\n%q\n%s\nwith\n%s", seed, c.name, i, q, diff, extra)
					mu.Unlock()
					break
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return requests
}

// randomObjects are one to four objects as YAML (JSON is YAML).
func randomObjects(r *rand.Rand, tokens *mint) string {
	var out []string
	for i := range 1 + r.IntN(4) {
		var o map[string]any
		switch r.IntN(8) {
		case 0, 1:
			o = randomPolicy(r, i)
		case 2, 3:
			o = randomPatches(r, i)
		case 4:
			o = randomAuthentication(r, i, tokens)
		default:
			o = randomRoute(r, i)
		}
		data, err := json.Marshal(o)
		if err != nil {
			panic(err) // maps of plain values
		}
		out = append(out, string(data))
	}
	return strings.Join(out, "\n---\n")
}

func object(kind, version, namespace string, i int, spec map[string]any) map[string]any {
	return map[string]any{"apiVersion": version, "kind": kind, "metadata": map[string]any{"name": fmt.Sprintf("extra-%d", i), "namespace": namespace}, "spec": spec}
}

func some(r *rand.Rand, from ...string) []any {
	var out []any
	for _, s := range from {
		if r.IntN(2) == 0 {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		out = append(out, from[r.IntN(len(from))])
	}
	return out
}

// randomRoute is a VirtualService of a tenant, often on a model's host.
func randomRoute(r *rand.Rand, i int) map[string]any {
	matcher := func() map[string]any {
		return map[string]any{pick(r, []string{"exact", "prefix", "regex"}): pick(r, []string{"a", "b", "alpha", "al.*", "sklearn-iris.kserve-test.example.com"})}
	}
	match := map[string]any{}
	if r.IntN(2) == 0 {
		match["uri"] = map[string]any{pick(r, []string{"exact", "prefix"}): pick(r, []string{"/v1/models/m:predict", "/v1", "/", "/pipeline/"})}
	} else if r.IntN(3) == 0 {
		match["uri"] = map[string]any{"regex": pick(r, []string{"/v1.*", "/v[0-9]/models/[^/]+:predict", "/[a-z0-9]*", ".*", "/(dex|pipeline)/.*"})}
	}
	if r.IntN(2) == 0 {
		match["headers"] = map[string]any{pick(r, []string{"x-foo", "x-tenant", "x-forwarded-host"}): matcher()}
	}
	if r.IntN(3) == 0 {
		match["withoutHeaders"] = map[string]any{"x-two": pick(r, []map[string]any{matcher(), {}})}
	}
	if r.IntN(3) == 0 {
		match["method"] = map[string]any{"exact": pick(r, []string{"GET", "POST"})}
	}
	if r.IntN(4) == 0 {
		match["queryParams"] = map[string]any{"q": pick(r, []map[string]any{{"exact": "1"}, {"regex": "[0-9]+"}, {"prefix": "1"}})}
	}
	if r.IntN(4) == 0 {
		match["ignoreUriCase"] = true
	}
	http := map[string]any{"route": []any{map[string]any{"destination": map[string]any{"host": pick(r, []string{"ml-pipeline-ui.kubeflow.svc.cluster.local", "orders.backend.svc.cluster.local", "nobody.nowhere.svc.cluster.local"}), "port": map[string]any{"number": 80}}}}}
	if len(match) > 0 {
		http["match"] = []any{match}
	}
	enrich(r, http)
	hosts := []any{pick(r, []string{"sklearn-iris.kserve-test.example.com", "fraud.team-b.example.com", "*.example.com", "tenant.example.org", "*"})}
	if r.IntN(4) == 0 {
		delete(http, "route")
		if r.IntN(2) == 0 {
			http["directResponse"] = map[string]any{"status": pick(r, []int{200, 403, 503}), "body": map[string]any{"string": pick(r, []string{"", "direct"})}}
		} else {
			http["redirect"] = pick(r, []map[string]any{{"uri": "/elsewhere"}, {"authority": "new.example.com"}, {"uri": "/x?y=1", "authority": "b", "redirectCode": 307}, {"scheme": "https", "authority": "c", "redirectCode": 302}, {"uri": "%PREFIX()%/new"}, {"uri": "%PREFIX()%new?z=1", "authority": "d"}})
		}
		if r.IntN(2) == 0 {
			http["headers"] = map[string]any{"response": map[string]any{"set": map[string]any{"x-r": pick(r, []string{"1", ""})}, "add": map[string]any{"x-s": "2"}, "remove": []any{"x-t"}}}
		}
		return object("VirtualService", "networking.istio.io/v1beta1", "team-b", i, map[string]any{"gateways": []any{"kubeflow/kubeflow-gateway"}, "hosts": hosts, "http": []any{http}})
	}
	if r.IntN(3) == 0 {
		http["rewrite"] = pick(r, []map[string]any{{"uri": "/new"}, {"authority": "new.example.com"}, {"uri": "/", "authority": "b"}, {"uri": "/v1"}, {"uri": "new?z=1"}})
	}
	if r.IntN(3) == 0 {
		http["headers"] = map[string]any{"request": map[string]any{"set": map[string]any{pick(r, []string{"x-set", "x-foo", "x-tenant", "host", ":authority", "x-postern-caller"}): pick(r, []string{"1", "1", ""})}, "add": map[string]any{"x-two": pick(r, []string{"added", ""}), "via": "added"}, "remove": []any{"x-foo"}}}
	}
	if r.IntN(3) == 0 {
		http["timeout"] = "7s"
	}
	return object("VirtualService", "networking.istio.io/v1beta1", "team-b", i, map[string]any{
		"gateways": []any{"kubeflow/kubeflow-gateway", "knative-serving/knative-local-gateway"},
		"hosts":    hosts,
		"http":     []any{http},
	})
}
