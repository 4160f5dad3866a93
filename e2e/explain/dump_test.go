//go:build e2e

package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/explain"
	"postern.dev/postern/internal/lab/realenvoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// committed is the dump that internal/explain's own tests read.
const committed = "../../internal/explain/testdata/path-exempt.config_dump.json"

func tool(t *testing.T, path string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join("..", "..", ".tools", path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%v (run make tools)", err)
	}
	return p
}

// TestConfigDump takes the config_dump of a real Envoy that runs state 3 of the
// story. Explain reads it whole, and the committed one is the same but for what
// differs from run to run; POSTERN_UPDATE=1 writes it.
func TestConfigDump(t *testing.T) {
	ctx := context.Background()
	set, err := manifest.FS(story.FS, "common", "3-path-exempt")
	if err != nil {
		t.Fatal(err)
	}
	bundled, err := fs.Sub(story.FS, "translated")
	if err != nil {
		t.Fatal(err)
	}
	w, err := world.Build(ctx, set, world.Options{Pods: netip.MustParsePrefix("127.67.0.0/16"), Translate: translate.Options{Bundled: bundled}})
	if err != nil {
		t.Fatal(err)
	}
	g := w.Gateways[0]
	e, err := realenvoy.Start(ctx, realenvoy.Config{Program: tool(t, "envoy/bin/envoy"), Address: g.Workload.Pods[0].Addr,
		Endpoints: func(string) []netip.AddrPort { return nil }}, g.Resources)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	dump, err := e.Ask(ctx, "/config_dump")
	if err != nil {
		t.Fatal(err)
	}
	s, err := explain.FromDump([]explain.Dump{{Name: "dump", Reader: bytes.NewReader(dump)}}, nil, translate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Explain(ctx, explain.Call{URL: "http://localhost:8080/v1/models/m", Headers: [][2]string{{"Host", "sklearn-iris.kserve-test.example.com"}}})
	if err != nil || a.Outcome != explain.Forwarded || a.Backend != "istio-system/knative-local-gateway:80" {
		t.Errorf("got %+v, %v", a, err)
	}
	compare(t, trim(t, dump))
}

// trim leaves out what differs from run to run, and the long list of Envoy's
// extensions.
func trim(t *testing.T, dump []byte) []byte {
	t.Helper()
	var v struct {
		Configs []map[string]any `json:"configs"`
	}
	if err := json.Unmarshal(dump, &v); err != nil {
		t.Fatal(err)
	}
	kept := v.Configs[:0]
	for _, c := range v.Configs {
		name, _ := c["@type"].(string)
		switch name[strings.LastIndex(name, ".")+1:] {
		case "BootstrapConfigDump":
			c["bootstrap"] = map[string]any{"node": map[string]any{"id": "router~10.1.2.3~istio-ingressgateway-7d9c5-x2x4z.istio-system~istio-system.svc.cluster.local",
				"metadata": map[string]any{"ISTIO_VERSION": "1.17.5", "LABELS": map[string]any{"app": "istio-ingressgateway", "istio": "ingressgateway"}}}}
		case "ListenersConfigDump", "RoutesConfigDump", "ClustersConfigDump":
		default:
			continue
		}
		kept = append(kept, c)
	}
	v.Configs = kept
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(steady(map[string]any{"configs": v.Configs})); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func steady(v any) any {
	switch v := v.(type) {
	case []map[string]any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = steady(v[i])
		}
		return out
	case []any:
		for i := range v {
			v[i] = steady(v[i])
		}
	case map[string]any:
		delete(v, "last_updated")
		delete(v, "version_info")
		for k := range v {
			v[k] = steady(v[k])
		}
	}
	return v
}

func compare(t *testing.T, got []byte) {
	t.Helper()
	if os.Getenv("POSTERN_UPDATE") != "" {
		if err := os.WriteFile(committed, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(committed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(lines(got), lines(want)) {
		t.Errorf("%s is not what Envoy says now: POSTERN_UPDATE=1 writes it", committed)
	}
}

// lines sorts: Envoy lists its clusters and routes in no order.
func lines(b []byte) []byte {
	list := strings.Split(strings.ReplaceAll(string(b), ",\n", "\n"), "\n")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return []byte(strings.Join(sorted(list), "\n"))
}
