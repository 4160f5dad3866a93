//go:build e2e

package live

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// replicas are those that checks are sent to: the ready ones, as they were a moment
// ago, as a Service's endpoints reach a gateway.
type replicas struct {
	mu    sync.Mutex
	known []*posternd
	ready atomic.Pointer[[]*posternd]
}

func (r *replicas) add(d *posternd) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = append(r.known, d)
}

// look asks each for its readiness.
func (r *replicas) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ready []*posternd
	for _, d := range r.known {
		if resp, err := http.Get(d.web + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				ready = append(ready, d)
			}
		}
	}
	r.ready.Store(&ready)
}

// TestRollingRestart: under load each of two replicas is replaced, the new one first,
// as a Deployment with maxUnavailable 0 does it, and every check is answered as ever.
func TestRollingRestart(t *testing.T) {
	p := newPlace(t)
	p.linger = "2s"
	program := buildPosternd(t)
	kubeconfig := p.kubeconfig(t, p.token(t, "postern-system", "posternd"))
	one := func() *posternd {
		d := p.posternd(t, program, "--kubeconfig", kubeconfig)
		d.ready(t)
		return d
	}
	r := &replicas{}
	old := []*posternd{one(), one()}
	for _, d := range old {
		r.add(d)
	}
	r.look()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
				r.look()
			}
		}
	})
	var answered, failed atomic.Int64
	pod := call{from: p.addr(t, "default", "myapp-pod"), door: 8081, host: modelIn}
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ready := *r.ready.Load()
				if len(ready) == 0 {
					failed.Add(1)
					t.Error("no replica is ready")
					return
				}
				if got := ready[rand.IntN(len(ready))].ask(t, pod); got != "allow" {
					failed.Add(1)
					t.Errorf("got %s", got)
					return
				}
				answered.Add(1)
			}
		})
	}
	for _, d := range old {
		before := answered.Load()
		r.add(one())
		r.look()
		d.signal(syscall.SIGTERM)
		<-d.ended
		if answered.Load() == before {
			t.Error("nothing was asked meanwhile")
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d checks answered, %d failed, while both replicas were replaced", answered.Load(), failed.Load())
}
