package envoy_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"postern.dev/postern/internal/envoy"
)

// story is the bundled story's Postern state, with n more copies of its model's
// virtual hosts.
func story(tb testing.TB, n int) envoy.Resources {
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
	r, err := envoy.ParseResources(p.Listeners, p.Routes, p.Clusters)
	if err != nil {
		tb.Fatal(err)
	}
	for _, rc := range r.Routes {
		var models []*routev3.VirtualHost
		for _, vh := range rc.VirtualHosts {
			if len(vh.Domains) > 0 && vh.Domains[0] != "*" {
				models = append(models, vh)
			}
		}
		for i := range n {
			for j, vh := range models {
				c := proto.Clone(vh).(*routev3.VirtualHost)
				c.Name = fmt.Sprintf("copy-%d-%d", i, j)
				for d := range c.Domains {
					c.Domains[d] = fmt.Sprintf("m%d-%s", i, c.Domains[d])
				}
				rc.VirtualHosts = append(rc.VirtualHosts, c)
			}
		}
	}
	r.Clusters = append(r.Clusters, &clusterv3.Cluster{Name: "unused"})
	return r
}

var request = envoy.Request{Source: netip.MustParseAddrPort("10.244.0.7:40000"), Destination: netip.MustParseAddrPort("10.244.0.1:8081"), Protocol: "HTTP/1.1", Method: "POST",
	Authority: "sklearn-iris.kserve-test.svc.cluster.local", Path: "/v1/models/sklearn-iris:predict",
	Headers: envoy.Headers{{Name: "accept", Value: "*/*"}, {Name: "user-agent", Value: "curl/8"}, {Name: "content-type", Value: "application/json"}, {Name: "content-length", Value: "51"}}}

// BenchmarkEvaluate is one request through the gateway's filters, its authorizer's
// answer being there, with 0 and 1,000 further models.
func BenchmarkEvaluate(b *testing.B) {
	allow := &authv3.CheckResponse{Status: &status.Status{}}
	env := envoy.Env{RequestID: "id", Now: time.Now(), Authorize: func(envoy.Check) envoy.Answer { return envoy.Answer{GRPC: allow} }}
	for _, models := range []int{0, 1000} {
		p, err := envoy.Compile(story(b, models))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("models=%d", models), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if o := p.Evaluate(request, env, nil); o.Kind != envoy.Forward {
					b.Fatal(o.Kind, o.Reason)
				}
			}
		})
	}
}

// BenchmarkCompile is the cost of a configuration of 1,000 further models.
func BenchmarkCompile(b *testing.B) {
	r := story(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := envoy.Compile(r); err != nil {
			b.Fatal(err)
		}
	}
}
