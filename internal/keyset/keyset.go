// Package keyset holds the public keys by which an issuer's tokens are checked:
// fixed ones, or such as are fetched, kept, and fetched again.
package keyset

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// keyInterval is the least time between two fetches of one key set: so often
	// can a token with an unknown kid make Postern ask.
	keyInterval = 10 * time.Second
	// keyAge is how old a set may be before it is fetched again beside the
	// requests that use it.
	keyAge = 5 * time.Minute
	// fetchTimeout bounds a fetch, whoever still waits for it.
	fetchTimeout = 5 * time.Second
)

// ErrUnknown is what Find returns when the issuer has no such key. Any other error
// says that nobody can tell at the moment.
var ErrUnknown = errors.New("the issuer has no key by which this token can be checked")

// Set holds an issuer's keys. Those that are fetched are so when they are first
// needed, when a token names a key that is not among them, and from time to time.
// When the issuer cannot be reached the last keys go on. A Set is safe for use by
// several goroutines.
type Set struct {
	fetch   func(context.Context) ([]byte, error) // nil for fixed keys
	now     func() time.Time
	current atomic.Pointer[Keys]

	mu      sync.Mutex
	flight  *flight   // the fetch under way
	tried   time.Time // when the last one began
	failed  error     // how it ended
	closed  bool
	stop    context.CancelFunc
	running sync.WaitGroup
}

// flight is one fetch; it outlives those who wait for it.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

// Fixed reads a key set (JWKS) that does not change.
func Fixed(text []byte) (*Set, error) {
	set, err := readJWKS(text)
	if err != nil {
		return nil, err
	}
	k := &Set{}
	k.current.Store(set)
	return k, nil
}

// Fetched are keys that fetch gets as a JWKS. fetch must bound what it reads.
func Fetched(fetch func(context.Context) ([]byte, error), now func() time.Time) *Set {
	return &Set{fetch: fetch, now: now}
}

// Close ends a fetch under way and waits for it. Keys that are known stay.
func (k *Set) Close() {
	k.mu.Lock()
	k.closed = true
	if k.stop != nil {
		k.stop()
	}
	k.mu.Unlock()
	k.running.Wait()
}

// Current is the state of the keys now: the same pointer as long as they are the
// same, nil before the first fetch.
func (k *Set) Current() *Keys { return k.current.Load() }

// Find gives the keys for a token, and the state they are of.
func (k *Set) Find(ctx context.Context, kid, alg string) ([]jose.JSONWebKey, *Keys, error) {
	set := k.current.Load()
	if found := set.find(kid, alg); len(found) > 0 {
		k.Renew()
		return found, set, nil
	}
	err := k.refresh(ctx)
	if set = k.current.Load(); len(set.find(kid, alg)) > 0 {
		return set.find(kid, alg), set, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return nil, nil, ErrUnknown
}

// Renew fetches an old set again, and does not wait for it.
func (k *Set) Renew() {
	if k.fetch == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now().Sub(k.tried) >= keyAge || k.failed != nil && k.now().Sub(k.tried) >= keyInterval {
		k.begin()
	}
}

// refresh fetches the set, or waits for the fetch under way, unless the last one
// began a moment ago.
func (k *Set) refresh(ctx context.Context) error {
	if k.fetch == nil {
		return nil
	}
	k.mu.Lock()
	f := k.flight
	if f == nil {
		if !k.tried.IsZero() && k.now().Sub(k.tried) < keyInterval {
			defer k.mu.Unlock()
			return k.failed
		}
		f = k.begin()
	}
	k.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin starts a fetch if there is none. k.mu is held.
func (k *Set) begin() *flight {
	if k.flight != nil {
		return k.flight
	}
	f := &flight{done: make(chan struct{})}
	if k.closed {
		f.err = errors.New("closed")
		close(f.done)
		return f
	}
	ctx, stop := context.WithTimeout(context.Background(), fetchTimeout)
	k.flight, k.tried, k.stop = f, k.now(), stop
	k.running.Go(func() {
		defer stop()
		set, err := k.get(ctx)
		k.mu.Lock()
		if have := k.current.Load(); err == nil && (have == nil || have.print != set.print) {
			k.current.Store(set)
		}
		k.flight, k.failed, f.err = nil, err, err
		k.mu.Unlock()
		close(f.done)
	})
	return f
}

func (k *Set) get(ctx context.Context) (set *Keys, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic while reading keys: %v", p)
		}
	}()
	text, err := k.fetch(ctx)
	if err != nil {
		return nil, err
	}
	return readJWKS(text)
}
