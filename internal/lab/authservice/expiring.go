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

// put adds a value under a new key.
func (x *expiring[V]) put(k key, v V) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.now()
	for e := x.order.Front(); e != nil; e = x.order.Front() {
		if x.order.Len() < x.max && now.Before(e.Value.(entry[V]).ends) {
			break
		}
		x.drop(e)
	}
	x.entries[k] = x.order.PushBack(entry[V]{k, v, now.Add(x.life)})
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

// take removes the value and gives it, to one caller only, if want agrees. If
// it does not, the value stays.
func (x *expiring[V]) take(k key, want func(V) bool) (v V, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.live(k)
	if !ok || !want(e.Value.(entry[V]).value) {
		return v, false
	}
	x.drop(e)
	return e.Value.(entry[V]).value, true
}

func (x *expiring[V]) remove(k key) bool {
	_, ok := x.take(k, func(V) bool { return true })
	return ok
}

// any tells whether a value satisfies want.
func (x *expiring[V]) any(want func(V) bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.now()
	for e := x.order.Back(); e != nil; e = e.Prev() {
		if it := e.Value.(entry[V]); now.Before(it.ends) && want(it.value) {
			return true
		}
	}
	return false
}

func (x *expiring[V]) live(k key) (*list.Element, bool) {
	e, ok := x.entries[k]
	return e, ok && x.now().Before(e.Value.(entry[V]).ends)
}

func (x *expiring[V]) drop(e *list.Element) {
	delete(x.entries, e.Value.(entry[V]).key)
	x.order.Remove(e)
}
