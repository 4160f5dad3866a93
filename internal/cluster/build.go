package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/snapshot"
)

// Changes come in groups. A group has come to its end when nothing has changed for
// quiet; however long it goes on, what came first is in force after atMost and the
// time that making the parts takes.
const (
	quiet  = 50 * time.Millisecond
	atMost = 500 * time.Millisecond
)

// mark notes that a part is not as the cluster is.
func (c *Cluster) mark(p snapshot.Part) {
	c.marked[p].CompareAndSwap(0, time.Now().UnixNano())
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// build makes what is marked, until ctx ends.
func (c *Cluster) build(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.settle(ctx)
		if err := c.options.Aside(func() error { c.make(); return nil }); err != nil {
			c.options.Say("%v", err)
		}
	}
}

// settle waits for the end of a group of changes.
func (c *Cluster) settle(ctx context.Context) {
	limit := time.NewTimer(atMost)
	defer limit.Stop()
	for {
		pause := time.NewTimer(quiet)
		select {
		case <-ctx.Done():
		case <-limit.C:
		case <-pause.C:
		case <-c.wake:
			pause.Stop()
			continue
		}
		pause.Stop()
		return
	}
}

// make makes the parts that are marked and puts each in force at once: before the
// first whole snapshot, none.
func (c *Cluster) make() {
	whole := true
	for p := range snapshot.Parts {
		if c.marked[p].Load() == 0 {
			continue
		}
		if !c.part(p) {
			whole = false
			continue
		}
		if c.synced.Load() {
			c.options.Swap(c.snapshot)
		}
		c.working[p].Store(0)
	}
	if whole && !c.synced.Load() {
		c.synced.Store(true) // before: who is told of the snapshot may ask for its age
		c.options.Swap(c.snapshot)
	}
}

// part makes one part. It is false while its objects are not listed yet or when it
// cannot be made; then what was in force stays, and its age tells.
func (c *Cluster) part(p snapshot.Part) bool {
	c.working[p].Store(c.marked[p].Load())
	c.marked[p].Store(0)
	set, ready, err := c.set(p)
	var next *authorizer.Snapshot
	var problems error
	if ready && err == nil {
		next, problems, err = update(c.snapshot, p, set, c.options.Config)
	}
	c.troubles.set("the snapshot's "+p.String()+" stay as they were", err)
	if !ready || err != nil {
		c.marked[p].Store(c.working[p].Swap(0))
		return false
	}
	c.troubles.set("objects that count for nothing among the "+p.String(), problems)
	c.snapshot = next
	return true
}

// update is snapshot.Update. A fault in it leaves what was in force.
func update(before *authorizer.Snapshot, p snapshot.Part, set *manifest.Set, cfg authorizer.Config) (s *authorizer.Snapshot, problems, err error) {
	defer func() {
		if r := recover(); r != nil {
			s, problems, err = nil, nil, errors.New("panic: "+fmt.Sprint(r))
		}
	}()
	return snapshot.Update(before, p, set, cfg)
}
