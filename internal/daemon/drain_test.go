package daemon

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/credentials/insecure"
)

// TestDrain: after the signal readiness goes first, then what is under way is
// finished, and nothing new is taken.
func TestDrain(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-release
		w.WriteHeader(http.StatusTeapot)
	}))
	defer login.Close()
	r := start(t, storyDirs(t), func(c *Config) {
		c.Listen.Linger = 4 * time.Second // long enough for a check on a busy machine
		c.Authorizer.Login.Delegate.URL = login.URL
		c.Authorizer.Login.Delegate.Timeout = 10 * time.Second
	})
	r.ready(t)
	conn := r.dial(t, insecure.NewCredentials())
	got := make(chan string, 1)
	go func() { got <- ask(t, conn, check("1.2.3.4", outside, "kubeflow.example.com", "/")) }()
	<-asked
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	eventually(t, "not ready while lingering", func() bool {
		status, body := r.get(t, "/readyz")
		return status == http.StatusServiceUnavailable && body == "stopping\n"
	})
	expect(t, r.dial(t, insecure.NewCredentials()), check(podAddress(t), inside, modelHost, modelPath), "allow")
	checks, _ := r.Addrs()
	eventually(t, "new connections refused", func() bool {
		c, err := net.Dial("tcp", checks.String())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	select {
	case s := <-got:
		t.Fatalf("answered %s before the login did", s)
	case err := <-ended:
		t.Fatalf("ended with a check under way: %v", err)
	default:
	}
	close(release)
	if s := <-got; s != "418 " {
		t.Errorf("got %s", s)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := strings.Count(r.decisions.String(), "decision"); n != 2 {
		t.Errorf("got %d decision lines, want 2: what is gathered is written at the end", n)
	}
}

// TestDrainIsBounded: a check that does not end is not waited for for ever.
func TestDrainIsBounded(t *testing.T) {
	asked := make(chan struct{})
	login := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { close(asked); <-req.Context().Done() }))
	defer login.Close()
	r := start(t, storyDirs(t), func(c *Config) {
		c.Listen.Drain = 100 * time.Millisecond
		c.Authorizer.Login.Delegate.URL = login.URL
		c.Authorizer.Login.Delegate.Timeout = time.Minute
	})
	r.ready(t)
	conn := r.dial(t, insecure.NewCredentials())
	got := make(chan string, 1)
	go func() { got <- ask(t, conn, check("1.2.3.4", outside, "kubeflow.example.com", "/")) }()
	<-asked
	begin := time.Now()
	if err := r.stop(); err != nil || time.Since(begin) > 4*time.Second {
		t.Errorf("got %v after %s", err, time.Since(begin))
	}
	<-got
	if !strings.Contains(r.said.String(), "not finished") {
		t.Errorf("got %q", r.said.String())
	}
}
