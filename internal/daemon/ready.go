package daemon

import (
	"cmp"
	"context"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"postern.dev/postern/internal/authorizer"
)

// serving says that models are judged.
func (d *Daemon) serving() {
	if !d.ready.Swap(true) && !d.draining.Load() {
		d.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	}
}

// recognise waits until the pods of a live cluster are known as they are: a replica
// that is ready before would refuse them where the one it replaces does not.
func (d *Daemon) recognise(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !d.synced.Load() || time.Since(d.cluster.PodsKnown()) > authorizer.PodsBelieved/2 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	d.serving()
}

// patience makes posternd ready without the cluster's objects after a while:
// people's requests do not need them, and an API server that is away must not
// close the dashboard too. Models are answered 503 until then.
func (d *Daemon) patience(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(cmp.Or(d.config.Listen.Patience, defaultPatience)):
	}
	if d.waited.Store(true); !d.ready.Load() && !d.draining.Load() {
		d.say("the cluster's objects are not known as they are yet: ready for people's requests, models are answered not_synced or pods_stale")
		d.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	}
}
