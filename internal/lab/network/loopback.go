package network

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// Open says that another process listens on a pod's port.
func (n *Network) Open(addr netip.AddrPort) error {
	if !n.Loopback.Contains(addr.Addr()) {
		return fmt.Errorf("a pod at %s: with real addresses pods live in %s only", addr.Addr(), n.Loopback)
	}
	n.count(addr, 1)
	return nil
}

// Opened tells whether a pod listens there. In memory, Dial finds out.
func (n *Network) Opened(addr netip.AddrPort) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open[addr] > 0
}

func (n *Network) count(addr netip.AddrPort, by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == nil {
		n.open = map[netip.AddrPort]int{}
	}
	n.open[addr] += by
}

func (n *Network) listenTCP(addr netip.AddrPort) (net.Listener, error) {
	if err := n.Open(addr); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		n.count(addr, -1)
		return nil, err
	}
	return &tcpListener{Listener: l, closed: func() { n.count(addr, -1) }}, nil
}

// tcpListener closes its port in the network too.
type tcpListener struct {
	net.Listener
	once   sync.Once
	closed func()
}

func (l *tcpListener) Close() error {
	l.once.Do(l.closed)
	return l.Listener.Close()
}
