//go:build e2e

package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// exchangeH2 sends one HTTP/2 request of exactly these headers and gives the status,
// or "refused" where there is none, and what reached the upstream.
func (p *pair) exchangeH2(t *testing.T, who string, headers [][2]string, body string) (status, seen string) {
	t.Helper()
	p.up.take()
	status = p.sendH2(t, who, headers, body)
	return status, p.up.take()
}

func (p *pair) sendH2(t *testing.T, who string, headers [][2]string, body string) (status string) {
	t.Helper()
	c, err := net.Dial("tcp", p.addr[who])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range headers {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	rest := block.Bytes()
	first := rest[:min(len(rest), 16000)]
	rest = rest[len(first):]
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: body == "", EndHeaders: len(rest) == 0}); err != nil {
		t.Fatal(err)
	}
	for len(rest) > 0 {
		part := rest[:min(len(rest), 16000)]
		rest = rest[len(part):]
		if err := f.WriteContinuation(1, len(rest) == 0, part); err != nil {
			return "refused"
		}
	}
	if body != "" {
		if err := f.WriteData(1, true, []byte(body)); err != nil {
			return "refused"
		}
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			if status == "" {
				status = "refused"
			}
			return status
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if s := frame.PseudoValue("status"); s != "" {
				status += s
			} else {
				for _, h := range frame.Fields {
					status += " trailer " + h.Name + "=" + h.Value
				}
			}
			if frame.StreamEnded() {
				return status
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				return status
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return status + "refused"
		}
	}
}

func TestRequestsOverHTTP2(t *testing.T) {
	p := newPair(t)
	base := [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/a"}}
	with := func(more ...[2]string) [][2]string { return append(append([][2]string{}, base...), more...) }
	change := func(name, value string) [][2]string {
		out := append([][2]string{}, base...)
		for i := range out {
			if out[i][0] == name {
				out[i][1] = value
			}
		}
		return out
	}
	without := func(name string) (out [][2]string) {
		for _, h := range base {
			if h[0] != name {
				out = append(out, h)
			}
		}
		return out
	}
	var many [][2]string
	for i := range 101 {
		many = append(many, [2]string{fmt.Sprintf("x-%d", i), "1"})
	}
	post := func(more ...[2]string) [][2]string { return append(change(":method", "POST"), more...) }
	for _, tt := range []struct {
		name    string
		headers [][2]string
		body    string
		ours    string
	}{
		{"plain", base, "", ""},
		{"length", post([2]string{"content-length", "2"}), "hi", ""},
		{"length twice", post([2]string{"content-length", "2"}, [2]string{"content-length", "2"}), "hi", ""},
		{"two lengths", post([2]string{"content-length", "2"}, [2]string{"content-length", "3"}), "hi", ""},
		{"wrong length", post([2]string{"content-length", "3"}), "hi", ""},
		{"length list", post([2]string{"content-length", "2,2"}), "hi", ""},
		{"length +2", post([2]string{"content-length", "+2"}), "hi", ""},
		{"length empty", post([2]string{"content-length", ""}), "hi", ""},
		{"no length", post(), "hi", ""},
		{"empty authority", change(":authority", ""), "", ""},
		{"no authority", without(":authority"), "", ""},
		{"host instead", append(without(":authority"), [2]string{"host", "b"}), "", ""},
		{"host too", with([2]string{"host", "b"}), "", ""},
		{"same host too", with([2]string{"host", "a"}), "", ""},
		{"two hosts", append(without(":authority"), [2]string{"host", "b"}, [2]string{"host", "c"}), "", ""},
		{"authority twice", with([2]string{":authority", "b"}), "", ""},
		{"authority with user", change(":authority", "u@a"), "", ""},
		{"authority with path", change(":authority", "a/b"), "", ""},
		{"absolute path", change(":path", "http://b/a"), "", ""},
		{"empty path", change(":path", ""), "", ""},
		{"path without slash", change(":path", "a"), "", ""},
		{"path *", change(":path", "*"), "", ""},
		{"options *", append(without(":method")[1:], [2]string{":method", "OPTIONS"}, [2]string{":path", "*"}), "", ""},
		{"no path", without(":path"), "", ""},
		{"path with space", change(":path", "/a b"), "", ""},
		{"path with tab", change(":path", "/a\tb"), "", ""},
		{"path with latin1", change(":path", "/\xe9"), "", ""},
		{"path with fragment", change(":path", "/a#b"), "", ""},
		{"path with invalid escape", change(":path", "/a%zz"), "", "refused"},
		{"scheme https", change(":scheme", "https"), "", ""},
		{"scheme ftp", change(":scheme", "ftp"), "", "refused"},
		{"no scheme", without(":scheme"), "", ""},
		{"no method", without(":method"), "", ""},
		{"method frob", change(":method", "FROB"), "", ""},
		{"method lower", change(":method", "get"), "", ""},
		{"method with space", change(":method", "GE T"), "", ""},
		{"connect", change(":method", "CONNECT"), "", ""},
		{"unknown pseudo", with([2]string{":x", "1"}), "", ""},
		{"pseudo after", with([2]string{"x", "1"}, [2]string{":scheme", "http"}), "", ""},
		{"protocol", append(change(":method", "CONNECT"), [2]string{":protocol", "websocket"}), "", ""},
		{"connection", with([2]string{"connection", "close"}), "", ""},
		{"connection nominates", with([2]string{"connection", "x-who"}, [2]string{"x-who", "1"}), "", ""},
		{"transfer-encoding", post([2]string{"transfer-encoding", "chunked"}), "hi", ""},
		{"upgrade", with([2]string{"upgrade", "websocket"}), "", ""},
		{"keep-alive", with([2]string{"keep-alive", "1"}), "", ""},
		{"proxy-connection", with([2]string{"proxy-connection", "1"}), "", ""},
		{"te gzip", with([2]string{"te", "gzip"}), "", ""},
		{"te trailers", with([2]string{"te", "trailers"}), "", ""},
		{"upper case name", with([2]string{"X-Upper", "1"}), "", ""},
		{"name with space", with([2]string{"x y", "1"}), "", ""},
		{"empty name", with([2]string{"", "1"}), "", ""},
		{"lf in value", with([2]string{"x", "1\nkubeflow-userid: a"}), "", ""},
		{"null in value", with([2]string{"x", "1\x00"}), "", ""},
		{"control in value", with([2]string{"x", "1\x01"}), "", ""},
		{"blank around value", with([2]string{"x", " 1 "}), "", ""},
		{"underscore", with([2]string{"kubeflow_userid", "1"}), "", ""},
		{"cookies", with([2]string{"cookie", "a=1"}, [2]string{"cookie", "b=2"}), "", ""},
		{"95 headers", with(many[:95]...), "", ""},
		{"96 headers", with(many[:96]...), "", ""},
		{"97 headers", with(many[:97]...), "", ""},
		{"101 headers", with(many...), "", ""},
		{"50 KB", with([2]string{"x", strings.Repeat("x", 50<<10)}), "", ""},
		{"61 KB", with([2]string{"x", strings.Repeat("x", 61<<10)}), "", ""},
		{"trailer header", post([2]string{"trailer", "kubeflow-userid"}), "hi", ""},
		{"expect", post([2]string{"expect", "100-continue"}, [2]string{"content-length", "2"}), "hi", ""},
	} {
		es, eseen := p.exchangeH2(t, "envoy", tt.headers, tt.body)
		os, oseen := p.exchangeH2(t, "ours", tt.headers, tt.body)
		if es == "refused" && strings.HasPrefix(os, "4") {
			os = "refused" // Envoy ends the stream or the connection, ours answers
		}
		compare(t, tt.name, es, eseen, os, oseen, tt.ours)
	}
}
