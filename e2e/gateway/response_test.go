//go:build e2e

package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sort"
	"strings"
	"testing"
	"time"
)

// answer is what a client gets when the upstream responds so: each response of the
// exchange, informational ones included, without what differs from run to run.
func (p *pair) answer(t *testing.T, who, respond string) string {
	t.Helper()
	p.up.mu.Lock()
	p.up.respond = respond
	p.up.mu.Unlock()
	c, err := net.Dial("tcp", p.addr[who])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "GET /a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	var all []string
	for r := bufio.NewReader(c); ; {
		resp, err := http.ReadResponse(r, &http.Request{Method: "GET"})
		if err != nil {
			return strings.Join(all, " THEN ")
		}
		body, err := io.ReadAll(resp.Body)
		text := fmt.Sprintf("%d %.60q", resp.StatusCode, body)
		if strings.Contains(string(body), "upstream connect error") {
			text = fmt.Sprintf("%d", resp.StatusCode) // why is said in words of one's own
		} else {
			var lines []string
			for name, values := range resp.Header {
				switch name {
				case "Date", "X-Envoy-Upstream-Service-Time", "Content-Length":
				default:
					lines = append(lines, fmt.Sprintf("%s: %.40s", strings.ToLower(name), strings.Join(values, ",")))
				}
			}
			for name, values := range resp.Trailer {
				if len(values) == 0 { // only announced
					continue
				}
				lines = append(lines, "trailer "+name+": "+strings.Join(values, ","))
			}
			sort.Strings(lines)
			text += " " + strings.Join(lines[:min(len(lines), 8)], " | ")
		}
		if err != nil {
			text += " broken"
		}
		all = append(all, text)
	}
}

func TestResponsesOnTheWire(t *testing.T) {
	p := newPair(t)
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Secret: s\r\n\r\nok"
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "X-%d: 1\r\n", i)
		}
		return b.String()
	}
	for _, tt := range []struct{ name, respond, ours string }{
		{"plain", ok, ""},
		{"100 first", "HTTP/1.1 100 Continue\r\nX-Secret: s\r\n\r\n" + ok, ""},
		{"102 first", "HTTP/1.1 102 Processing\r\nX-Secret: s\r\n\r\n" + ok, ""},
		{"103 first", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Secret: s\r\n\r\n" + ok, ""},
		{"199 first", "HTTP/1.1 199 X\r\nX-Secret: s\r\n\r\n" + ok, ""},
		{"101 unasked", "HTTP/1.1 101 X\r\nX-Secret: s\r\n\r\n" + ok, `502`},
		{"101 unasked, with upgrade", "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + ok, `502`},
		{"many 103", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 20) + ok, ""},
		{"trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T, X-Secret\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\nX-Secret: s\r\n\r\n", ""},
		{"trailers undeclared", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n", ""},
		{"79 KB", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: " + strings.Repeat("x", 79<<10) + "\r\n\r\nok", ""},
		{"80 KB", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\nok", ""},
		{"200 KB", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: " + strings.Repeat("x", 200<<10) + "\r\n\r\nok", ""},
		{"99 headers", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + many(98) + "\r\nok", ""},
		{"100 headers", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + many(99) + "\r\nok", ""},
		{"101 headers", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + many(100) + "\r\nok", ""},
		// net/http reads each of these answers as one, and writes its length anew.
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", ""},
		{"length twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", `200 "ok" server: istio-envoy | x-added: by-the-route`},
		{"length and chunked", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", `200 "ok" server: istio-envoy | x-added: by-the-route`},
		{"until the end", "HTTP/1.1 200 OK\r\n\r\nok", ""},
		{"cut", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", ""},
		{"cut chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", ""},
		{"1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", ""},
		{"1.2", "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", ""},
		{"2.0", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", ""},
		{"nothing", "\x00", ""},
		{"600", "HTTP/1.1 600 X\r\nContent-Length: 2\r\n\r\nok", ""},
		{"99", "HTTP/1.1 99 X\r\nContent-Length: 2\r\n\r\nok", ""},
		{"204 with a body", "HTTP/1.1 204 X\r\nContent-Length: 2\r\n\r\nok", ""},
		{"304", "HTTP/1.1 304 X\r\nEtag: x\r\n\r\n", ""},
		{"folded", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: 1\r\n 2\r\n\r\nok", ""},
		{"bad name", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX(: 1\r\n\r\nok", ""},
		{"null in value", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: 1\x002\r\n\r\nok", ""},
		{"latin1", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: \xe9\r\n\r\nok", ""},
		{"nominates", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-who, close\r\nX-Who: 1\r\n\r\nok", ""},
		{"keep-alive", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nTE: x\r\nUpgrade: x\r\n\r\nok", `200 "ok" server: istio-envoy | x-added: by-the-route`},
		{"server and date", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\nVia: y\r\n\r\nok", ""},
		{"two cookies", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nok", ""},
		{"its own header twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Added: theirs\r\nx-secret: 1\r\nX_Secret: 2\r\n\r\nok", ""},
		{"x-envoy headers", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Envoy-Degraded: 1\r\nX-Envoy-Immediate-Health-Check-Fail: 1\r\n\r\nok", ""},
		{"no content-type", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", ""},
	} {
		e, o := p.answer(t, "envoy", tt.respond), p.answer(t, "ours", tt.respond)
		want := e
		if tt.ours != "" {
			want = tt.ours
		}
		if o != want || tt.ours == e {
			t.Errorf("%s:\nours  %.300s\nwant  %.300s\nEnvoy %.300s", tt.name, o, want, e)
		}
	}
}
