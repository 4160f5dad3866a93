//go:build unix

package envoy_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"postern.dev/postern/internal/envoy"
)

// gateway is what Istio made of the bundled story's gateway (state 4, without
// Postern's policy if plain) with n InferenceServices: each with the virtual
// hosts of its two VirtualServices on both ports, six routes, and its clusters.
func gateway(tb testing.TB, n int, plain bool) envoy.Resources {
	tb.Helper()
	data, err := os.ReadFile("../../examples/story/translated/4-postern.json")
	if err != nil {
		tb.Fatal(err)
	}
	var entry struct {
		Output struct {
			Proxies []struct{ Listeners, Routes, Clusters []json.RawMessage }
		}
	}
	if err := json.Unmarshal(data, &entry); err != nil {
		tb.Fatal(err)
	}
	p := entry.Output.Proxies[0]
	if plain {
		for i, l := range p.Listeners {
			p.Listeners[i] = edit(tb, l, func(v map[string]any) { withoutFilter(v, "envoy.filters.http.ext_authz") })
		}
	}
	for i, rc := range p.Routes {
		p.Routes[i] = edit(tb, rc, func(v map[string]any) { v["virtualHosts"] = models(tb, v["virtualHosts"].([]any), n) })
	}
	var clusters []json.RawMessage
	for _, c := range p.Clusters {
		if !strings.Contains(string(c), "sklearn-iris") {
			clusters = append(clusters, c)
			continue
		}
		for i := range n {
			clusters = append(clusters, json.RawMessage(renamed(string(c), i)))
		}
	}
	r, err := envoy.ParseResources(p.Listeners, p.Routes, clusters)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// onePath is gateway with the models also under one host, each at a path of its
// own: two routes per model, as KServe's path template makes them.
func onePath(tb testing.TB, n int) envoy.Resources {
	tb.Helper()
	const (
		route = `{"match":{%s,"caseSensitive":true,"headers":[{"name":":authority","stringMatch":{"safeRegex":{"regex":"^example\\.com(?::\\d{1,5})?$"}}}]},
 "metadata":{"filterMetadata":{"istio":{"config":"/apis/networking.istio.io/v1alpha3/namespaces/kserve-test/virtual-service/sklearn-iris"}}},
 "route":{"cluster":"outbound|80||knative-local-gateway.istio-system.svc.cluster.local","timeout":"0s","prefixRewrite":"/"}}`
		prefix = `"prefix":"/serving/kserve-test/sklearn-iris/"`
		exact  = `"path":"/serving/kserve-test/sklearn-iris"`
	)
	host := &routev3.VirtualHost{Name: "example.com:80", Domains: []string{"example.com"}}
	for i := range n {
		for _, match := range []string{prefix, exact} {
			r := &routev3.Route{}
			if err := protojson.Unmarshal([]byte(renamed(fmt.Sprintf(route, match), i)), r); err != nil {
				tb.Fatal(err)
			}
			host.Routes = append(host.Routes, r)
		}
	}
	r := gateway(tb, n, true)
	for _, rc := range r.Routes {
		if rc.Name == "http.8080" {
			rc.VirtualHosts = append(rc.VirtualHosts, host)
		}
	}
	return r
}

// renamed is the story's model as one of many.
func renamed(text string, i int) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, "sklearn-iris", fmt.Sprintf("model-%05d", i)), "kserve-test", fmt.Sprintf("team-%03d", i/10))
}

func models(tb testing.TB, hosts []any, n int) []any {
	var out []any
	for _, vh := range hosts {
		text, err := json.Marshal(vh)
		if err != nil {
			tb.Fatal(err)
		}
		if !strings.Contains(string(text), "sklearn-iris") {
			out = append(out, vh)
			continue
		}
		for i := range n {
			out = append(out, json.RawMessage(renamed(string(text), i)))
		}
	}
	return out
}

func edit(tb testing.TB, in json.RawMessage, change func(map[string]any)) json.RawMessage {
	var v map[string]any
	if err := json.Unmarshal(in, &v); err != nil {
		tb.Fatal(err)
	}
	change(v)
	out, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// withoutFilter takes the HTTP filters of a name out of a listener.
func withoutFilter(v any, name string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			withoutFilter(e, name)
		}
	case map[string]any:
		if filters, ok := v["httpFilters"].([]any); ok {
			var kept []any
			for _, f := range filters {
				if f.(map[string]any)["name"] != name {
					kept = append(kept, f)
				}
			}
			v["httpFilters"] = kept
		}
		for _, e := range v {
			withoutFilter(e, name)
		}
	}
}

func post(host string, port int) envoy.Request {
	return envoy.Request{Source: netip.MustParseAddrPort("10.244.0.7:40000"), Destination: netip.MustParseAddrPort(fmt.Sprintf("10.244.0.1:%d", port)), Protocol: "HTTP/1.1", Method: "POST",
		Authority: host, Path: "/v1/models/iris:predict",
		Headers: envoy.Headers{{Name: "accept", Value: "*/*"}, {Name: "user-agent", Value: "curl/8"}, {Name: "content-type", Value: "application/json"}, {Name: "content-length", Value: "51"}}}
}

func plain(tb testing.TB, n int) envoy.Resources   { return gateway(tb, n, true) }
func checked(tb testing.TB, n int) envoy.Resources { return gateway(tb, n, false) }

var allow = &authv3.CheckResponse{Status: &status.Status{}}

var env = envoy.Env{RequestID: "5c8a5a0e-6a0f-4f0e-9a39-0d5a3f1b7c11", Now: time.Unix(1700000000, 0), Authorize: func(envoy.Check) envoy.Answer { return envoy.Answer{GRPC: allow} }}

// The requests that are measured.
var kinds = []struct {
	name      string
	resources func(tb testing.TB, n int) envoy.Resources
	allocates bool
	req       func(i int) envoy.Request // to model i
}{
	// A VirtualService that changes no header: host and path are matched, RBAC, CORS and
	// fault are passed, Kubeflow's Lua filter makes the route be chosen twice.
	{"application", plain, false, func(int) envoy.Request { return post("orders.example.com", 8080) }},
	// A model's second hop, which sets two headers.
	{"predictor", plain, false, func(i int) envoy.Request {
		return post(renamed("sklearn-iris-predictor.kserve-test.svc.cluster.local", i), 8081)
	}},
	// A model's first hop, which matches a regex, sets three headers and rewrites the host.
	{"model", plain, false, func(i int) envoy.Request {
		return post(renamed("sklearn-iris.kserve-test.svc.cluster.local", i), 8081)
	}},
	// One of many models under one host, by its path; the path is rewritten.
	{"path", onePath, true, func(i int) envoy.Request {
		r := post("example.com", 8080)
		r.Path = renamed("/serving/kserve-test/sklearn-iris/v1/models/iris:predict", i)
		return r
	}},
	// The model again with Postern: a CUSTOM policy, and the gRPC check built for the authorizer.
	{"checked", checked, true, func(i int) envoy.Request {
		return post(renamed("sklearn-iris.kserve-test.svc.cluster.local", i), 8081)
	}},
}

// BenchmarkEvaluate is one request without a trace, each to another one of a thousand
// models. "cpu-ns/op" is the processor
// time of the whole process, the garbage collector's included: unlike the clock it
// does not count what else the machine does.
func BenchmarkEvaluate(b *testing.B) {
	for _, n := range []int{1, 1000, 10000} {
		for _, kind := range kinds {
			p, err := envoy.Compile(kind.resources(b, n))
			if err != nil {
				b.Fatal(err)
			}
			req, scratch := kind.req(0), new(envoy.Scratch)
			hosts, paths := make([]string, min(n, 1000)), make([]string, min(n, 1000))
			for i := range hosts {
				r := kind.req(i * (n / len(hosts)))
				hosts[i], paths[i] = r.Authority, r.Path
			}
			b.Run(fmt.Sprintf("%s/models=%d", kind.name, n), func(b *testing.B) {
				b.ReportAllocs()
				before, i := cpu(), 0
				for b.Loop() {
					i++
					req.Authority, req.Path = hosts[i%len(hosts)], paths[i%len(hosts)]
					if o := scratch.Evaluate(p, req, env, nil); o.Kind != envoy.Forward {
						b.Fatal(o.Kind, o.Reason, o.Status)
					}
				}
				b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// BenchmarkCompile is the cost of a configuration; "kept-B" is what the compiled
// proxy holds once its resources are gone.
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("models=%d", n), func(b *testing.B) {
			empty := heap()
			r := gateway(b, n, false)
			b.ReportAllocs()
			b.ResetTimer()
			var p *envoy.Proxy
			before := cpu()
			for b.Loop() {
				var err error
				if p, err = envoy.Compile(r); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpu()-before)/float64(b.N)/1e6, "cpu-ms/op")
			r = envoy.Resources{}
			b.ReportMetric(float64(heap()-empty), "kept-B")
			runtime.KeepAlive(p)
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
