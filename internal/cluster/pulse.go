package cluster

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	beatEvery = 2 * time.Second
	// lost pulses in a row, and all connections are closed: they may lead to an address
	// where nobody is any more.
	lost = 2
)

// beat asks the API server for one small object again and again: a read that it
// answers from its storage and from no cache, so that it is known to have one. With an
// answer of any kind it is there.
func (c *Cluster) beat(ctx context.Context) {
	path := "/api/v1/namespaces/" + c.settings.Mesh + "/configmaps/istio"
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	missed := 0
	for {
		at := time.Now()
		_, err := c.client.get(ctx, path, beatEvery)
		if err == nil || apierrors.IsNotFound(err) {
			c.pulse.Store(at.UnixNano())
			c.troubles.set("the API server", nil)
			missed = 0
		} else if ctx.Err() == nil {
			c.troubles.set("the API server", err)
			if missed++; missed%lost == 0 {
				c.client.drop()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
