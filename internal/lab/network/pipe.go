package network

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferSize is what one direction of a connection holds, as a socket's buffer
// does: a peer that answers before it has read everything, and closes, must not
// fail the writer. net.Pipe has no buffer and would.
const bufferSize = 64 << 10

// newPipe makes the two ends of a connection.
func newPipe(client, server netip.AddrPort) (net.Conn, net.Conn) {
	up, down := newStream(), newStream()
	return &conn{in: down, out: up, local: client, remote: server}, &conn{in: up, out: down, local: server, remote: client}
}

// stream is one direction.
type stream struct {
	mu      sync.Mutex
	changed sync.Cond
	buf     []byte
	ended   bool // the writer will write no more
	gone    bool // the reader reads no more

	readDeadline, writeDeadline deadline
}

// deadline is a time after which an operation fails.
type deadline struct {
	passed bool
	timer  *time.Timer
}

func newStream() *stream {
	s := &stream{}
	s.changed.L = &s.mu
	return s
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.gone:
			return 0, net.ErrClosed
		case s.readDeadline.passed:
			return 0, os.ErrDeadlineExceeded
		case len(s.buf) > 0:
			n := copy(p, s.buf)
			if s.buf = s.buf[n:]; len(s.buf) == 0 {
				s.buf = nil
			}
			s.changed.Broadcast()
			return n, nil
		case s.ended:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		}
		s.changed.Wait()
	}
}

func (s *stream) write(p []byte) (written int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.ended:
			return written, net.ErrClosed
		case s.writeDeadline.passed:
			return written, os.ErrDeadlineExceeded
		case s.gone:
			return written, syscall.EPIPE
		case len(p) == 0:
			return written, nil
		}
		if n := min(len(p), bufferSize-len(s.buf)); n > 0 {
			s.buf = append(s.buf, p[:n]...)
			p, written = p[n:], written+n
			s.changed.Broadcast()
			continue
		}
		s.changed.Wait()
	}
}

// end says that no more will be written, or, with gone, read.
func (s *stream) end(gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if gone {
		s.gone, s.buf = true, nil
	} else {
		s.ended = true
	}
	s.changed.Broadcast()
}

// set moves one of the stream's deadlines.
func (s *stream) set(d *deadline, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer, d.passed = nil, false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.passed = true
		s.changed.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.timer == timer { // not moved in the meantime
			d.passed = true
			s.changed.Broadcast()
		}
	})
	d.timer = timer
}

// conn is one end of an in-memory connection.
type conn struct {
	in, out       *stream
	local, remote netip.AddrPort
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

func (c *conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "pod", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close ends both directions. What was written before can still be read.
func (c *conn) Close() error {
	c.out.end(false)
	c.in.end(true)
	return nil
}

// CloseWrite ends this end's direction: the peer reads EOF.
func (c *conn) CloseWrite() error {
	c.out.end(false)
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.set(&c.in.readDeadline, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.set(&c.out.writeDeadline, t)
	return nil
}
