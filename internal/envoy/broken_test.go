package envoy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"postern.dev/postern/internal/envoy/envoytest"
)

// breakable are configurations to be broken: the story's, its sidecars', and one with
// everything, each the JSON of {listeners, routes, clusters}.
func breakable(t testing.TB) [][]byte {
	t.Helper()
	type proxy struct{ Listeners, Routes, Clusters []json.RawMessage }
	all := []proxy{{Listeners: []json.RawMessage{json.RawMessage(envoytest.Everything)}, Clusters: []json.RawMessage{json.RawMessage(`{"name":"up"}`), json.RawMessage(`{"name":"other"}`)}}}
	files, err := filepath.Glob("../../examples/story/translated/*.json")
	if err != nil || len(files) != 5 {
		t.Fatalf("got %d committed translations, %v; want 5", len(files), err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		type output struct{ Output struct{ Proxies []proxy } }
		var file struct {
			output
			Entries []output // the sidecars' file holds several
		}
		if err := json.Unmarshal(data, &file); err != nil {
			t.Fatal(f, err)
		}
		for _, e := range append(file.Entries, file.output) {
			for _, p := range e.Output.Proxies {
				p.Clusters = nil // Envoy's rules for them are none of ours
				all = append(all, p)
			}
		}
	}
	if len(all) < 6 {
		t.Fatalf("got %d configurations, want a sidecar's among them", len(all))
	}
	var out [][]byte
	for _, p := range all {
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, data)
	}
	return out
}

// whole compiles a configuration, in which changes were made, and asks it.
func whole(t testing.TB, v any, path, host string) (*Proxy, error) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var p struct{ Listeners, Routes, Clusters []json.RawMessage }
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, err
	}
	r, err := ParseResources(p.Listeners, p.Routes, p.Clusters)
	if err != nil {
		return nil, err
	}
	proxy, err := Compile(r)
	if err != nil {
		return nil, err
	}
	proxy.Points()
	proxy.Routes()
	proxy.Findings()
	for _, port := range append(proxy.Ports(), 80) {
		proxy.Filters(port)
		for _, tls := range []*TLS{nil, {ServerName: "a.b", ALPN: []string{"istio"}, Peer: "spiffe://cluster.local/ns/a/sa/b"}} {
			for i, proto := range []string{"HTTP/1.1", "HTTP/2"} {
				req := Request{Source: netip.MustParseAddrPort("10.0.0.9:1"), Destination: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port), Protocol: proto, Scheme: "http", Method: []string{"GET", "OPTIONS"}[i], Authority: host, Path: path, TLS: tls,
					Headers: Headers{{"origin", "https://a.example"}, {"access-control-request-method", "GET"}, {"x-foo", "a"}, {"authorization", "Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJpIn0.AA"}}}
				proxy.Evaluate(req, Env{Now: time.Unix(1, 0), Keys: func(KeySource) (string, error) { return "{}", nil }, Authorize: func(c Check) Answer {
					if c.GRPC != nil {
						return Answer{GRPC: &authv3.CheckResponse{}}
					}
					return Answer{Status: 200}
				}}, &Trace{})
			}
		}
	}
	return proxy, nil
}

// broken is a configuration with one change, and what it was.
func broken(t testing.TB, data []byte, place, way int) (any, string) {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if n := envoytest.Places(v); n > 0 {
		return v, envoytest.Break(v, place%n, way)
	}
	return v, ""
}

// FuzzBroken: whatever is missing or wrong in a configuration, compiling it is an
// error or an answer, never a panic. Two changes are made at once.
func FuzzBroken(f *testing.F) {
	all := breakable(f)
	for i := range all {
		f.Add(uint8(i), uint16(7*i), uint8(i), uint16(31*i), uint8(0), "/v1/models/m:predict", "sklearn-iris.kserve-test.example.com")
		f.Add(uint8(i), uint16(101), uint8(0), uint16(45), uint8(1), "/quiet?q=1", "a.example")
	}
	f.Fuzz(func(t *testing.T, which uint8, place uint16, way uint8, place2 uint16, way2 uint8, path, host string) {
		v, _ := broken(t, all[int(which)%len(all)], int(place), int(way))
		if n := envoytest.Places(v); n > 0 {
			envoytest.Break(v, int(place2)%n, int(way2))
		}
		_, _ = whole(t, v, path, host)
	})
}

// Each field of a configuration with everything is removed, half of them are broken in
// another way; of the others' a part in each way.
func TestBrokenConfigurations(t *testing.T) {
	for i, data := range breakable(t) {
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatal(err)
		}
		if _, err := whole(t, v, "/", "a.example"); err != nil {
			t.Fatalf("configuration %d, nothing broken: %v", i, err)
		}
		step, refused, n := 1, 0, 0
		if i > 0 {
			step = 397
		}
		for place := 0; place < envoytest.Places(v); place += step {
			for way := range envoytest.Ways {
				if i == 0 && way > 0 && way != 1+place%6 {
					continue
				}
				func() {
					v, what := broken(t, data, place, way)
					defer func() {
						if p := recover(); p != nil {
							t.Errorf("configuration %d %s: panic: %v", i, what, p)
						}
					}()
					if n++; i == 0 {
						if _, err := whole(t, v, "/quiet", "a.example"); err != nil {
							refused++
						}
						return
					}
					if _, err := whole(t, v, "/", "a.example"); err != nil {
						refused++
					}
				}()
			}
		}
		t.Log(fmt.Sprintf("configuration %d: %d changes, %d refused", i, n, refused))
	}
}
