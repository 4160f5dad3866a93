//go:build e2e

package live

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy passes connections on. Silenced, those that are open pass nothing any more and
// stay open, as when a node or a firewall goes away; new ones work.
type proxy struct {
	addr string

	mu    sync.Mutex
	epoch int
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			epoch := p.epoch
			p.mu.Unlock()
			go p.pass(epoch, in, out)
			go p.pass(epoch, out, in)
		}
	}()
	return p
}

func (p *proxy) silence() {
	p.mu.Lock()
	p.epoch++
	p.mu.Unlock()
}

// pass swallows what comes once the connection is silenced. It closes nothing then.
func (p *proxy) pass(epoch int, from io.Reader, to io.WriteCloser) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		silenced := p.epoch != epoch
		p.mu.Unlock()
		if err != nil {
			if !silenced {
				to.Close()
			}
			return
		}
		if silenced {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
