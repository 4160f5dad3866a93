package world_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/territory"
)

// What posternd judges must be what Envoy routes by, however the path and the host
// are spelled: for any request, the route that the gateway takes in the end belongs
// to a VirtualService of the territory that was judged, or is people's.
func TestTerritoryIsTheRoute(t *testing.T) {
	w := build(t, "4-postern", "")
	_, cm, ok := manifest.Find[*corev1.ConfigMap](w.Set, "postern-system", "posternd")
	if !ok {
		t.Fatal("no ConfigMap of posternd")
	}
	cfg, err := authorizer.ParseConfig("config.yaml", []byte(cm.Data["config.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	snap, err := w.Snapshot(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	hosts := []string{"sklearn-iris.kserve-test.example.com", "sklearn-iris.kserve-test.svc.cluster.local", "sklearn-iris.kserve-test", "sklearn-iris.kserve-test.svc", "SKLEARN-iris.kserve-test.example.com",
		"fraud.team-b.example.com", "orders.example.com", "orders-api.backend.svc.cluster.local", "localhost", "kubeflow.example.com", "knative-local-gateway.istio-system.svc.cluster.local",
		"sklearn-iris-predictor-default.kserve-test.svc.cluster.local", "sklearn-iris-predictor-default.kserve-test.example.com", "a,b", ""}
	after := []string{"", "", ":80", ":8080", ".", ":", ".:80", ":80:80", "@"}
	parts := []string{"/v1/models/sklearn-iris:predict", "/v1", "/v2/", "/dex", "/dex/auth", "/jupyter/", "/", "//", "/.", "/..", "/../", "/;/", "/..;/", "/%2e%2e/", "/%2f", "/%2F..", "%2e", "/a", "?", "?/../", "#", "/%5c", "\\", "/serving/", "/%64ex/", "/logout", "*", "%", "%00", "/a/b;c=/../"}
	seen := map[territory.Kind]int{}
	for i := range 20_000 {
		path := "/"
		for range 1 + r.IntN(4) {
			path += pick(parts)
		}
		path = path[r.IntN(2):]
		req := envoy.Request{Source: netip.MustParseAddrPort("10.9.9.9:1"), Method: pick([]string{"GET", "POST", "OPTIONS"}), Protocol: "HTTP/1.1", Authority: pick(hosts) + pick(after), Path: path}
		for _, g := range w.Gateways {
			for _, port := range g.Proxy.Ports() {
				req.Destination = netip.AddrPortFrom(g.Workload.Pods[0].Addr, port)
				var judged *territory.Territory
				o := g.Proxy.Evaluate(req, envoy.Env{RequestID: "id", Now: time.Unix(0, 0), Authorize: func(c envoy.Check) envoy.Answer {
					if c.GRPC == nil {
						t.Fatalf("%d: asked %s", i, c.Cluster)
					}
					q := authorizer.RequestOf(c.GRPC)
					at := snap.Map.At(q.Door, q.Host, q.Path, q.Method)
					judged = &at
					return envoy.Answer{GRPC: &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
						Headers: []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: "x", Value: "y"}}}}}}}
				}}, nil)
				if o.Kind != envoy.Forward {
					continue
				}
				if judged == nil {
					t.Fatalf("%s %s host %q port %d: let through without being asked", req.Method, req.Path, req.Authority, port)
				}
				if judged.Kind == territory.Refused {
					continue
				}
				seen[judged.Kind]++
				vs := strings.TrimPrefix(o.Route.Object(), "VirtualService ")
				if !slices.Contains(judged.VirtualServices, vs) && (judged.Kind != territory.People || snap.Map.Owned(vs)) {
					t.Errorf("%s %s host %q port %d: judged %v %v, and goes to %s", req.Method, req.Path, req.Authority, port, judged.Kind, judged.VirtualServices, vs)
				}
			}
		}
	}
	for _, k := range []territory.Kind{territory.Model, territory.Application, territory.People} {
		if seen[k] < 100 {
			t.Errorf("%v: reached %d times, which shows nothing", k, seen[k])
		}
	}
	t.Logf("reached %v", seen)
}
