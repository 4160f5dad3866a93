//go:build unix

package envoy_test

import (
	"fmt"
	"testing"

	"postern.dev/postern/internal/envoy"
)

// What is forwarded and not checked costs no allocation: neither where the route
// leaves the headers alone nor where it sets some.
func TestForwardingAllocatesNothing(t *testing.T) {
	for _, kind := range kinds {
		if kind.allocates {
			continue
		}
		p, err := envoy.Compile(kind.resources(t, 3))
		if err != nil {
			t.Fatal(err)
		}
		req, scratch := kind.req(1), new(envoy.Scratch)
		allocs := testing.AllocsPerRun(100, func() {
			if o := scratch.Evaluate(p, req, env, nil); o.Kind != envoy.Forward {
				t.Fatal(o.Kind, o.Reason)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: got %v allocations, want none", kind.name, allocs)
		}
	}
}

// A Scratch carries nothing from one request into the next.
func TestScratchKeepsNothing(t *testing.T) {
	p, err := envoy.Compile(gateway(t, 3, false))
	if err != nil {
		t.Fatal(err)
	}
	requests := []envoy.Request{
		kinds[0].req(0), kinds[1].req(1), kinds[2].req(2), post("nowhere.example.com", 8080), post("bad/host", 8080), post("orders.example.com", 9999),
	}
	requests[1].Headers = append(envoy.Headers{{Name: "connection", Value: "upgrade"}, {Name: "upgrade", Value: "websocket"}, {Name: "x-a", Value: "1"}}, requests[1].Headers...)
	var scratch envoy.Scratch
	for i := range requests {
		for j := range requests {
			scratch.Evaluate(p, requests[i], env, nil)
			got, want := scratch.Evaluate(p, requests[j], env, nil), p.Evaluate(requests[j], env, nil)
			if a, b := shown(got), shown(want); a != b {
				t.Errorf("request %d after %d:\ngot  %s\nwant %s", j, i, a, b)
			}
		}
	}
}

func shown(o envoy.Outcome) string {
	route := ""
	if o.Route != nil {
		route = o.Route.VirtualHost
	}
	return fmt.Sprintf("%s %s %d %v %q %s %v %s %v %s %s %s %v", o.Kind, o.Reason, o.Status, o.Headers, o.Body, o.Cluster, o.Timeout, o.Upgrade, o.Response, route,
		o.Request.Method, o.Request.Authority+o.Request.Path, o.Request.Headers)
}
