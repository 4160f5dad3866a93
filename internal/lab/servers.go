package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"postern.dev/postern/internal/lab/gateway"
)

// httpServer is an *http.Server as a server.
type httpServer struct {
	*http.Server
	serve func(net.Listener) error
}

func (s httpServer) Serve(l net.Listener) error { return s.serve(l) }

// idleTimeout is how long a connection may be open without a request: longer than
// our own clients keep one (a minute), so that none is closed under a request.
const idleTimeout = 2 * time.Minute

// headTimeout is how long a request's head may take to come.
const headTimeout = 30 * time.Second

func newHTTPServer(h http.Handler) httpServer {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: protocols, ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 60 << 10, ErrorLog: quiet}
	return httpServer{s, s.Serve}
}

// newGatewayServer is for our own gateway, which takes requests in as Envoy does.
func newGatewayServer(h http.Handler) *gateway.Server {
	s := gateway.NewServer(h)
	s.ReadHeaderTimeout, s.IdleTimeout, s.ErrorLog = headTimeout, idleTimeout, quiet
	return s
}

func httpServerOf(s *gateway.Server) httpServer { return httpServer{s.Server, s.Serve} }

func (s httpServer) stop(ctx context.Context) error {
	if err := s.Shutdown(ctx); err != nil {
		return s.Server.Close()
	}
	return nil
}

// serveDoor lets this machine in: in memory the gateway's handler serves the
// door, so that the peer is the machine's own address, which is nobody's pod;
// to a real Envoy the connection is passed on.
func (s *System) serveDoor(d *Door) {
	if s.config.Envoy != "" {
		s.wg.Go(func() { s.passOn(d) })
		return
	}
	d.server = newGatewayServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r := s.enter()
		defer r.leave()
		g := r.world.GatewayAt(d.Gateway)
		if g == nil {
			http.Error(w, "gateway "+d.Gateway+" is not in the manifests any more", http.StatusServiceUnavailable)
			return
		}
		r.gateways[g.Workload.String()].Handler(d.Port).ServeHTTP(w, req)
	}))
	s.wg.Go(func() { _ = d.server.Serve(d.listener) })
}

// passOn copies the door's connections to Envoy.
func (s *System) passOn(d *Door) {
	for {
		c, err := d.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			g := s.current.Load().world.GatewayAt(d.Gateway)
			if g == nil {
				return
			}
			up, err := net.DialTimeout("tcp", netip.AddrPortFrom(g.Workload.Pods[0].Addr, d.Port).String(), 5*time.Second)
			if err != nil {
				return
			}
			defer up.Close()
			copyBoth(c.(*net.TCPConn), up.(*net.TCPConn))
		}()
	}
}

func copyBoth(a, b *net.TCPConn) {
	var wg sync.WaitGroup
	for _, pair := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		wg.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			_ = pair[0].CloseWrite()
		})
	}
	wg.Wait()
}

func (d *Door) close(ctx context.Context) error {
	if d.server != nil {
		if err := d.server.Shutdown(ctx); err != nil {
			return d.server.Close()
		}
		return nil
	}
	return d.listener.Close()
}

func isAddressInUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
