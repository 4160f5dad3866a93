// Package lab is `postern up`: a whole Kubeflow gateway system in one process,
// made of the same YAML as a cluster. The gateway executes what Istio makes of
// the manifests (package gateway over package envoy, or a real Envoy); Dex is
// real; authservice, posternd, the models and the dashboard run as the programs
// their images name; pods are addresses of an in-memory network.
package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern.dev/postern/internal/lab/control"
	"postern.dev/postern/internal/lab/gateway"
	"postern.dev/postern/internal/lab/podproxy"
	"postern.dev/postern/internal/lab/serving"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// Config says what to run. The zero value of everything but Load works.
type Config struct {
	// Load reads the manifests; it is called again when they changed.
	Load func() (*manifest.Set, error)
	// Translate says where Istio's translators and their answers are.
	Translate translate.Options
	// JWKS are key sets by issuer, for RequestAuthentications without inline keys.
	JWKS map[string]string
	// Listen is the address of the doors, default 127.0.0.1.
	Listen string
	// Ports are the ports of the doors by the name of their Gateway; a missing
	// one means: the gateway's own, or the next free one.
	Ports map[string]int
	// Storage maps storage URIs to folders.
	Storage serving.Storage
	// Envoy is a real Envoy's program: the gateway runs in it. Empty: our own.
	Envoy string
	// Pods is the range in which a real Envoy's pods live, of 127.0.0.0/8. Default
	// 127.66.0.0/16. Two systems on one machine need ranges of their own.
	Pods netip.Prefix
	// Elsewhere, if set, tells of which workloads the pods are run by somebody else,
	// who listens on their addresses.
	Elsewhere func(*topology.Workload) bool
	// LoginSecret is the secret of the login's client at Dex. Default: a random one.
	LoginSecret string
	// Self is the command that a shown `postern exec` line begins with.
	Self string
	// Observe, if set, is told of every request that reaches a pod's program.
	Observe func(pod *topology.Pod, r *http.Request)
	// Log gets what goes wrong while running; nil discards it.
	Log *slog.Logger
}

// podRange is where pods live: a real Envoy needs addresses that exist.
func (c Config) podRange() netip.Prefix {
	if c.Envoy != "" && !c.Pods.IsValid() {
		return netip.MustParsePrefix("127.66.0.0/16")
	}
	return c.Pods
}

// Door is one of the gateways' ports on this machine.
type Door struct {
	Gateway string // "kubeflow/kubeflow-gateway"
	Port    uint16 // the port the gateway's pod listens on
	URL     string // "http://localhost:8080"
	// Moved is the port that was taken, when the door had to move on.
	Moved int

	listener net.Listener
	server   *gateway.Server
}

// System is a running system.
type System struct {
	config  Config
	secrets loginSecrets
	current atomic.Pointer[running]
	doors   []*Door
	proxy   *podproxy.Proxy
	podURL  string
	servers []*http.Server
	control *control.Server
	failed  chan error
	wg      sync.WaitGroup
}

// Start builds the system, opens its doors and returns when it answers.
func Start(ctx context.Context, c Config) (*System, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1"
	}
	s := &System{config: c, secrets: newLoginSecrets(c.LoginSecret), failed: make(chan error, 1)}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close(context.Background()))
	}
	return s, nil
}

func (s *System) start(ctx context.Context) error {
	r, err := s.load(ctx, nil)
	if err != nil {
		return err
	}
	s.commit(r)
	if err := s.openDoors(r); err != nil {
		return err
	}
	return s.openPodProxy()
}

// load works out the manifests and starts their pods beside those of old.
func (s *System) load(ctx context.Context, old *running) (*running, error) {
	set, err := s.config.Load()
	if err != nil {
		return nil, err
	}
	w, err := world.Build(ctx, set, world.Options{Pods: s.config.podRange(), Translate: s.config.Translate, JWKS: s.config.JWKS})
	if err != nil {
		return nil, err
	}
	return s.run(ctx, w, old)
}

// Reload reads the manifests again and puts them in force whole. On an error
// the old configuration stays.
func (s *System) Reload(ctx context.Context) error {
	old := s.current.Load()
	r, err := s.load(ctx, old)
	if err != nil {
		return err
	}
	s.commit(r)
	s.wg.Go(func() { old.drain(r, 30*time.Second) })
	return nil
}

// commit puts a world in force: its gateways take the next request, and its
// posternd knows its objects.
func (s *System) commit(r *running) {
	s.current.Store(r)
	if r.judge != nil {
		r.judge.Swap(r.snapshot)
	}
}

// doorGateways are the Gateways that get a door on this machine, with the port
// their users know.
var doorGateways = []struct{ namespace, name string }{{"kubeflow", "kubeflow-gateway"}, {"knative-serving", "knative-local-gateway"}}

func (s *System) openDoors(r *running) error {
	for _, g := range doorGateways {
		port, ok := r.world.ListenerOf(g.namespace, g.name)
		if !ok {
			continue
		}
		d := &Door{Gateway: g.namespace + "/" + g.name, Port: port}
		if err := s.open(d); err != nil {
			return err
		}
		s.doors = append(s.doors, d)
	}
	if len(s.doors) == 0 {
		return errors.New("neither Gateway kubeflow/kubeflow-gateway nor knative-serving/knative-local-gateway is in the manifests: there is no door to open")
	}
	return nil
}

// open listens: on the port asked for, or else on the gateway's own or the next
// free one.
func (s *System) open(d *Door) error {
	want, asked := s.config.Ports[d.Gateway]
	if !asked {
		want = int(d.Port)
	}
	var err error
	for port := want; port < want+100; port++ {
		d.listener, err = net.Listen("tcp", net.JoinHostPort(s.config.Listen, strconv.Itoa(port)))
		if err == nil {
			break
		}
		if asked || !isAddressInUse(err) {
			return fmt.Errorf("gateway %s: %w", d.Gateway, err)
		}
		d.Moved = want
	}
	if err != nil {
		return fmt.Errorf("gateway %s: no free port from %d to %d", d.Gateway, want, want+99)
	}
	actual := d.listener.Addr().(*net.TCPAddr).Port
	host := s.config.Listen
	if ip := net.ParseIP(host); ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		host = "localhost"
	}
	d.URL = "http://" + net.JoinHostPort(host, strconv.Itoa(actual))
	s.serveDoor(d)
	return nil
}

// Doors are the system's doors, the first one the users'.
func (s *System) Doors() []*Door { return s.doors }

// Notes are things about the manifests that their author should know.
func (s *System) Notes() []string {
	r := s.current.Load()
	return append(slices.Clone(r.world.Notes), r.notes...)
}

// Istio is the version whose translation runs.
func (s *System) Istio() string { return s.current.Load().world.Istio }

// Failed gives an error when the system cannot go on: a real Envoy ended.
func (s *System) Failed() <-chan error { return s.failed }

// fail is for the first failure; others follow from it.
func (s *System) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// World is what runs: who is where, and what the gateways do.
func (s *System) World() *world.World { return s.current.Load().world }

// Announce lets `postern exec` find the system.
func (s *System) Announce() error {
	var err error
	s.control, err = control.Serve(s.doors[0].URL, s.lookupPod)
	return err
}

// lookupPod finds a pod for exec.
func (s *System) lookupPod(namespace, name string) (control.Pod, error) {
	r := s.current.Load()
	var here []string
	for _, p := range r.world.Topology.Pods() {
		if p.Namespace == namespace && p.Name == name {
			if !p.Running {
				return control.Pod{}, fmt.Errorf("pod %s is not running", p)
			}
			return control.Pod{Namespace: namespace, Name: name, Address: p.Addr.String(), Proxy: s.proxyURL(p)}, nil
		}
		if p.Namespace == namespace {
			here = append(here, p.Name)
		}
	}
	hint := "namespace " + namespace + " has no pods; -n NAMESPACE chooses another"
	if len(here) > 0 {
		hint = "there are: " + strings.Join(here, ", ")
	}
	return control.Pod{}, fmt.Errorf("pods %q not found in namespace %s (%s)", name, namespace, hint)
}

func (s *System) openPodProxy() error {
	s.proxy = podproxy.New(func(ctx context.Context, pod, addr string) (net.Conn, error) {
		ns, name, _ := strings.Cut(pod, "/")
		r := s.enter()
		p, ok := r.world.Topology.Pod(ns, name)
		if !ok {
			r.leave()
			return nil, fmt.Errorf("pod %s is gone", pod)
		}
		c, err := r.dialFrom(ctx, p, addr)
		if err != nil {
			r.leave()
			return nil, err
		}
		return &entered{Conn: c, r: r}, nil
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.podURL = l.Addr().String()
	server := &http.Server{Handler: s.proxy, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idleTimeout}
	s.servers = append(s.servers, server)
	s.wg.Go(func() { _ = server.Serve(l) })
	return nil
}

// proxyURL is an http_proxy value for calling as a pod.
func (s *System) proxyURL(p *topology.Pod) string {
	return fmt.Sprintf("http://%s.%s:%s@%s", p.Namespace, p.Name, s.proxy.Password(p.String()), s.podURL)
}

// Close stops taking requests, lets those under way finish until ctx ends, and
// frees everything.
func (s *System) Close(ctx context.Context) error {
	var errs []error
	if s.control != nil {
		errs = append(errs, s.control.Close())
	}
	for _, d := range s.doors {
		errs = append(errs, d.close(ctx))
	}
	for _, server := range s.servers {
		if err := server.Shutdown(ctx); err != nil {
			errs = append(errs, server.Close())
		}
	}
	if r := s.current.Load(); r != nil {
		errs = append(errs, r.close(ctx))
	}
	s.wg.Wait()
	return errors.Join(errs...)
}
