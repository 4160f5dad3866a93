package authservice

import (
	"net/http/httptest"
	"testing"
	"time"
)

// Anonymous requests, however many, take no memory and no login from anybody.
func TestAnonymousRequestsUndoNoLogin(t *testing.T) {
	fake := newFake(t)
	s := newService(t, fake, Config{Now: fake.clock.now})
	b := newBrowser(t, newGateway(t, s, fake))
	first := fake.begin(b, "/first")
	for range maxEnded + 100 {
		s.ServeHTTP(httptest.NewRecorder(), request("GET", "/"))
	}
	if n := len(s.ended.entries) + len(s.sessions.entries); n != 0 {
		t.Errorf("%d entries are kept of who has not logged in", n)
	}
	if r := b.get(callback(first)); r.status != 302 || r.location != "/first" {
		t.Errorf("the login that was under way: got %d to %q", r.status, r.location)
	}
}

func TestSealer(t *testing.T) {
	clock := newClock()
	s, err := newSealer(clock.now)
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSealer(clock.now)
	if err != nil {
		t.Fatal(err)
	}
	sealed := s.seal("a", time.Minute, []byte("content"))
	if got, ok := s.open("a", sealed); !ok || string(got) != "content" {
		t.Errorf("got %q, %v", got, ok)
	}
	for name, text := range map[string]string{"cut": sealed[:len(sealed)-4], "changed": "AAAA" + sealed[4:], "empty": "", "no base64": sealed + "=", "short": "AAAA"} {
		if _, ok := s.open("a", text); ok {
			t.Errorf("%s: opened", name)
		}
	}
	if _, ok := s.open("b", sealed); ok {
		t.Error("opened for another purpose")
	}
	if _, ok := other.open("a", sealed); ok {
		t.Error("opened with another key")
	}
	clock.move(time.Minute - time.Millisecond)
	if _, ok := s.open("a", sealed); !ok {
		t.Error("ended early")
	}
	clock.move(time.Millisecond)
	if _, ok := s.open("a", sealed); ok {
		t.Error("outlives its time")
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
	if x.put(keyOf("b"), "other") {
		t.Error("a second value under one key")
	}
	if !x.remove(keyOf("b")) {
		t.Error("was not there")
	}
	if _, ok := x.get(keyOf("b")); ok || x.remove(keyOf("b")) {
		t.Error("removed and still there")
	}
	clock.move(time.Minute)
	if _, ok := x.get(keyOf("c")); ok {
		t.Error("expired and still there")
	}
	x.put(keyOf("d"), "D")
	if x.order.Len() != 1 || len(x.entries) != 1 {
		t.Errorf("got %d and %d entries, want 1", x.order.Len(), len(x.entries))
	}
}
