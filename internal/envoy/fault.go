package envoy

import (
	"fmt"
	"strings"

	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
)

// fault is envoy.filters.http.fault with the configuration of the listener.
type fault struct {
	name string
	*faultConfig
}

// faultConfig is the listener's or a route's: what is done to requests with these
// headers. A delay changes no answer.
type faultConfig struct {
	headers    []headerMatcher
	cluster    string // only for requests to it
	abort      truth
	status     int
	grpcStatus int // -1: none, the status is HTTP's
	unmodelled []string
}

func compileFault(c *faultv3.HTTPFault) (*faultConfig, error) {
	f := &faultConfig{cluster: c.UpstreamCluster, abort: no, grpcStatus: -1}
	f.unmodelled = fieldsBut(c, "delay", "abort", "upstream_cluster", "headers", "max_active_faults", "disable_downstream_cluster_stats", "filter_metadata")
	for _, h := range c.Headers {
		m, err := compileHeader(h)
		if err != nil {
			return nil, err
		}
		f.headers = append(f.headers, m)
	}
	if d := c.Delay; d != nil {
		f.unmodelled = append(f.unmodelled, fieldsBut(d, "fixed_delay", "percentage")...)
	}
	if a := c.Abort; a != nil {
		f.abort = chance(a.GetPercentage())
		f.status = int(a.GetHttpStatus())
		if g, ok := a.ErrorType.(*faultv3.FaultAbort_GrpcStatus); ok {
			f.status, f.grpcStatus = 200, int(g.GrpcStatus)
		}
		f.unmodelled = append(f.unmodelled, fieldsBut(a, "http_status", "grpc_status", "percentage")...)
	}
	return f, nil
}

func (f fault) decode(s *stream) *Outcome {
	if !s.choose() {
		return unknown(s.unknown)
	}
	c := f.faultConfig
	switch per := s.perRoute(f.name).(type) {
	case *faultConfig:
		c = per
	case nil:
	default:
		return unknown("route configuration of filter " + f.name)
	}
	if len(c.unmodelled) > 0 {
		return unknown("filter " + f.name + ": " + strings.Join(c.unmodelled, ", "))
	}
	if c.cluster != "" && (s.route == nil || s.route.action == nil || s.cluster() != c.cluster) {
		return nil
	}
	t := c.abort
	for i := range c.headers {
		t = min(t, c.headers[i].test(s))
	}
	switch {
	case t == no:
		s.reach("none")
		return nil
	case t == maybe && c.abort == maybe:
		return unknown("filter " + f.name + ": a fault that happens by chance")
	case t == maybe:
		return unknown(s.unknown)
	}
	s.reach("aborted")
	s.trace.add(Step{Stage: f.name, Text: fmt.Sprintf("aborts with %d", c.status), Object: s.object()})
	return s.localGRPC(c.status, "fault filter abort", "fault_filter_abort", c.grpcStatus)
}
