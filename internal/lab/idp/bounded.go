package idp

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dexidp/dex/storage"
)

// Anybody may begin a login, and Dex keeps each that has begun: by itself as many as
// come, for a day.
const (
	maxLogins = 4096
	loginLife = 20 * time.Minute
	maxTarget = 8 << 10 // bytes of a request's path and query, of which Dex keeps much
)

// bounded keeps the last maxLogins logins that have begun; the oldest go.
type bounded struct {
	storage.Storage

	mu    sync.Mutex
	begun []string // a ring of their ids
	next  int      // the oldest, when it is full
}

func (b *bounded) CreateAuthRequest(ctx context.Context, a storage.AuthRequest) error {
	if err := b.Storage.CreateAuthRequest(ctx, a); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.begun) < maxLogins {
		b.begun = append(b.begun, a.ID)
		return nil
	}
	oldest := b.begun[b.next]
	b.begun[b.next] = a.ID
	b.next = (b.next + 1) % maxLogins
	if err := b.Storage.DeleteAuthRequest(ctx, oldest); err != nil && !errors.Is(err, storage.ErrNotFound) { // it may have ended
		return err
	}
	return nil
}
