package envoy

import (
	"slices"
	"testing"
)

// What a request reaches is among what the configuration says can be reached;
// what it rules out is not among it.
func TestPoints(t *testing.T) {
	const rbac = `{"name":"rbac","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC","rules":{"action":"DENY","policies":{
	 "a":{"permissions":[{"urlPath":{"path":{"exact":"/a"}}}],"principals":[{"any":true}]},
	 "b":{"permissions":[{"andRules":{"rules":[{"notRule":{"any":true}}]}}],"principals":[{"any":true}]},
	 "c":{"permissions":[{"andRules":{"rules":[{"any":true}]}}],"principals":[{"andIds":{"ids":[{"any":true}]}}]},
	 "d":{"permissions":[{"any":true}],"principals":[{"any":true}]}}}}}`
	p := compile(t, `{"match":{"prefix":"/x"},"route":{"cluster":"up"}}`, rbac)
	at := func(filter string, policy bool, text string) Point { return Point{8080, filter, policy, text} }
	want := []Point{at("0 rbac", true, "a"), at("0 rbac", true, "c"), at("1 envoy.filters.http.router", false, "no route"), at("1 envoy.filters.http.router", false, "forwarded")}
	if got := p.Points(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for path, want := range map[string]Point{"/a": want[0], "/b": want[1]} {
		trace := &Trace{}
		if p.Evaluate(get(path), Env{}, trace); !slices.Equal(trace.Points, []Point{want}) {
			t.Errorf("%s: got %v, want %v", path, trace.Points, want)
		}
	}
	total := compile(t, catchAll)
	if got := total.Points(); len(got) != 1 || got[0].Text != "forwarded" {
		t.Errorf("behind a route for everything: got %v, want forwarded alone", got)
	}
}
