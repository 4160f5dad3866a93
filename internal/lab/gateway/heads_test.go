package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

// What net/http drops without a trace is refused as Envoy does, also when it comes
// after other requests of the connection. e2e/gateway compares with a real Envoy.
func TestHeadsThatNetHTTPWouldTake(t *testing.T) {
	var got []string
	front := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = append(got, r.URL.Path+" "+string(body))
	}), http.HandlerFunc(allow))
	const (
		lengths = "POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi"
		both    = "POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\ntransfer-encoding:chunked\r\n\r\n0\r\n\r\n"
		chunked = "POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n"
		length  = "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n\r\nhi\n"
		plain   = "GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"
		smuggle = "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: " // a head that is a body
	)
	hidden := smuggle + fmt.Sprint(len(both)) + "\r\n\r\n" + both
	many := "GET /bad HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 100) + "\r\n"
	long := "GET /bad HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", maxHead) + "\r\n\r\n"
	for _, tt := range []struct {
		name, raw string
		statuses  string
		upstream  string
	}{
		{"lengths", lengths, "400", ""},
		{"both", both, "400", ""},
		{"many", many, "431", ""},
		{"long", long, "431", ""},
		{"after others", plain + chunked + length + plain + lengths + plain, "200 200 200 200 400", "/plain |/chunked hi!|/length \r\nhi\n|/plain "},
		{"after a chunked one", chunked + both, "200 400", "/chunked hi!"},
		{"in a body it is none", hidden + plain, "200 200", "/length " + both + "|/plain "},
		{"after an upgrade that is refused, nothing is read", "GET /plain HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n" + lengths, "403", ""},
		{"after one that the upstream does not take", "GET /plain HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + lengths, "200", "/plain "},
		{"the mark of a refused head, guessed", "GET /plain HTTP/1.1\r\nHost: a\r\nPostern-Refused-: 200\r\n\r\n", "200", "/plain "},
	} {
		got = nil
		c, err := net.Dial("tcp", front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(c, tt.raw) }()
		var statuses []string
		for r := bufio.NewReader(c); ; {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				break
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			if statuses = append(statuses, fmt.Sprint(resp.StatusCode)); len(statuses) == len(strings.Fields(tt.statuses)) {
				_ = c.(*net.TCPConn).CloseWrite() // not earlier: that would end the requests under way
			}
		}
		c.Close()
		if s, u := strings.Join(statuses, " "), strings.Join(got, "|"); s != tt.statuses || u != tt.upstream {
			t.Errorf("%s: got %s and upstream %q, want %s and %q", tt.name, s, u, tt.statuses, tt.upstream)
		}
	}
}

// However the bytes come, what is passed on is what came.
func TestHeadsChangeNothing(t *testing.T) {
	const text = "GET /a HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\nPOST /b HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc" +
		"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3 ;x\r\nabc\r\n0\r\nT: 1\r\n\r\n\r\nGET / HTTP/1.1\r\nunfini"
	for name, in := range map[string]io.Reader{
		"whole": strings.NewReader(text), "byte by byte": iotest.OneByteReader(strings.NewReader(text)), "with the end": iotest.DataErrReader(strings.NewReader(text)),
	} {
		out, err := io.ReadAll(&headConn{r: bufio.NewReaderSize(in, 16)})
		if string(out) != text || err != nil {
			t.Errorf("%s: got %q, %v", name, out, err)
		}
	}
}

func FuzzHeads(f *testing.F) {
	f.Add("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 3)
	f.Add("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 1)
	f.Add("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 7)
	f.Fuzz(func(t *testing.T, text string, size int) {
		c := &headConn{r: bufio.NewReader(strings.NewReader(text))}
		buf := make([]byte, 1+size&63)
		var out []byte
		for range 4*len(text) + 1000 {
			n, err := c.Read(buf)
			if out = append(out, buf[:n]...); err != nil {
				break
			}
		}
		passed, _, refused := strings.Cut(string(out), "GET / HTTP/1.1\r\nHost: refused.invalid\r\n")
		if !refused && passed != text || !strings.HasPrefix(text, passed) {
			t.Errorf("%q became %q", text, out)
		}
	})
}
