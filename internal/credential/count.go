package credential

import "postern.dev/postern/internal/passport"

// Count is how often a cache knew the answer, and how often it had to be found.
type Count = passport.Count

// Count is how often a session was known.
func (s *Sessions) Count() *Count { return &s.count }

// Count is how often a token had been verified before.
func (t *Tokens) Count() *Count { return &t.count }
