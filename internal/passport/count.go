package passport

import "sync/atomic"

// Count is how often a cache knew the answer, and how often it had to be found.
type Count struct{ Hits, Misses atomic.Uint64 }

// Note counts one question.
func (c *Count) Note(hit bool) {
	if hit {
		c.Hits.Add(1)
	} else {
		c.Misses.Add(1)
	}
}

// Counts are how often a passport had been made before, and been checked before.
func (k *Keys) Counts() (mint, check *Count) { return &k.mints, &k.checks }
