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
		c, err := g.config.Dial(ctx, clusterOf(host))
		if err != nil {
			return nil, &unreachable{err}
		}
		return c, nil
	}
	r := &running{proxy: p, authorize: newAuthorizers(dial)}
	http1 := func(ctx context.Context, proto, addr string) (net.Conn, error) {
		c, err := dial(ctx, proto, addr)
		if err != nil {
			return nil, err
		}
		return network.ForHTTP1(c), nil
	}
	r.transport = &http.Transport{DialContext: http1, DisableCompression: true, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: maxAnswerHead}
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	r.h2c = &http.Transport{DialContext: dial, DisableCompression: true, Protocols: h2, MaxResponseHeaderBytes: maxHead}
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

func (g *Gateway) serve(client http.ResponseWriter, req *http.Request, local netip.AddrPort) {
	started := time.Now()
	w := &answer{ResponseWriter: client, last: req.ProtoMajor == 1 && len(req.Header["Upgrade"]) > 0}
	r := g.current.Load()
	if r == nil {
		http.Error(w, "no configuration yet", http.StatusServiceUnavailable)
		return
	}
	er, err := fromHTTP(req, local)
	if err != nil {
		w.last = req.ProtoMajor == 1
		refuse(w, err)
		return
	}
	env := envoy.Env{RequestID: requestID(), Random: mathrand.Uint64(), Now: started, Authorize: func(c envoy.Check) envoy.Answer { return r.authorize.ask(req.Context(), c) }}
	scratch := g.scratch.Get().(*envoy.Scratch)
	defer g.scratch.Put(scratch) // the outcome holds until then
	o := scratch.Evaluate(r.proxy, er, env, nil)
	switch o.Kind {
	case envoy.Local:
		w.last = w.last || req.ProtoMajor == 1 && strings.HasPrefix(o.Reason, "http1.") // the codec's refusals end the connection
		writeLocal(w, o)
	case envoy.Forward:
		g.forward(w, req, r, o)
	default:
		g.config.Log.Error("the engine cannot tell", "reason", o.Reason)
		http.Error(w, "postern: cannot tell what Envoy does here: "+o.Reason, http.StatusNotImplemented)
	}
}

func refuse(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if r, ok := err.(*refusal); ok {
		status = r.status
	}
	http.Error(w, "postern: "+err.Error(), status)
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
	w.WriteHeader(o.Status)
	_, _ = io.WriteString(w, o.Body)
}

// forward sends the request on and streams the answer back.
func (g *Gateway) forward(w http.ResponseWriter, req *http.Request, r *running, o envoy.Outcome) {
	target, err := targetURL("http", hostOf(o.Cluster), o.Request.Path)
	if o.Request.Authority == "" { // a filter took it away; net/http would send another
		err = badRequest("got no host to send on")
	}
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
	body := &clientBody{ReadCloser: req.Body}
	req.Body = body
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
			if err := wellFormed(resp); err != nil {
				return err
			}
			if transport != r.h2c {
				dropTrailers(resp)
			}
			applyResponse(resp.Header, o.Response)
			resp.Header.Set("X-Envoy-Upstream-Service-Time", strconv.FormatInt(time.Since(began).Milliseconds(), 10))
			resp.Header.Set("Server", "istio-envoy")
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			if body.broken.Load() {
				refuse(w, badRequest("the body cannot be read"))
				return
			}
			upstreamFailed(w, req, err)
		},
	}
	proxy.ServeHTTP(w, req)
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
