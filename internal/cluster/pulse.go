package cluster

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	beatEvery = 1500 * time.Millisecond
	// lost pulses in a row, and all connections are closed: they may lead to an address
	// where nobody is any more. An API server that is only slow is not pestered.
	lost       = 2
	dropSeldom = 10 * time.Second
)

// beat asks the API server for one small object again and again: a read that it
// answers from its storage and from no cache, so that it is known to have one. With an
// answer of any kind it is there.
func (c *Cluster) beat(ctx context.Context) {
	path := "/api/v1/namespaces/" + c.settings.Mesh + "/configmaps/istio"
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	missed, dropped := 0, time.Time{}
	for {
		at := time.Now()
		_, err := c.client.get(ctx, path, beatEvery)
		if err == nil || apierrors.IsNotFound(err) {
			c.pulse.Store(at.UnixNano())
			c.troubles.set("the API server", nil)
			missed = 0
		} else if ctx.Err() == nil {
			c.troubles.set("the API server", err)
			if missed++; missed >= lost && time.Since(dropped) > dropSeldom {
				c.client.drop()
				dropped = time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
