//go:build e2e

package conformance

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"

	"postern.dev/postern/internal/envoy"
)

// coverage is what the requests reached of a configuration, and how they ended.
type coverage struct {
	mu       sync.Mutex
	all      []envoy.Point
	routes   int // in all
	reached  map[envoy.Point]bool
	taken    map[*envoy.RouteInfo]bool
	outcomes map[string]int
	unknown  map[string]int // by cause
}

func newCoverage(p *envoy.Proxy) coverage {
	return coverage{all: p.Points(), routes: len(p.Routes()), reached: map[envoy.Point]bool{}, taken: map[*envoy.RouteInfo]bool{}, outcomes: map[string]int{}, unknown: map[string]int{}}
}

func (c *coverage) count(o envoy.Outcome, trace *envoy.Trace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.Route != nil {
		c.taken[o.Route] = true
	}
	for _, p := range trace.Points {
		c.reached[p] = true
	}
	key := o.Kind.String()
	switch o.Kind {
	case envoy.Local:
		key += " " + strconv.Itoa(o.Status) + " " + o.Reason
	case envoy.Unknown:
		c.unknown[o.Reason]++
	}
	c.outcomes[key]++
}

// report prints the coverage and wants nearly all routes, policies and outcomes
// of filters reached, and nothing unknown.
func (c *coverage) report(t *testing.T, name string, n int) {
	t.Helper()
	t.Logf("%s: %d requests; %s", name, n, counts(c.outcomes))
	policies, outcomes, missed := [2]int{}, [2]int{}, []string{}
	for _, p := range c.all {
		kind := &outcomes
		if p.Policy {
			kind = &policies
		}
		kind[1]++
		if c.reached[p] {
			kind[0]++
		} else {
			missed = append(missed, fmt.Sprintf("%d %s: %s", p.Port, p.Filter, p.Text))
		}
	}
	t.Logf("%s: reached: routes %d/%d, policies %d/%d, outcomes of filters %d/%d; unknown: %s; missed: %s", name, len(c.taken), c.routes, policies[0], policies[1], outcomes[0], outcomes[1], counts(c.unknown), strings.Join(missed, ", "))
	if len(c.unknown) > 0 {
		t.Errorf("answers are unknown: %s", counts(c.unknown))
	}
	if n < 2000 {
		return
	}
	for _, part := range []struct {
		what          string
		reached, want int
	}{{"routes", len(c.taken), c.routes}, {"policies", policies[0], policies[1]}, {"outcomes of filters", outcomes[0], outcomes[1]}} {
		if part.reached*100 < part.want*95 {
			t.Errorf("only %d of %d %s were reached; missed: %s", part.reached, part.want, part.what, strings.Join(missed, ", "))
		}
	}
}

// counts is a table of counts as text, sorted.
func counts(m map[string]int) string {
	var out []string
	for what, n := range m {
		out = append(out, fmt.Sprintf("%s %d", what, n))
	}
	sort.Strings(out)
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}
