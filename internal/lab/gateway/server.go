package gateway

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// Server serves a Handler as Envoy's connection manager takes requests in, where
// net/http by itself is laxer. Timeouts are the caller's to set.
type Server struct{ *http.Server }

// NewServer makes a Server for HTTP/1.1 and for HTTP/2 without TLS.
func NewServer(h http.Handler) *Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &Server{&http.Server{
		Handler: h, Protocols: protocols,
		MaxHeaderBytes:               maxHead + 4<<10, // heads has its own limit; this is HTTP/2's
		DisableGeneralOptionsHandler: true,
	}}
}

// Serve serves the connections of a listener until the Server is closed.
func (s *Server) Serve(l net.Listener) error { return s.Server.Serve(heads{l}) }

// answer is the client's side of one exchange.
type answer struct {
	http.ResponseWriter
	// last is set when nothing more may be read from the connection: it asked for
	// another protocol, whose bytes are not looked at (heads), and may not get it.
	last bool
}

// Unwrap lets net/http find what the writer can do.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader passes on no informational response of an upstream.
func (a *answer) WriteHeader(status int) {
	switch {
	case status == http.StatusSwitchingProtocols:
	case status < 200:
		return
	case a.last:
		a.Header().Set("Connection", "close")
	}
	if _, said := a.Header()["Content-Type"]; !said {
		a.Header()["Content-Type"] = nil // net/http must not guess one
	}
	a.ResponseWriter.WriteHeader(status)
}

// clientBody knows whether it was the client's side that failed.
type clientBody struct {
	io.ReadCloser
	broken atomic.Bool
}

func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.broken.Store(true)
	}
	return n, err
}
