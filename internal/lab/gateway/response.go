package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"

	"postern.dev/postern/internal/envoy"
)

// unreachable is a connection to an upstream that could not be made.
type unreachable struct{ cause error }

func (u *unreachable) Error() string { return u.cause.Error() }
func (u *unreachable) Unwrap() error { return u.cause }

// wellFormed refuses a response that Envoy's codec refuses and net/http takes.
func wellFormed(resp *http.Response) error {
	count := 0
	for _, values := range resp.Header {
		count += len(values)
	}
	switch {
	case count > maxHeaders:
		return fmt.Errorf("the upstream's answer has %d headers, want at most %d", count, maxHeaders)
	case resp.StatusCode == http.StatusNoContent && len(resp.Header["Content-Length"]) > 0 && resp.Header.Get("Content-Length") != "0":
		return errors.New("the upstream's answer of 204 has a body")
	}
	return nil
}

// dropTrailers: between HTTP/1 and anything Envoy passes none on (enable_trailers).
func dropTrailers(resp *http.Response) {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return // the body is the connection
	}
	resp.Trailer = nil
	resp.Body = &withoutTrailers{resp.Body, resp}
}

// withoutTrailers forgets the trailers when they have come: at the end of the body.
type withoutTrailers struct {
	io.ReadCloser
	resp *http.Response
}

func (b *withoutTrailers) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.resp.Trailer = nil
	}
	return n, err
}

// upstreamFailed answers as Envoy does when the upstream cannot be reached or ends
// the connection (503), the route's time-out is over (504), or the answer is none
// that it takes (502).
func upstreamFailed(w http.ResponseWriter, req *http.Request, err error) {
	status, body := http.StatusBadGateway, "upstream connect error or disconnect/reset before headers. "+err.Error()
	switch network := (*net.OpError)(nil); {
	case req.Context().Err() == context.DeadlineExceeded:
		status, body = http.StatusGatewayTimeout, "upstream request timeout"
	case errors.As(err, new(*unreachable)), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, context.Canceled):
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Server", "istio-envoy")
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func applyResponse(h http.Header, c envoy.ResponseChange) {
	c.Each(func(name string) bool { return len(h.Values(name)) > 0 }, func(op envoy.HeaderOp) {
		switch op.Action {
		case envoy.RemoveHeader:
			h.Del(op.Name)
		case envoy.SetHeader:
			h.Set(op.Name, op.Value)
		default:
			h.Add(op.Name, op.Value)
		}
	})
}
