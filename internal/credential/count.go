package credential

import "sync/atomic"

// Count is how often a cache knew the answer, and how often it had to be found.
type Count struct{ Hits, Misses atomic.Uint64 }

func (c *Count) note(hit bool) {
	if hit {
		c.Hits.Add(1)
	} else {
		c.Misses.Add(1)
	}
}

// Count is how often a session was known.
func (s *Sessions) Count() *Count { return &s.count }

// Count is how often a token had been verified before.
func (t *Tokens) Count() *Count { return &t.count }
