package authservice

import (
	"container/list"
	"sync"
	"time"
)

// expiring maps keys to values that are gone after a fixed time, counted from
// put, or earlier when there are more than max: then the oldest goes first.
type expiring[V any] struct {
	max  int
	life time.Duration
	now  func() time.Time

	mu      sync.Mutex
	entries map[key]*list.Element // of entry[V]
	order   *list.List            // oldest first
}

type entry[V any] struct {
	key   key
	value V
	ends  time.Time
}

func newExpiring[V any](limit int, life time.Duration, now func() time.Time) *expiring[V] {
	return &expiring[V]{max: limit, life: life, now: now, entries: map[key]*list.Element{}, order: list.New()}
}

// put adds a value under a new key; one that is there stays, which put says.
func (x *expiring[V]) put(k key, v V) (added bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, ok := x.live(k); ok {
		return false
	}
	now := x.now()
	for e := x.order.Front(); e != nil; e = x.order.Front() {
		if x.order.Len() < x.max && now.Before(e.Value.(entry[V]).ends) {
			break
		}
		x.drop(e)
	}
	x.entries[k] = x.order.PushBack(entry[V]{k, v, now.Add(x.life)})
	return true
}

func (x *expiring[V]) get(k key) (v V, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.live(k)
	if !ok {
		return v, false
	}
	return e.Value.(entry[V]).value, true
}

// remove tells whether the value was there, to one caller only.
func (x *expiring[V]) remove(k key) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.live(k)
	if ok {
		x.drop(e)
	}
	return ok
}

func (x *expiring[V]) live(k key) (*list.Element, bool) {
	e, ok := x.entries[k]
	return e, ok && x.now().Before(e.Value.(entry[V]).ends)
}

func (x *expiring[V]) drop(e *list.Element) {
	delete(x.entries, e.Value.(entry[V]).key)
	x.order.Remove(e)
}
