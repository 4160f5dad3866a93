//go:build e2e

package explain

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/lab/realenvoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// releases are what each line is tried with: its own Kubeflow where there is one.
var releases = map[string]string{"1.17": "v1.8.1-shared", "1.22": "v1.9.1", "1.26": "v1.10.2", "1.28": "26.03", "1.31": "26.03"}

// translatorLines are those that make test builds, or those of POSTERN_LINES.
func translatorLines() []string {
	if text := os.Getenv("POSTERN_LINES"); text != "" {
		return strings.Fields(text)
	}
	return []string{"1.17", "1.31"}
}

// TestARealEnvoyTakesEachLine: what each line's translator makes for every gateway
// of a Kubeflow release, a real Envoy loads, and answers as the engine says with
// nobody to ask.
func TestARealEnvoyTakesEachLine(t *testing.T) {
	for n, line := range translatorLines() {
		t.Run(line, func(t *testing.T) {
			release, ok := releases[line]
			if !ok {
				t.Fatalf("no release for line %s", line)
			}
			files := []string{directory(release), "-"}
			for _, d := range []string{"isvc-runtime", "knative-vs-external", "kserve-vs-external"} {
				files = append(files, filepath.Join("testdata", "derived", d+".yaml"))
			}
			set, err := manifest.Files(files, strings.NewReader(revision))
			if err != nil {
				t.Fatal(err)
			}
			w, err := world.Build(context.Background(), set, world.Options{Translate: translate.Options{Version: line, Progress: os.Stderr}})
			if err != nil {
				t.Fatal(err)
			}
			for i, g := range w.Gateways {
				loads(t, g, netip.AddrFrom4([4]byte{127, 70, byte(n + 1), byte(i + 1)}))
			}
		})
	}
}

func loads(t *testing.T, g *world.Gateway, addr netip.Addr) {
	t.Helper()
	e, err := realenvoy.Start(context.Background(), realenvoy.Config{Program: tool(t, "envoy/bin/envoy"), Address: addr, Endpoints: func(string) []netip.AddrPort { return nil }}, g.Resources)
	if err != nil {
		t.Fatalf("%s: %v", g.Workload, err)
	}
	defer e.Close()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Logf("%s: %d ports", g.Workload, len(g.Proxy.Ports()))
	for _, port := range g.Proxy.Ports() {
		for _, path := range []string{"/", "/dex/auth", "/v1/models/isvc-sklearn:predict"} {
			req, err := http.NewRequest(http.MethodGet, "http://"+netip.AddrPortFrom(addr, port).String()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "isvc-sklearn.kubeflow-user-example-com.example.com"
			resp, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s port %d: %v", g.Workload, port, err)
			}
			resp.Body.Close()
			o := g.Proxy.Evaluate(envoy.Request{Source: netip.MustParseAddrPort("127.0.0.1:1"), Destination: netip.AddrPortFrom(addr, port), Protocol: "HTTP/1.1", Method: http.MethodGet,
				Authority: req.Host, Path: path, Headers: envoy.Headers{{Name: "user-agent", Value: "test"}, {Name: "accept-encoding", Value: "gzip"}}},
				envoy.Env{Now: time.Now(), RequestID: "x", Authorize: func(envoy.Check) envoy.Answer { return envoy.Answer{Err: errors.New("nobody is there")} }}, nil)
			want := o.Status
			if o.Kind == envoy.Forward { // no cluster has an endpoint
				want = http.StatusServiceUnavailable
			}
			if o.Kind == envoy.Unknown || resp.StatusCode != want {
				t.Errorf("%s port %d %s: Envoy answers %d, the engine %s %d %s", g.Workload, port, path, resp.StatusCode, o.Kind, want, o.Reason)
			}
		}
	}
}
