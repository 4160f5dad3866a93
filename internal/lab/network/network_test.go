package network

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
)

func TestConnectionsCarryPodAddresses(t *testing.T) {
	for _, test := range []struct {
		name     string
		network  *Network
		from, to string
	}{
		{"in memory", &Network{}, "10.244.0.7", "10.244.0.9:8080"},
		{"loopback", &Network{Loopback: true}, "127.66.0.7", "127.66.0.9:18473"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.network.Loopback && runtime.GOOS != "linux" {
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
