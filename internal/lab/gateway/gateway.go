// Package gateway executes a compiled Envoy configuration on real traffic: it
// is the gateway of `postern up`. It holds no rule of its own: the engine
// (package envoy) says what becomes of a request, and this package does it.
package gateway

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/lab/network"
)

// Config is what the gateway needs from the system around it.
type Config struct {
	// Address is the gateway pod's own: what its connections show to others.
	Address netip.Addr
	// Dial connects to a cluster of the configuration.
	Dial func(ctx context.Context, cluster string) (net.Conn, error)
	// Log gets what the gateway could not do; nil discards it.
	Log *slog.Logger
}

// Gateway serves the listeners of one proxy. Swap replaces the configuration
// whole, between two requests.
type Gateway struct {
	config  Config
	current atomic.Pointer[running]
	scratch sync.Pool // of *envoy.Scratch
}

// running is one configuration with the connections made for it.
type running struct {
	proxy     *envoy.Proxy
	transport *http.Transport
	h2c       *http.Transport
	authorize *authorizers
}

// New makes a gateway. It answers 503 until Swap gave it a configuration.
func New(c Config) *Gateway {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Gateway{config: c, scratch: sync.Pool{New: func() any { return new(envoy.Scratch) }}}
}

// Swap puts a configuration in force. Requests under way keep the old one.
func (g *Gateway) Swap(p *envoy.Proxy) {
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		return g.config.Dial(ctx, clusterOf(host))
	}
	r := &running{proxy: p, authorize: newAuthorizers(dial)}
	http1 := func(ctx context.Context, proto, addr string) (net.Conn, error) {
		c, err := dial(ctx, proto, addr)
		if err != nil {
			return nil, err
		}
		return network.ForHTTP1(c), nil
	}
	r.transport = &http.Transport{DialContext: http1, DisableCompression: true, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute}
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	r.h2c = &http.Transport{DialContext: dial, DisableCompression: true, Protocols: h2}
	if old := g.current.Swap(r); old != nil {
		old.close()
	}
}

// Close ends the gateway's idle connections.
func (g *Gateway) Close() {
	if r := g.current.Swap(nil); r != nil {
		r.close()
	}
}

func (r *running) close() {
	r.transport.CloseIdleConnections()
	r.h2c.CloseIdleConnections()
	r.authorize.close()
}

// Handler serves one listener: the port as the configuration names it,
// whatever the port it is reached by.
func (g *Gateway) Handler(port uint16) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		g.serve(w, req, netip.AddrPortFrom(g.config.Address, port))
	})
}

func (g *Gateway) serve(w http.ResponseWriter, req *http.Request, local netip.AddrPort) {
	started := time.Now()
	r := g.current.Load()
	if r == nil {
		http.Error(w, "no configuration yet", http.StatusServiceUnavailable)
		return
	}
	er, err := fromHTTP(req, local)
	if err != nil {
		refuse(w, err)
		return
	}
	env := envoy.Env{RequestID: requestID(), Random: mathrand.Uint64(), Now: started, Authorize: func(c envoy.Check) envoy.Answer { return r.authorize.ask(req.Context(), c) }}
	scratch := g.scratch.Get().(*envoy.Scratch)
	defer g.scratch.Put(scratch) // the outcome holds until then
	o := scratch.Evaluate(r.proxy, er, env, nil)
	switch o.Kind {
	case envoy.Local:
		writeLocal(w, o)
	case envoy.Forward:
		g.forward(w, req, r, o)
	default:
		g.config.Log.Error("the engine cannot tell", "reason", o.Reason)
		http.Error(w, "postern: cannot tell what Envoy does here: "+o.Reason, http.StatusNotImplemented)
	}
}

// refusal is a request this gateway cannot take as Envoy would.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if r, ok := err.(*refusal); ok {
		status = r.status
	}
	http.Error(w, "postern: "+err.Error(), status)
}

// fromHTTP reads the request as it came on the wire.
func fromHTTP(req *http.Request, local netip.AddrPort) (envoy.Request, error) {
	source, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return envoy.Request{}, fmt.Errorf("peer address %q: %w", req.RemoteAddr, err)
	}
	if req.ProtoMajor == 1 && req.ProtoMinor == 0 {
		return envoy.Request{}, &refusal{http.StatusUpgradeRequired, "HTTP/1.0 is not spoken here"} // Envoy's answer without accept_http_10
	}
	path := req.RequestURI
	if req.Method != http.MethodConnect && !strings.HasPrefix(path, "/") {
		// absolute form: net/http took the host from it already
		_, rest, ok := strings.Cut(path, "://")
		if !ok {
			return envoy.Request{}, &refusal{http.StatusBadRequest, "got a target that is neither a path nor a URL"}
		}
		path = "/"
		if i := strings.IndexAny(rest, "/?#"); i >= 0 {
			path = rest[i:]
			if path[0] != '/' {
				path = "/" + path
			}
		}
	}
	proto := "HTTP/1.1"
	if req.ProtoMajor == 2 {
		proto = "HTTP/2"
	}
	er := envoy.Request{Source: netip.AddrPortFrom(source.Addr().Unmap(), source.Port()), Destination: local, Protocol: proto, Scheme: "http", Method: req.Method, Authority: req.Host, Path: path}
	for name, values := range req.Header {
		for _, v := range values {
			er.Headers.Add(strings.ToLower(name), v)
		}
	}
	// net/http takes these out of the header map.
	if req.ContentLength > 0 {
		er.Headers.Add("content-length", strconv.FormatInt(req.ContentLength, 10))
	}
	for name := range req.Trailer {
		er.Headers.Add("trailer", strings.ToLower(name))
	}
	return er, nil
}

// requestID is a random UUID (version 4), as Envoy's uuid extension makes one.
func requestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func writeLocal(w http.ResponseWriter, o envoy.Outcome) {
	if o.Status == 0 { // no answer: the stream ends
		panic(http.ErrAbortHandler)
	}
	for _, h := range o.Headers {
		if h.Name != "content-length" {
			w.Header().Add(h.Name, h.Value)
		}
	}
	if o.Body == "" && w.Header().Get("Content-Type") == "" {
		w.Header()["Content-Type"] = nil // net/http must not guess one
	}
	w.WriteHeader(o.Status)
	_, _ = io.WriteString(w, o.Body)
}

// forward sends the request on and streams the answer back.
func (g *Gateway) forward(w http.ResponseWriter, req *http.Request, r *running, o envoy.Outcome) {
	target, err := targetURL("http", hostOf(o.Cluster), o.Request.Path)
	if err != nil {
		refuse(w, err)
		return
	}
	if o.Timeout > 0 && o.Upgrade == "" {
		ctx, cancel := context.WithTimeout(req.Context(), o.Timeout)
		defer cancel()
		req = req.WithContext(ctx)
	}
	req = req.WithContext(network.WithBegin(req.Context()))
	transport := r.transport
	if ct := req.Header.Get("Content-Type"); req.ProtoMajor == 2 && strings.HasPrefix(ct, "application/grpc") {
		transport = r.h2c
	}
	began := time.Now()
	proxy := httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(g.config.Log.Handler(), slog.LevelDebug),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.Method, p.Out.URL, p.Out.Host = o.Request.Method, target, o.Request.Authority
			p.Out.Header = toHTTP(o.Request.Headers)
		},
		ModifyResponse: func(resp *http.Response) error {
			applyResponse(resp.Header, o.Response)
			resp.Header.Set("X-Envoy-Upstream-Service-Time", strconv.FormatInt(time.Since(began).Milliseconds(), 10))
			resp.Header.Set("Server", "istio-envoy")
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) { upstreamFailed(w, req, err) },
	}
	proxy.ServeHTTP(w, req)
}

// upstreamFailed answers as Envoy does when the upstream cannot be reached
// (503) or the route's time-out is over (504).
func upstreamFailed(w http.ResponseWriter, req *http.Request, err error) {
	status, body := http.StatusServiceUnavailable, "upstream connect error or disconnect/reset before headers. "+err.Error()
	if req.Context().Err() == context.DeadlineExceeded {
		status, body = http.StatusGatewayTimeout, "upstream request timeout"
	}
	w.Header().Set("Server", "istio-envoy")
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func toHTTP(in envoy.Headers) http.Header {
	out := http.Header{}
	for _, h := range in {
		if h.Name != "content-length" {
			out.Add(h.Name, h.Value)
		}
	}
	if _, ok := out["User-Agent"]; !ok {
		out["User-Agent"] = nil // net/http must not add its own
	}
	return out
}

func applyResponse(h http.Header, c envoy.ResponseChange) {
	for _, op := range c {
		there := len(h.Values(op.Name)) > 0
		switch {
		case op.Action == envoy.RemoveHeader:
			h.Del(op.Name)
		case op.Action == envoy.SetHeader, op.Action == envoy.SetHeaderIfThere && there:
			h.Set(op.Name, op.Value)
		case op.Action == envoy.AddHeader, op.Action == envoy.AddHeaderIfAbsent && !there:
			h.Add(op.Name, op.Value)
		}
	}
}
