package envoy

import (
	"strconv"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// timeouts are a RouteAction's (Router::FilterUtility::finalTimeout).
type timeouts struct {
	route, perTry time.Duration
	grpcMax       *time.Duration // max_grpc_timeout: a gRPC request's own time-out counts, up to this
	grpcOffset    time.Duration
	stream        bool // max_stream_duration takes the place of the route's time-out
	streamMax     time.Duration
}

func compileTimeouts(a *routev3.RouteAction) timeouts {
	t := timeouts{route: 15 * time.Second, perTry: a.GetRetryPolicy().GetPerTryTimeout().AsDuration()}
	if a.Timeout != nil {
		t.route = a.Timeout.AsDuration()
	}
	//lint:ignore SA1019 what Istio writes
	if m := a.MaxGrpcTimeout; m != nil {
		d := m.AsDuration()
		t.grpcMax = &d
	}
	//lint:ignore SA1019 the offset of that
	t.grpcOffset = a.GrpcTimeoutOffset.AsDuration()
	if m := a.MaxStreamDuration; m != nil {
		t.stream, t.streamMax = true, m.MaxStreamDuration.AsDuration()
	}
	return t
}

// apply writes the headers that tell the upstream how long it has, and returns
// the time-out in force; zero is none.
func (t *timeouts) apply(s *stream) time.Duration {
	grpc := s.grpc()
	global := t.route
	switch {
	case t.stream:
		global = 0
	case grpc && t.grpcMax != nil:
		global = grpcTimeout(s.headers)
		if t.grpcOffset < global {
			global -= t.grpcOffset
		}
		if *t.grpcMax != 0 && (global == 0 || global > *t.grpcMax) {
			global = *t.grpcMax
		}
	}
	expected := t.perTry
	if expected == 0 || expected >= global && global != 0 {
		expected = global
	}
	if ms := expected.Milliseconds(); ms > 0 {
		s.headers.Set("x-envoy-expected-rq-timeout-ms", strconv.FormatInt(ms, 10))
		if grpc && !t.stream && t.grpcMax != nil {
			s.headers.Set("grpc-timeout", grpcTimeoutText(ms))
		}
	}
	if t.stream {
		return t.streamMax
	}
	return global
}

// grpcTimeout reads grpc-timeout: at most eight digits and a unit, else it does
// not count (Grpc::Common::getGrpcTimeout). It is cut to milliseconds, rounded up.
func grpcTimeout(h Headers) time.Duration {
	text, _ := h.Get("grpc-timeout")
	if len(text) < 2 || len(text) > 9 {
		return 0
	}
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	if err != nil {
		return 0
	}
	unit := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}[text[len(text)-1]]
	if unit == 0 {
		return 0
	}
	d := time.Duration(n) * unit
	return (d + time.Millisecond - 1).Truncate(time.Millisecond)
}

// grpcTimeoutText writes milliseconds in the largest unit that fits eight digits
// (Grpc::Common::toGrpcTimeout).
func grpcTimeoutText(ms int64) string {
	const most = 99999999
	n, units := ms, "mSMH"
	for step := int64(1000); n > most && len(units) > 1; step = 60 {
		n, units = n/step, units[1:]
	}
	return strconv.FormatInt(min(n, most), 10) + units[:1]
}
