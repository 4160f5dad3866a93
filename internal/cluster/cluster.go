// Package cluster keeps what posternd knows of a live cluster: it watches the
// objects of an API server and makes of them the same snapshot that manifests make.
//
//   - Every kind has a watch and a store (watch.go, store.go). An object is stripped to
//     the fields that are needed, and read by the rules for manifests
//     (manifest.Live): one that is not understood stands in nobody else's way.
//   - A change marks the part of the snapshot that is made of its kind; a moment later
//     the parts that are marked are made anew and put in force (build.go). No check
//     waits for that, and no check asks the API server.
//   - A pulse tells whether the API server is there, and with the watch of the pods
//     since when a pod may have moved (pulse.go).
package cluster

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/snapshot"
)

// Settings say which cluster, and where its controllers' settings are. The zero value
// is the cluster whose pod this is, laid out as Kubeflow installs it.
type Settings struct {
	// Kubeconfig is a file; its current context is used. Default: what a pod is given.
	Kubeconfig string `yaml:"kubeconfig"`
	// KServe is the namespace of ConfigMap inferenceservice-config. Default kubeflow.
	KServe string `yaml:"kserve"`
	// Mesh is the namespace of ConfigMap istio. Default istio-system.
	Mesh string `yaml:"mesh"`
}

func (s Settings) withDefaults() Settings {
	if s.KServe == "" {
		s.KServe = "kubeflow"
	}
	if s.Mesh == "" {
		s.Mesh = "istio-system"
	}
	return s
}

// Options are what a Cluster needs from outside.
type Options struct {
	Config authorizer.Config
	// Swap puts a snapshot in force. Required.
	Swap func(*authorizer.Snapshot)
	// Say is told of what an operator should know. Required.
	Say func(format string, args ...any)
	// Aside does work while checks are answered. If nil, it is just done.
	Aside func(func() error) error
	// Agent is the User-Agent by which the API server's audit knows us.
	Agent string
}

// Cluster watches. New makes it, Run runs it.
type Cluster struct {
	settings Settings
	options  Options
	client   *client
	watchers []*watcher
	pods     *watcher
	troubles troubles

	wake     chan struct{}
	marked   [snapshot.Parts]atomic.Int64 // since when the part is not as the cluster is, 0: it is
	working  [snapshot.Parts]atomic.Int64 // the same, of the change that is being worked in
	snapshot *authorizer.Snapshot         // the builder's
	synced   atomic.Bool
	pulse    atomic.Int64 // when the API server last answered, Unix nanoseconds, 0 before
}

// New reads how the API server is reached. It asks it nothing before Run.
func New(s Settings, o Options) (*Cluster, error) {
	if o.Swap == nil || o.Say == nil {
		return nil, errors.New("cluster: Swap and Say are required")
	}
	if o.Aside == nil {
		o.Aside = func(work func() error) error { return work() }
	}
	client, err := connect(s.Kubeconfig, o.Agent)
	if err != nil {
		return nil, err
	}
	return newCluster(s, o, client), nil
}

func newCluster(s Settings, o Options, client *client) *Cluster {
	c := &Cluster{settings: s.withDefaults(), options: o, client: client, wake: make(chan struct{}, 1)}
	c.troubles.say = o.Say
	for _, k := range kinds(c.settings) {
		w := &watcher{kind: k, client: client, failed: func(err error) { c.troubles.set("watching "+k.String(), err) }}
		w.store = newStore(k, func() { c.mark(k.reads) }, func(object string, err error) {
			c.troubles.seldom("%s %s counts for nothing, or for less than it says: %v", k, object, err)
		})
		c.watchers = append(c.watchers, w)
		if k.of == podKind {
			c.pods = w
		}
	}
	for p := range c.marked {
		c.marked[p].Store(1) // nothing is made yet
	}
	return c
}

// Run watches until ctx ends.
func (c *Cluster) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, w := range c.watchers {
		wg.Go(func() { w.run(ctx) })
	}
	wg.Go(func() { c.beat(ctx) })
	c.build(ctx)
	wg.Wait()
}

// Synced tells whether a whole snapshot has been put in force.
func (c *Cluster) Synced() bool { return c.synced.Load() }

// PodsKnown is when the pods were last known to be as the snapshot in force has them;
// long ago before the first one.
func (c *Cluster) PodsKnown() time.Time {
	if !c.synced.Load() {
		return time.Time{}
	}
	return time.Unix(0, min(c.pods.heard.Load(), c.since(snapshot.Pods)))
}

// Known is when the cluster was last known to be as the snapshot in force has it. ok
// is false before the first one.
func (c *Cluster) Known() (at time.Time, ok bool) {
	if !c.synced.Load() {
		return time.Time{}, false
	}
	first := c.since(0)
	for p := range snapshot.Parts {
		first = min(first, c.since(p))
	}
	return time.Unix(0, first), true
}

// since is when a part was last known to be as the cluster is: when the API server
// last answered or, when a change is not in force yet, when that one came.
func (c *Cluster) since(p snapshot.Part) int64 {
	at := c.pulse.Load()
	for _, t := range []int64{c.marked[p].Load(), c.working[p].Load()} {
		if t != 0 {
			at = min(at, t)
		}
	}
	return at
}

// Connected tells whether the API server has answered lately and every kind is watched.
func (c *Cluster) Connected() bool {
	for _, w := range c.watchers {
		if !w.up.Load() {
			return false
		}
	}
	return time.Since(time.Unix(0, c.pulse.Load())) < authorizer.PodsBelieved/2
}

// Objects are how many objects there are to make a snapshot of, by kind.
func (c *Cluster) Objects() map[string]int {
	n := map[string]int{}
	for _, w := range c.watchers {
		size, _ := w.store.size()
		n[w.kind.of[strings.LastIndexByte(w.kind.of, '/')+1:]] += size
	}
	return n
}

// Watched tells of each kind whether its objects are known as they are.
func (c *Cluster) Watched() map[string]bool {
	up := map[string]bool{}
	for _, w := range c.watchers {
		up[w.kind.String()] = w.up.Load()
	}
	return up
}

// set are all objects that a part is made of. ready is whether all have been listed.
func (c *Cluster) set(p snapshot.Part) (set *manifest.Set, ready bool, err error) {
	var all []*manifest.Object
	for _, w := range c.watchers {
		if w.kind.reads != p {
			continue
		}
		objects, ready, err := w.store.all()
		if err != nil || !ready {
			return nil, false, err
		}
		all = append(all, objects...)
	}
	set, err = manifest.New(all...)
	return set, true, err
}
