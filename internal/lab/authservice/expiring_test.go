package authservice

import (
	"net/http/httptest"
	"testing"
	"time"
)

func TestPendingLoginsAreBounded(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Now: fake.clock.now})
	b := newBrowser(t, newGateway(t, s, fake))
	oldest := fake.begin(b, "/oldest")
	for range maxLogins {
		s.ServeHTTP(httptest.NewRecorder(), request("GET", "/"))
	}
	if got := s.logins.order.Len(); got != maxLogins || len(s.logins.entries) != maxLogins {
		t.Errorf("got %d and %d, want %d", got, len(s.logins.entries), maxLogins)
	}
	if r := b.get(callback(oldest)); r.status != 400 {
		t.Errorf("the oldest: got %d", r.status)
	}
}

func TestExpiring(t *testing.T) {
	clock := newClock()
	x := newExpiring[string](2, time.Minute, clock.now)
	x.put(keyOf("a"), "A")
	clock.move(30 * time.Second)
	x.put(keyOf("b"), "B")
	if v, ok := x.get(keyOf("a")); !ok || v != "A" {
		t.Errorf("got %q, %v", v, ok)
	}
	x.put(keyOf("c"), "C")
	if _, ok := x.get(keyOf("a")); ok {
		t.Error("the oldest is still there")
	}
	if _, ok := x.take(keyOf("b"), func(string) bool { return false }); ok {
		t.Error("taken against the will")
	}
	if v, ok := x.take(keyOf("b"), func(v string) bool { return v == "B" }); !ok || v != "B" {
		t.Errorf("got %q, %v", v, ok)
	}
	if _, ok := x.get(keyOf("b")); ok || x.remove(keyOf("b")) {
		t.Error("taken and still there")
	}
	clock.move(time.Minute)
	if _, ok := x.get(keyOf("c")); ok || x.any(func(string) bool { return true }) {
		t.Error("expired and still there")
	}
	x.put(keyOf("d"), "D")
	if x.order.Len() != 1 || len(x.entries) != 1 {
		t.Errorf("got %d and %d entries, want 1", x.order.Len(), len(x.entries))
	}
}
