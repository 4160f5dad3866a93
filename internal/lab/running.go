package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/lab/gateway"
	"postern.dev/postern/internal/lab/network"
	"postern.dev/postern/internal/lab/realenvoy"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/world"
)

// running is one world with its pods up.
type running struct {
	config   Config
	world    *world.World
	network  *network.Network
	programs map[string]*program // by workload
	gateways map[string]*gateway.Gateway
	envoys   map[string]*realenvoy.Envoy
	servers  []server
	notes    []string      // of models that could not be loaded
	turn     atomic.Uint32 // which of several endpoints is next
	users    atomic.Int64  // requests and connections from outside of the pods that are under way in it

	// judge is the world's posternd, nil without one, and what it is to know.
	judge    *authorizer.Authorizer
	snapshot *authorizer.Snapshot
}

// server is what serves one listener: *http.Server and *grpc.Server.
type server interface {
	Serve(net.Listener) error
	stop(ctx context.Context) error
}

// run starts the pods of a world. Programs of old whose configuration did not
// change go on, with their sessions.
func (s *System) run(ctx context.Context, w *world.World, old *running) (*running, error) {
	r := &running{config: s.config, world: w, network: &network.Network{Loopback: s.config.podRange()},
		programs: map[string]*program{}, gateways: map[string]*gateway.Gateway{}, envoys: map[string]*realenvoy.Envoy{}}
	if old != nil && r.network.Loopback.IsValid() {
		if err := r.checkEnvoys(ctx); err != nil {
			return nil, err
		}
		// Real addresses can be listened on once: the old pods stop first.
		old.stopServers(ctx)
	}
	err := r.startPrograms(ctx, s, old)
	if err == nil {
		err = r.prepareJudge()
	}
	if err == nil {
		err = r.fetchKeys(ctx)
	}
	if err == nil {
		err = r.startGateways(ctx, s, old)
	}
	if err != nil {
		r.stopServers(ctx)
		return nil, errors.Join(err, r.closePrograms(old))
	}
	return r, nil
}

// startPrograms runs each workload's program on the ports of its pods.
func (r *running) startPrograms(ctx context.Context, s *System, old *running) error {
	for _, wl := range r.world.Topology.Workloads() {
		if err := r.openElsewhere(wl); err != nil {
			return err
		}
		p, err := s.programFor(ctx, r, wl, old)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		r.programs[wl.String()] = p
		for _, pod := range wl.Pods {
			if !pod.Running || !pod.Addr.IsValid() {
				continue
			}
			for _, port := range portsOf(pod) {
				if err := r.serve(netip.AddrPortFrom(pod.Addr, port), p.server(r.observed(pod, p.handler))); err != nil {
					return fmt.Errorf("pod %s: %w", pod, err)
				}
			}
		}
	}
	return nil
}

// openElsewhere lets the gateways reach pods that somebody else runs.
func (r *running) openElsewhere(wl *topology.Workload) error {
	if !r.network.Loopback.IsValid() || len(wl.Pods) == 0 || r.config.Elsewhere == nil || !r.config.Elsewhere(wl) {
		return nil
	}
	for _, pod := range wl.Pods {
		for _, port := range portsOf(pod) {
			if err := r.network.Open(netip.AddrPortFrom(pod.Addr, port)); err != nil {
				return fmt.Errorf("pod %s: %w", pod, err)
			}
		}
	}
	return nil
}

// observed tells Observe of a request before the program sees it.
func (r *running) observed(pod *topology.Pod, h http.Handler) http.Handler {
	if r.config.Observe == nil || h == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.config.Observe(pod, req)
		h.ServeHTTP(w, req)
	})
}

func (r *running) serve(addr netip.AddrPort, sv server) error {
	l, err := r.network.Listen(addr)
	if err != nil {
		return err
	}
	r.servers = append(r.servers, sv)
	go func() { _ = sv.Serve(l) }() // ends when stop closes the server
	return nil
}

// startGateways puts each gateway workload's configuration on its pods' ports.
func (r *running) startGateways(ctx context.Context, s *System, old *running) error {
	if r.config.Envoy != "" {
		return r.startEnvoys(ctx, s, old)
	}
	for _, g := range r.world.Gateways {
		pod := g.Workload.Pods[0]
		gw := gateway.New(gateway.Config{Address: pod.Addr, Log: r.config.Log, Dial: func(ctx context.Context, cluster string) (net.Conn, error) {
			return r.dialCluster(ctx, pod, cluster)
		}})
		gw.Swap(g.Proxy)
		r.gateways[g.Workload.String()] = gw
		for _, port := range g.Proxy.Ports() {
			if err := r.serve(netip.AddrPortFrom(pod.Addr, port), httpServerOf(newGatewayServer(gw.Handler(port)))); err != nil {
				return fmt.Errorf("gateway %s: %w", g.Workload, err)
			}
		}
	}
	return nil
}

// startEnvoys does the same with real Envoys. All gateways' ports are open before
// the first one starts: gateways call each other.
func (r *running) startEnvoys(ctx context.Context, s *System, old *running) error {
	for _, g := range r.world.Gateways {
		for _, port := range g.Proxy.Ports() {
			if err := r.network.Open(netip.AddrPortFrom(g.Workload.Pods[0].Addr, port)); err != nil {
				return fmt.Errorf("gateway %s: %w", g.Workload, err)
			}
		}
	}
	for _, g := range r.world.Gateways {
		e, err := r.startEnvoy(ctx, s, g, old)
		if err != nil {
			return fmt.Errorf("gateway %s: %w", g.Workload, err)
		}
		r.envoys[g.Workload.String()] = e
	}
	return nil
}

// checkEnvoys asks Envoy whether it takes the gateways' configurations, before
// anything is stopped for them.
func (r *running) checkEnvoys(ctx context.Context) error {
	if r.config.Envoy == "" {
		return nil
	}
	for _, g := range r.world.Gateways {
		if err := realenvoy.Check(ctx, realenvoy.Config{Program: r.config.Envoy, Address: g.Workload.Pods[0].Addr}, g.Resources); err != nil {
			return fmt.Errorf("gateway %s: %w", g.Workload, err)
		}
	}
	return nil
}

func (r *running) startEnvoy(ctx context.Context, s *System, g *world.Gateway, old *running) (*realenvoy.Envoy, error) {
	c := realenvoy.Config{Program: r.config.Envoy, Address: g.Workload.Pods[0].Addr, Endpoints: r.opened,
		Ended: func(err error) { s.fail(fmt.Errorf("gateway %s: %w", g.Workload, err)) }}
	if old != nil && old.envoys[g.Workload.String()] != nil {
		e := old.envoys[g.Workload.String()]
		return e, e.Update(ctx, g.Resources, c.Endpoints)
	}
	return realenvoy.Start(ctx, c, g.Resources)
}

// opened are the endpoints of a cluster at which a pod listens: a Service's
// targetPort can be any number. Without one Envoy answers 503, as it should.
func (r *running) opened(cluster string) []netip.AddrPort {
	var out []netip.AddrPort
	eps, _ := r.world.Topology.Cluster(cluster)
	for _, e := range eps {
		if r.network.Opened(e.Addr) {
			out = append(out, e.Addr)
		}
	}
	return out
}

// dialCluster connects the gateway's pod to an endpoint of a cluster.
func (r *running) dialCluster(ctx context.Context, from *topology.Pod, cluster string) (net.Conn, error) {
	eps, err := r.world.Topology.Cluster(cluster)
	if err != nil {
		return nil, err
	}
	return r.dialOne(ctx, from, eps)
}

func (r *running) dialOne(ctx context.Context, from *topology.Pod, eps []topology.Endpoint) (net.Conn, error) {
	if len(eps) == 0 {
		return nil, syscall.ECONNREFUSED
	}
	e := eps[int(r.turn.Add(1))%len(eps)]
	return r.network.Dial(ctx, from.Addr, e.Addr)
}

// dialFrom connects a pod to "host:port", by the names a pod of its namespace
// knows.
func (r *running) dialFrom(ctx context.Context, from *topology.Pod, addr string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", portText, err)
	}
	eps, err := r.world.Topology.Reach(from.Namespace, host, uint32(port))
	if err != nil {
		return nil, err
	}
	return r.dialOne(ctx, from, eps)
}

// clientFor is an HTTP client that calls as a pod, once the system is up.
func (s *System) clientFor(pod *topology.Pod) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: 5 * time.Second,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			r := s.current.Load()
			if r == nil {
				return nil, errors.New("the system is still starting")
			}
			return r.dialFrom(ctx, pod, addr)
		},
	}}
}

func (r *running) stopServers(ctx context.Context) {
	var wg sync.WaitGroup
	for _, sv := range r.servers {
		wg.Go(func() { _ = sv.stop(ctx) })
	}
	wg.Wait()
	r.servers = nil
}

// enter gives the world in force to one who must leave it: until then it is not
// stopped.
func (s *System) enter() *running {
	for {
		r := s.current.Load()
		r.users.Add(1)
		if s.current.Load() == r { // else it may be stopped already
			return r
		}
		r.leave()
	}
}

func (r *running) leave() { r.users.Add(-1) }

// entered is a connection whose world is left when it is closed.
type entered struct {
	net.Conn
	once sync.Once
	r    *running
}

func (c *entered) Close() error {
	c.once.Do(c.r.leave)
	return c.Conn.Close()
}

// drain lets the requests of a replaced world finish, then ends what the new
// one did not take over. Its servers stop together and only when nobody is left: one
// request goes through several of them.
func (r *running) drain(next *running, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for r.users.Load() > 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	r.stopServers(ctx)
	if err := r.closePrograms(next); err != nil {
		r.config.Log.Warn("closing replaced programs", "error", err)
	}
}

// closePrograms ends the programs, those of another world excepted.
func (r *running) closePrograms(but *running) error {
	var errs []error
	for _, g := range r.gateways {
		g.Close()
	}
	for name, p := range r.programs {
		if p.close != nil && (but == nil || but.programs[name] != p) {
			errs = append(errs, p.close())
		}
	}
	for name, e := range r.envoys {
		if but == nil || but.envoys[name] != e {
			errs = append(errs, e.Close())
		}
	}
	return errors.Join(errs...)
}

func (r *running) close(ctx context.Context) error {
	r.stopServers(ctx)
	return r.closePrograms(nil)
}

func portsOf(p *topology.Pod) []uint16 {
	var out []uint16
	seen := map[uint16]bool{}
	for _, c := range p.Containers {
		for _, port := range c.Ports {
			if n := uint16(port.ContainerPort); n != 0 && !seen[n] {
				seen[n] = true
				out = append(out, n)
			}
		}
	}
	return out
}
