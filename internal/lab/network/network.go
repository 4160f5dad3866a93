// Package network is the pods' network inside `postern up`: connections that
// carry a pod's address without any address being configured on the machine.
//
// In memory, a connection is a pair of buffers whose ends report the addresses
// they stand for: nobody outside the process can reach a pod, or pretend to be
// one. On loopback, used with a real Envoy, pods are addresses of 127.0.0.0/8
// and connections are TCP.
package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// Network connects the addresses of pods. Its zero value is an in-memory one.
type Network struct {
	// Loopback, if valid, is the part of 127.0.0.0/8 where pods live: connections
	// are TCP. Only what pods opened there can be reached: what else of this
	// machine listens on every address answers on those too.
	Loopback netip.Prefix

	mu        sync.Mutex
	open      map[netip.AddrPort]int // what Listen and Open opened, with Loopback
	listeners map[netip.AddrPort]*listener
	nextPort  uint16
}

// Listen opens a pod's port.
func (n *Network) Listen(addr netip.AddrPort) (net.Listener, error) {
	if n.Loopback.IsValid() {
		return n.listenTCP(addr)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "pod", Addr: net.TCPAddrFromAddrPort(addr), Err: syscall.EADDRINUSE}
	}
	if n.listeners == nil {
		n.listeners = map[netip.AddrPort]*listener{}
	}
	l := &listener{network: n, addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial connects from a pod's address to another's port. An address nobody
// listens on refuses the connection at once.
func (n *Network) Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	if n.Loopback.IsValid() {
		if !n.Opened(to) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: syscall.ECONNREFUSED}
		}
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		return d.DialContext(ctx, "tcp", to.String())
	}
	n.mu.Lock()
	l := n.listeners[to]
	n.nextPort++
	src := netip.AddrPortFrom(from, 32768+n.nextPort%28000)
	n.mu.Unlock()
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: "pod", Source: net.TCPAddrFromAddrPort(src), Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	if l == nil {
		return nil, fail(syscall.ECONNREFUSED)
	}
	client, server := newPipe(src, to)
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, fail(syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, fail(ctx.Err())
	}
}

type listener struct {
	network *Network
	addr    netip.AddrPort
	conns   chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.network.mu.Lock()
		delete(l.network.listeners, l.addr)
		l.network.mu.Unlock()
	})
	return nil
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

// AddrPort reads a TCP address as an AddrPort, without zone and with an IPv4
// address in its short form.
func AddrPort(a net.Addr) (netip.AddrPort, error) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("address %v: got %T, want a TCP address", a, a)
	}
	ap := tcp.AddrPort()
	if !ap.IsValid() {
		return netip.AddrPort{}, errors.New("invalid TCP address")
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), nil
}
