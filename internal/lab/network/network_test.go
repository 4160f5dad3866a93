package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/net/nettest"
)

func TestConnectionsCarryPodAddresses(t *testing.T) {
	for _, test := range []struct {
		name     string
		network  *Network
		from, to string
	}{
		{"in memory", &Network{}, "10.244.0.7", "10.244.0.9:8080"},
		{"loopback", &Network{Loopback: netip.MustParsePrefix("127.66.0.0/16")}, "127.66.0.7", "127.66.0.9:18473"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.network.Loopback.IsValid() && runtime.GOOS != "linux" {
				t.Skip("addresses of 127.0.0.0/8 other than 127.0.0.1 exist on Linux only")
			}
			from, to := netip.MustParseAddr(test.from), netip.MustParseAddrPort(test.to)
			l, err := test.network.Listen(to)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if _, err := test.network.Listen(to); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("second Listen: got %v, want address in use", err)
			}
			done := make(chan error, 1)
			go func() {
				c, err := l.Accept()
				if err == nil {
					_, err = io.WriteString(c, c.RemoteAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Addr().String())
					c.Close()
				}
				done <- err
			}()
			c, err := test.network.Dial(context.Background(), from, to)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if err := errors.Join(err, <-done); err != nil {
				t.Fatal(err)
			}
			if string(got) != test.from {
				t.Errorf("the listener saw %q, want %q", got, test.from)
			}
			if ap, err := AddrPort(c.LocalAddr()); err != nil || ap.Addr() != from {
				t.Errorf("LocalAddr = %v, %v; want %s", ap, err, from)
			}
			l.Close()
			if _, err := test.network.Dial(context.Background(), from, to); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("after Close: got %v, want connection refused", err)
			}
		})
	}
}

// An in-memory connection keeps the rules of net.Conn.
func TestConn(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.244.0.7:40000"), netip.MustParseAddrPort("10.244.0.9:8080")
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, c2 = newPipe(a, b)
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

// A peer that answers and closes without reading does not fail the writer, and
// its answer can still be read.
func TestAnAnswerBeforeTheRequestIsRead(t *testing.T) {
	client, server := newPipe(netip.MustParseAddrPort("10.244.0.7:40000"), netip.MustParseAddrPort("10.244.0.9:8080"))
	if _, err := io.WriteString(client, "request and body"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(server, "answer"); err != nil {
		t.Fatal(err)
	}
	server.Close()
	got, err := io.ReadAll(client)
	if string(got) != "answer" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := io.WriteString(client, "more"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("writing to a closed peer: got %v, want a broken pipe", err)
	}
}

// A large request that is refused early gets the refusal, every time.
func TestForHTTP1DeliversAnEarlyAnswer(t *testing.T) {
	n := &Network{}
	from, to := netip.MustParseAddr("10.244.0.7"), netip.MustParseAddrPort("10.244.0.9:8080")
	l, err := n.Listen(to)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusUnauthorized) })}
	done := make(chan struct{})
	go func() { _ = server.Serve(l); close(done) }()
	defer func() { server.Close(); <-done }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := n.Dial(ctx, from, to)
		return ForHTTP1(c), err
	}}}
	for range 20 {
		resp, err := client.Post("http://pod/", "application/json", io.LimitReader(zeros{}, 4<<20))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Fatalf("got %d", resp.StatusCode)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A server of this machine that listens on every address answers on a pod's
// address too: it is no pod's port. Nor is an address outside of the pods' range.
func TestLoopbackReachesNothingOfThisMachine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("addresses of 127.0.0.0/8 other than 127.0.0.1 exist on Linux only")
	}
	machine, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	port := uint16(machine.Addr().(*net.TCPAddr).Port)
	n := &Network{Loopback: netip.MustParsePrefix("127.66.0.0/16")}
	from, pod := netip.MustParseAddr("127.66.0.7"), netip.AddrPortFrom(netip.MustParseAddr("127.66.0.9"), port)
	if c, err := net.Dial("tcp", pod.String()); err != nil {
		t.Fatalf("without the network it must answer, or this test shows nothing: %v", err)
	} else {
		c.Close()
	}
	for _, to := range []netip.AddrPort{pod, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)} {
		if c, err := n.Dial(context.Background(), from, to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial %s: got %v, %v; want it refused", to, c, err)
		}
	}
	for _, addr := range []string{"127.0.0.1:0", "0.0.0.0:0", "10.244.0.7:0"} {
		if l, err := n.Listen(netip.MustParseAddrPort(addr)); err == nil {
			l.Close()
			t.Errorf("Listen %s: a pod outside of the range must be refused", addr)
		}
	}
	if err := n.Open(pod); err != nil {
		t.Fatal(err)
	}
	c, err := n.Dial(context.Background(), from, pod)
	if err != nil {
		t.Fatalf("a port that is said to be open: %v", err)
	}
	c.Close()
}
