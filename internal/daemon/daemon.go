// Package daemon is the program posternd: package authorizer behind Envoy's
// ext_authz over gRPC, fed from manifests or from a live cluster, with health, keys
// and metrics over HTTP.
//
// The gRPC port is a privileged interface, since whoever reaches it could claim
// any address: it is on loopback (behind a sidecar, which knows the gateways), or
// has a certificate and a list of clients (tls.go), or is said to be insecure.
//
// What the program reads from files is followed (follow.go): a change is read
// whole and put in force whole; what is bad is said and what was there stays.
package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/passport"
	"postern.dev/postern/internal/snapshot"
	"postern.dev/postern/internal/trace"
)

// lastSpans bounds how long the last spans may take to be sent.
const lastSpans = 2 * time.Second

// Options are what a Daemon needs from outside. The zero value works.
type Options struct {
	// Decisions gets one JSON line per decision. If nil, nobody does.
	Decisions io.Writer
	// Say is told of what an operator should know. If nil, nobody is.
	Say func(format string, args ...any)
	// HTTPClient reaches the login. If nil, a new one.
	HTTPClient *http.Client
	// Aside reads files and makes snapshots while checks are answered. If nil, it is
	// just done. It is not called twice at once.
	Aside func(work func() error) error
	// Swapped, if set, is called after each new snapshot, never twice at once.
	Swapped func()
	// Poll is how often files are looked at. Default 1s.
	Poll time.Duration
}

// Daemon is posternd. New opens its ports, Run serves them and closes them.
type Daemon struct {
	config     Config
	say        func(string, ...any)
	aside      func(func() error) error
	apart      sync.Mutex
	poll       time.Duration
	fresh      bool // there is a new snapshot; of whoever holds apart
	authorizer *authorizer.Authorizer
	keys       *passport.Keys
	metrics    *metrics
	lines      *lines
	tracer     *trace.Tracer // nil without
	tls        *identity     // nil without
	follow     []*follower
	cluster    *cluster.Cluster // nil with manifests
	grpc       *grpc.Server
	http       *http.Server
	health     *health.Server
	listeners  [2]net.Listener // gRPC and HTTP
	synced     atomic.Bool     // a snapshot is in force
	ready      atomic.Bool     // and a live cluster's pods have been seen as they are
	waited     atomic.Bool     // longer than listen.patience
	draining   atomic.Bool
}

// New reads keys and certificates and listens. It answers nothing before Run.
func New(c Config, o Options) (*Daemon, error) {
	switch dirs := len(c.Manifests.Dirs) > 0; {
	case !dirs && c.Cluster == nil:
		return nil, errors.New("nothing says where the cluster's objects are read from\nhint: --in-cluster, --kubeconfig FILE or --manifests DIR")
	case dirs && c.Cluster != nil:
		return nil, errors.New("the cluster's objects are read from an API server or from manifests: want one of the two")
	}
	d := &Daemon{config: c, say: o.Say, poll: o.Poll, metrics: newMetrics()}
	aside := o.Aside
	if aside == nil {
		aside = func(work func() error) error { return work() }
	}
	d.aside = func(work func() error) error {
		d.apart.Lock() // files and the cluster take turns
		defer d.apart.Unlock()
		return aside(func() error {
			err := work()
			if d.fresh && o.Swapped != nil {
				o.Swapped() // only now nothing holds on to what the snapshot was made of
			}
			d.fresh = false
			return err
		})
	}
	if d.poll == 0 {
		d.poll = poll
	}
	if d.say == nil {
		d.say = func(string, ...any) {}
	}
	if err := d.secrets(); err != nil {
		return nil, err
	}
	level, err := c.level()
	if err != nil {
		return nil, err
	}
	options := authorizer.Options{HTTPClient: o.HTTPClient, Keys: d.keys, Observe: d.metrics.observe}
	if o.Decisions != nil {
		d.lines = newLines(o.Decisions)
		options.Lines = authorizer.Lines{To: d.lines, From: level}
	}
	if c.Tracing.Endpoint != "" {
		if d.tracer, err = trace.New(context.Background(), c.Tracing, d.say); err != nil {
			return nil, err
		}
		options.Trace = d.tracer.Decision
	}
	if err := d.connect(&options); err != nil {
		return nil, err
	}
	if d.authorizer, err = authorizer.New(c.Authorizer, options); err != nil {
		return nil, err
	}
	d.metrics.caches(d.authorizer.Caches())
	if d.cluster == nil {
		d.follow = append(d.follow, &follower{what: "the manifests", load: d.readManifests,
			names: func() []string { return append(manifest.FileNames(c.Manifests.Dirs), c.Manifests.Dirs...) }})
	}
	d.servers()
	return d, d.listen()
}

// secrets reads keys and certificates, and follows their files.
func (d *Daemon) secrets() (err error) {
	if len(d.config.Passport.KeyFiles) == 0 {
		if d.keys, err = passport.New(rand.Reader); err != nil {
			return err
		}
	} else {
		f := &follower{what: "the passport keys", load: d.readKeys, names: func() []string { return d.config.Passport.KeyFiles }}
		if err := f.first(); err != nil {
			return err
		}
		d.follow = append(d.follow, f)
	}
	if d.config.TLS.on() {
		d.tls = &identity{files: d.config.TLS}
		f := &follower{what: "the certificates", load: d.tls.read, names: d.tls.names}
		if err := f.first(); err != nil {
			return err
		}
		d.follow = append(d.follow, f)
		d.metrics.expiry(d.tls)
	}
	return nil
}

func (d *Daemon) readKeys() error {
	var files [2][]byte
	for i, name := range d.config.Passport.KeyFiles {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files[i] = data
	}
	if d.keys == nil {
		d.keys = &passport.Keys{}
	}
	return d.keys.Use(files[0], files[1])
}

// readManifests puts the objects that the directories hold now in force.
func (d *Daemon) readManifests() error {
	set, err := manifest.FilesOfCluster(d.config.Manifests.Dirs)
	if err != nil {
		return err
	}
	snap, err := snapshot.Read(set, d.config.Manifests.Pods, d.config.Authorizer)
	if err != nil {
		return err
	}
	if err := errors.Join(snap.Map.Underived(), snap.APIKeys.Problems()); err != nil {
		d.say("%v", err)
	}
	d.unread(set)
	kinds := map[string]int{}
	for o := range set.All() {
		if o.Value != nil {
			kinds[o.Kind]++
		}
	}
	d.swap(snap, kinds)
	return nil
}

// swap puts a snapshot in force. kinds are how many objects it was made of.
func (d *Daemon) swap(snap *authorizer.Snapshot, kinds map[string]int) (first bool) {
	d.authorizer.Swap(snap)
	d.metrics.swapped(kinds)
	d.metrics.refused(snap.Map.Refusals())
	first = !d.synced.Swap(true)
	if d.cluster == nil {
		d.serving()
	}
	d.fresh = true
	return first
}

// connect makes the watch of a live cluster, if there is to be one.
func (d *Daemon) connect(options *authorizer.Options) (err error) {
	if d.config.Cluster == nil {
		return nil
	}
	d.cluster, err = cluster.New(*d.config.Cluster, cluster.Options{
		Config: d.config.Authorizer, Say: d.say, Aside: d.aside, Agent: "posternd",
		Swap: func(s *authorizer.Snapshot) {
			if d.swap(s, d.cluster.Objects()) {
				d.say("the cluster's objects are read and in force")
			}
		},
	})
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	options.PodsKnown = d.cluster.PodsKnown
	d.metrics.live(d.cluster)
	return nil
}

// unread says which kinds are not read, once for each.
func (d *Daemon) unread(set *manifest.Set) {
	kinds := map[string]int{}
	for _, o := range set.Unread() {
		kinds[o.APIVersion+" "+o.Kind]++
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		d.say("%d of %s: not read, what they make of the gateways is the gateways' to do", kinds[kind], kind)
	}
}

func (d *Daemon) servers() {
	var options []grpc.ServerOption
	if d.tls != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(d.tls.config())))
	}
	d.grpc = authorizer.NewServer(d.authorizer, options...)
	d.health = health.NewServer()
	d.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(d.grpc, d.health)
	d.http = &http.Server{Handler: d.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
}

func (d *Daemon) listen() error {
	for i, addr := range []string{d.config.Listen.GRPC, d.config.Listen.HTTP} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			d.close()
			return err
		}
		d.listeners[i] = l
	}
	return nil
}

func (d *Daemon) close() {
	for _, l := range d.listeners {
		if l != nil {
			_ = l.Close() // closed already when its server served
		}
	}
}

// Addrs are where the Daemon listens: for checks, and for HTTP.
func (d *Daemon) Addrs() (checks, web net.Addr) { return d.listeners[0].Addr(), d.listeners[1].Addr() }

// Run serves until ctx ends, then lets the checks under way finish. An error means
// that a port could not be served any longer.
func (d *Daemon) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	ended := make(chan error, 2)
	serve := func(what string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil && !errors.Is(err, http.ErrServerClosed) {
				ended <- fmt.Errorf("serving %s: %w", what, err)
			}
		})
	}
	serve("checks", func() error { return d.grpc.Serve(d.listeners[0]) })
	serve("http", func() error { return d.http.Serve(d.listeners[1]) })
	d.greet()
	following, stop := context.WithCancel(ctx)
	wg.Go(func() { d.followAll(following) })
	wg.Go(func() { d.patience(following) })
	if d.cluster != nil {
		wg.Go(func() { d.cluster.Run(following) })
		wg.Go(func() { d.recognise(following) })
	}
	var err error
	select {
	case <-ctx.Done():
		d.leave(ended)
	case err = <-ended:
	}
	stop()
	d.stop()
	wg.Wait()
	d.authorizer.Close()
	if d.tracer != nil {
		last, cancel := context.WithTimeout(context.Background(), lastSpans)
		defer cancel()
		if d.tracer.Close(last) != nil {
			d.say("tracing: the last spans are lost")
		}
	}
	if d.lines != nil {
		err = errors.Join(err, d.lines.Close())
	}
	return err
}

func (d *Daemon) greet() {
	checks, web := d.Addrs()
	how := "plaintext, for a sidecar"
	switch {
	case d.tls != nil:
		how = "TLS, for the clients of the configuration"
	case d.config.InsecurePort:
		how = "plaintext and insecure: pods are not recognised by their address"
	}
	d.say("checks at %s (%s), health, keys and metrics at http://%s", checks, how, web)
	if len(d.config.Passport.KeyFiles) == 0 {
		d.say("passports are signed with a key of this process's own: with a second posternd, give both the same passport.keyFiles")
	}
}

// leave tells the gateways before the port closes.
func (d *Daemon) leave(ended <-chan error) {
	d.say("stopping")
	d.draining.Store(true)
	d.health.Shutdown()
	select {
	case <-time.After(d.config.Listen.Linger):
	case <-ended:
	}
}

func (d *Daemon) stop() {
	done := make(chan struct{})
	go func() { d.grpc.GracefulStop(); close(done) }()
	limit := time.NewTimer(d.config.Listen.Drain)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		d.say("some checks were not finished in %s", d.config.Listen.Drain)
		d.grpc.Stop()
		<-done
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if d.http.Shutdown(ctx) != nil {
		_ = d.http.Close() // a scrape that hangs is not waited for
	}
	d.close()
}
