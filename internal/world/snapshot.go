package world

import (
	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/snapshot"
)

// Snapshot is what posternd knows of the world.
func (w *World) Snapshot(cfg authorizer.Config) (*authorizer.Snapshot, error) {
	return snapshot.Of(w.Set, snapshot.Placed(w.Topology.Pods()), cfg)
}
