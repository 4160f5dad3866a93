package gateway

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// Envoy's limits for headers. How many a request may have, the engine says.
const (
	maxHead       = 60 << 10 // bytes of a request (max_request_headers_kb)
	maxAnswerHead = 80 << 10 // bytes of an answer over HTTP/1
	maxHeaders    = 100      // of an answer (the default of a cluster's max_headers_count)
)

// heads are connections whose HTTP/1 request heads are looked at before net/http
// reads them. net/http drops, without a trace, what Envoy refuses: a second
// Content-Length, and one beside Transfer-Encoding.
type heads struct{ net.Listener }

func (l heads) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &headConn{Conn: c, r: bufio.NewReader(c)}, nil
}

// refusedHeader marks a request that stands in the place of a refused one. Its name
// is this process's secret, so that no client can write it.
var refusedHeader = "Postern-Refused-" + rand.Text()

// headConn passes on what it reads unchanged, but for a head that is refused: in its
// place net/http gets a request that says so, and then the end. Where this reader
// and net/http should disagree about the length of a body, net/http's word counts:
// then a head may be overlooked here, or a body be refused.
type headConn struct {
	net.Conn
	r *bufio.Reader

	state headState
	line  []byte // the part of a line that has come
	head  []byte // the lines of a head that have come
	out   []byte // to be passed on
	left  int64  // of the body or the chunk
	ended bool   // after a refused head
}

// headState is what the next bytes are.
type headState uint8

const (
	inHead headState = iota
	inBody
	inChunkSize
	inChunk
	inChunkEnd
	inTrailers
	inSomethingElse // HTTP/2, or whatever follows an upgrade: not looked at
)

func (c *headConn) Read(p []byte) (int, error) {
	for len(c.out) == 0 {
		if c.ended {
			return 0, io.EOF
		}
		switch c.state {
		case inSomethingElse:
			return c.r.Read(p)
		case inBody, inChunk:
			n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
			if c.left -= int64(n); c.left == 0 {
				c.state = map[headState]headState{inBody: inHead, inChunk: inChunkEnd}[c.state]
			}
			return n, err
		}
		part, err := c.r.ReadSlice('\n')
		c.line = append(c.line, part...)
		if err != nil && err != bufio.ErrBufferFull {
			return c.unfinished(p, err)
		}
		if err == nil || len(c.head)+len(c.line) > 2*maxHead {
			c.whole(c.line)
			c.line = nil
		}
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// unfinished gives what has come of a head or a line when no more does: at the end
// net/http says what is wrong with it; after a deadline, more may come.
func (c *headConn) unfinished(p []byte, err error) (int, error) {
	if err != io.EOF || len(c.head)+len(c.line) == 0 {
		return 0, err
	}
	c.out = append(c.head, c.line...)
	c.head, c.line, c.state = nil, nil, inSomethingElse
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// whole takes a line with its end.
func (c *headConn) whole(line []byte) {
	text := strings.TrimRight(string(line), "\r\n")
	switch c.state {
	case inHead:
		c.head = append(c.head, line...)
		switch {
		case text == "" || len(c.head) > maxHead:
			c.judge()
		case bytes.HasPrefix(c.head, []byte("PRI * HTTP/2.0\r\n")):
			c.out, c.head, c.state = c.head, nil, inSomethingElse
		}
		return
	case inChunkSize:
		size, _, _ := strings.Cut(text, ";")
		n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 62)
		switch {
		case err != nil:
			c.state = inSomethingElse // net/http refuses it and closes
		case n == 0:
			c.state = inTrailers
		default:
			c.left, c.state = int64(n), inChunk
		}
	case inChunkEnd:
		c.state = inChunkSize
	case inTrailers:
		if text == "" {
			c.state = inHead
		}
	}
	c.out = append(c.out, line...)
}

// judge passes a head on, or refuses it.
func (c *headConn) judge() {
	head := c.head
	c.head = nil
	f := framingOf(string(head))
	status := 0
	switch {
	case len(head) > maxHead:
		status = http.StatusRequestHeaderFieldsTooLarge
	case f.lengths > 1 || f.lengths > 0 && f.chunked:
		status = http.StatusBadRequest
	}
	if status != 0 {
		c.out = fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n%s: %d\r\n\r\n", refusedHeader, status)
		c.ended = true
		return
	}
	c.out = head
	switch {
	case f.upgrade:
		c.state = inSomethingElse
	case f.chunked:
		c.state = inChunkSize
	case f.length > 0:
		c.left, c.state = f.length, inBody
	}
}

// framing is what of a head says where its body ends.
type framing struct {
	lengths int   // Content-Length headers
	length  int64 // the last one's, 0 where it is no number: net/http refuses that
	chunked bool  // some Transfer-Encoding: net/http refuses any but chunked
	upgrade bool  // what follows may be another protocol; see serve
}

func framingOf(head string) framing {
	var f framing
	first, rest, _ := strings.Cut(head, "\n")
	f.upgrade = strings.HasPrefix(first, http.MethodConnect+" ")
	for line := range strings.Lines(rest) {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		if !ok || strings.HasPrefix(name, " ") || strings.HasPrefix(name, "\t") { // the end, or folded
			continue
		}
		switch strings.ToLower(name) {
		case "content-length":
			f.lengths++
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 62)
			if f.length = int64(n); err != nil {
				f.length = 0
			}
		case "transfer-encoding":
			f.chunked = true
		case "upgrade":
			f.upgrade = true
		}
	}
	return f
}

// CloseWrite lets net/http end its direction first, so that a client still reads
// the answer to a request that was not read to its end.
func (c *headConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}
