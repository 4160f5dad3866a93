//go:build e2e

package conformance

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"postern.dev/postern/internal/envoy"
)

// reply is what came back for a request.
type reply struct {
	status  int
	headers envoy.Headers // names lower-case, values of one name in their order
	body    string
	reset   string // HTTP/2: the stream or connection was reset with this code
}

func (r reply) get(name string) string {
	v, _ := r.headers.Get(name)
	return v
}

// client is one connection that is opened again when Envoy closed it.
type client struct {
	from  netip.Addr
	to    netip.AddrPort
	http2 bool
	conn  net.Conn
	r     *bufio.Reader

	framer *http2.Framer
	next   uint32 // the next stream
	block  bytes.Buffer
	enc    *hpack.Encoder
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
	}
	c.conn = nil
}

// send sends a request; on a connection that was closed meanwhile once more on a
// new one, after again.
func (c *client) send(q request, again func()) (reply, error) {
	for attempt := 0; ; attempt++ {
		fresh := c.conn == nil
		err := c.open()
		var r reply
		if err == nil {
			if c.http2 {
				r, err = c.exchange(q)
			} else {
				r, err = c.text(q)
			}
		}
		if err == nil {
			return r, nil
		}
		c.close()
		if fresh || attempt > 1 {
			if c.http2 && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
				return reply{reset: "connection closed"}, nil
			}
			return r, err
		}
		again()
	}
}

func (c *client) open() error {
	if c.conn != nil {
		return c.conn.SetDeadline(time.Now().Add(20 * time.Second))
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.from, 0)), Timeout: 5 * time.Second}
	conn, err := d.Dial("tcp", c.to.String())
	if err != nil {
		return err
	}
	c.conn, c.r = conn, bufio.NewReader(conn)
	_ = c.conn.SetDeadline(time.Now().Add(20 * time.Second))
	if !c.http2 {
		return nil
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return err
	}
	c.framer, c.next = http2.NewFramer(conn, c.r), 1
	c.framer.AllowIllegalWrites = true
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.block.Reset()
	c.enc = hpack.NewEncoder(&c.block)
	return c.framer.WriteSettings()
}

// text is an exchange over HTTP/1.
func (c *client) text(q request) (reply, error) {
	if _, err := io.WriteString(c.conn, q.raw()); err != nil {
		return reply{}, err
	}
	resp, err := http.ReadResponse(c.r, &http.Request{Method: q.method})
	if err != nil {
		return reply{}, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil && !(q.method == "CONNECT" && resp.StatusCode == http.StatusOK) {
		return reply{}, err
	}
	out := reply{status: resp.StatusCode, body: string(body)}
	for name, values := range resp.Header {
		for _, v := range values {
			out.headers = append(out.headers, envoy.Header{Name: strings.ToLower(name), Value: v})
		}
	}
	if resp.Close || resp.StatusCode == http.StatusSwitchingProtocols || q.method == "CONNECT" {
		c.close()
	}
	return out, nil
}

// exchange is one over HTTP/2.
func (c *client) exchange(q request) (reply, error) {
	id := c.next
	c.next += 2
	if err := c.headers(id, q.pseudo(), q.headers, q.body == "" && q.trailers == nil); err != nil {
		return reply{}, err
	}
	if q.body != "" {
		if err := c.framer.WriteData(id, q.trailers == nil, []byte(q.body)); err != nil {
			return reply{}, err
		}
	}
	if q.trailers != nil {
		if err := c.headers(id, nil, q.trailers, true); err != nil {
			return reply{}, err
		}
	}
	var out reply
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return out, err
		}
		done, err := c.frame(f, id, &out)
		if err != nil || done {
			return out, err
		}
	}
}

func (c *client) headers(id uint32, pseudo, headers envoy.Headers, end bool) error {
	c.block.Reset()
	for _, h := range pseudo {
		if err := c.enc.WriteField(hpack.HeaderField{Name: h.Name, Value: h.Value}); err != nil {
			return err
		}
	}
	for _, h := range headers {
		if err := c.enc.WriteField(hpack.HeaderField{Name: h.Name, Value: h.Value}); err != nil {
			return err
		}
	}
	return c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndStream: end, EndHeaders: true})
}

// frame takes one frame in; true when the stream is done.
func (c *client) frame(f http2.Frame, id uint32, out *reply) (bool, error) {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return false, nil
		}
		return false, c.framer.WriteSettingsAck()
	case *http2.PingFrame:
		return false, c.framer.WritePing(true, f.Data)
	case *http2.GoAwayFrame:
		if f.ErrCode != http2.ErrCodeNo {
			out.reset = "connection " + f.ErrCode.String()
			c.close()
			return true, nil
		}
		return false, errors.New("the connection ends") // with the next request
	case *http2.RSTStreamFrame:
		if f.StreamID != id {
			return false, nil
		}
		if f.ErrCode != http2.ErrCodeNo || out.status == 0 {
			out.reset = f.ErrCode.String()
		}
		return true, nil
	case *http2.MetaHeadersFrame:
		if f.StreamID != id {
			return false, nil
		}
		for _, h := range f.Fields {
			if h.Name == ":status" {
				status, err := strconv.Atoi(h.Value)
				if err != nil {
					return false, err
				}
				out.status = status
				continue
			}
			out.headers = append(out.headers, envoy.Header{Name: h.Name, Value: h.Value})
		}
		return f.StreamEnded(), nil
	case *http2.DataFrame:
		if n := uint32(f.Header().Length); n > 0 {
			if err := errors.Join(c.framer.WriteWindowUpdate(0, n), c.framer.WriteWindowUpdate(f.StreamID, n)); err != nil {
				return false, err
			}
		}
		if f.StreamID != id {
			return false, nil
		}
		out.body += string(f.Data())
		return f.StreamEnded(), nil
	}
	return false, nil
}

func (r reply) String() string {
	if r.reset != "" {
		return "reset " + r.reset
	}
	return fmt.Sprintf("%d %q", r.status, r.body)
}

// clients are one worker's connections.
type clients struct {
	pair *pair
	open map[string]*client
}

func (p *pair) clients() clients { return clients{p, map[string]*client{}} }

// of is the connection for a request.
func (c clients) of(q request) *client {
	key := fmt.Sprint(q.port, q.proto == "HTTP/2")
	if c.open[key] == nil {
		c.open[key] = &client{from: c.pair.client, to: netip.AddrPortFrom(c.pair.gateway, q.port), http2: q.proto == "HTTP/2"}
	}
	return c.open[key]
}

func (c clients) close() {
	for _, o := range c.open {
		o.close()
	}
}
