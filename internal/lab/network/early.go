package network

import (
	"context"
	"errors"
	"net"
	"net/http/httptrace"
	"sync/atomic"
	"syscall"
)

// ForHTTP1 wraps a client's connection so that an answer which comes before the
// whole request was sent is delivered. A server may answer early and close (a
// refusal, 413); net/http's client takes the failing write for the outcome and
// drops the answer that is there to be read. A write that fails in the middle of
// a request therefore counts as done: what matters comes from reading, the
// answer or EOF. A request's first write keeps its error, so that a kept
// connection that died is noticed and another one tried; for kept connections,
// requests must carry WithBegin's context.
func ForHTTP1(c net.Conn) net.Conn { return &early{Conn: c} }

// WithBegin marks the beginning of a request on the connection that it gets.
func WithBegin(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if e, ok := info.Conn.(*early); ok {
			e.sent.Store(false)
		}
	}})
}

type early struct {
	net.Conn
	sent atomic.Bool // a part of the request
}

func (e *early) Write(p []byte) (int, error) {
	n, err := e.Conn.Write(p)
	if n > 0 {
		e.sent.Store(true)
	}
	if errors.Is(err, syscall.EPIPE) && e.sent.Load() {
		return len(p), nil
	}
	return n, err
}
