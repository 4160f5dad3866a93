//go:build e2e

package paths

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/lab/realenvoy"
)

// table holds one target per line: the target, what reaches the upstream where
// the gateway normalises paths as Istio's do by default (port 8080), and what does
// where it merges slashes too (port 8081; Istio's MERGE_SLASHES). All are Go
// strings; a number is Envoy's own answer.
const table = "../../internal/envoy/testdata/paths.txt"

const listener = `{"name":"l%[1]d","address":{"socketAddress":{"address":"0.0.0.0","portValue":%[1]d}},"filterChains":[{"filters":[{"name":"hcm","typedConfig":{
 "@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","statPrefix":"x","useRemoteAddress":true,"normalizePath":true,"mergeSlashes":%[2]t,
 "pathWithEscapedSlashesAction":"KEEP_UNCHANGED","routeConfig":{"name":"r","virtualHosts":[{"name":"all","domains":["*"],"routes":[%[3]s]}]},
 "httpFilters":[{"name":"envoy.filters.http.router","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`

const everything = `{"match":{"prefix":""},"route":{"cluster":"up","timeout":"0s"}}`

var ports = []uint16{8080, 8081}

func resources(t testing.TB) envoy.Resources {
	t.Helper()
	r, err := envoy.ParseResources([]json.RawMessage{json.RawMessage(fmt.Sprintf(listener, ports[0], false, everything)), json.RawMessage(fmt.Sprintf(listener, ports[1], true, everything))}, nil,
		[]json.RawMessage{json.RawMessage(`{"name":"up"}`)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// gateway is a running Envoy with a connection to each of its ports.
type gateway struct {
	address netip.Addr
	conns   map[uint16]*bufio.ReadWriter
	raw     map[uint16]net.Conn
}

func start(t testing.TB, r envoy.Resources) *gateway {
	t.Helper()
	program, err := filepath.Abs("../../.tools/envoy/bin/envoy")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v (run make tools)", err)
	}
	// Fuzzing runs this in several processes at once.
	pid := os.Getpid()
	g := &gateway{address: netip.AddrFrom4([4]byte{127, byte(140 + pid>>12&63), byte(pid >> 6 & 63), byte(1 + pid&63)}), conns: map[uint16]*bufio.ReadWriter{}, raw: map[uint16]net.Conn{}}
	upstream := echo(t)
	e, err := realenvoy.Start(context.Background(), realenvoy.Config{Program: program, Address: g.address, Endpoints: func(string) []netip.AddrPort { return []netip.AddrPort{upstream} }}, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range g.raw {
			c.Close()
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// echo answers each request with its target. It is no net/http server, which
// refuses targets that are no URL.
func echo(t testing.TB) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					for header := ""; header != "\r\n"; {
						if header, err = r.ReadString('\n'); err != nil {
							return
						}
					}
					_, target, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
					target = strings.TrimSuffix(target, " HTTP/1.1")
					if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", len(target), target); err != nil {
						return
					}
				}
			}()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// ask is what Envoy makes of a target with header lines: as a Go string what the upstream got, or
// the number of Envoy's own answer.
func (g *gateway) ask(t testing.TB, port uint16, target, headers string) string {
	t.Helper()
	for attempt := 0; ; attempt++ {
		out, err := g.try(port, target, headers)
		if err == nil {
			return out
		}
		if c := g.raw[port]; c != nil {
			c.Close()
		}
		delete(g.conns, port)
		if attempt == 3 {
			t.Fatalf("%q: %v", target, err)
		}
	}
}

func (g *gateway) try(port uint16, target, headers string) (string, error) {
	rw := g.conns[port]
	if rw == nil {
		c, err := net.Dial("tcp", netip.AddrPortFrom(g.address, port).String())
		if err != nil {
			return "", err
		}
		rw = bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c))
		g.conns[port], g.raw[port] = rw, c
	}
	if err := g.raw[port].SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	fmt.Fprintf(rw, "GET %s HTTP/1.1\r\nhost: a\r\n%s\r\n", target, headers)
	if err := rw.Flush(); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(rw.Reader, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.Close {
		g.raw[port].Close()
		delete(g.conns, port)
	}
	if resp.StatusCode != 200 {
		return strconv.Itoa(resp.StatusCode), nil
	}
	return strconv.Quote(string(body)), nil
}

// engine is ask for our own engine.
func engine(p *envoy.Proxy, port uint16, target string, headers ...envoy.Header) string {
	o := p.Evaluate(envoy.Request{Source: netip.MustParseAddrPort("127.0.0.1:1"), Destination: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), Protocol: "HTTP/1.1",
		Method: "GET", Authority: "a", Path: target, Headers: headers}, envoy.Env{}, nil)
	switch o.Kind {
	case envoy.Forward:
		return strconv.Quote(o.Request.Path)
	case envoy.Local:
		return strconv.Itoa(o.Status)
	}
	return "unknown: " + o.Reason
}

// askable is whether a target can be written into a request line, and is one of
// the kind the engine is given: neither absolute nor empty.
func askable(target string) bool {
	return strings.HasPrefix(target, "/") && len(target) < 4000 && !strings.ContainsAny(target, "\x00\r\n \t\v\f") && !bytes.ContainsFunc([]byte(target), func(r rune) bool { return r < ' ' })
}

// pieces are what paths that mean something to somebody are made of.
var pieces = []string{"/", "/", "/", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", ";", ";a=b", ",", "%3b", "%", "%%", "%2", "%25", "%32", "%00", "%01", "%7f", "%80", "%c0%af", "%e2%82%ac",
	"a", "Ab", "%41", "%61", "%7e", "~", "_", "-", "v1", "models", ":predict", "?", "?x=/../", "#", "#f", "^", "`", "|", "\"", "<", ">", "{", "}", "[", "]", "@", "!", "$", "&", "'", "(", ")", "*", "+", "=", "%20", "%3", "%31", "0", "\x80", "\xff", "é"}

func targets() []string {
	rng := rand.New(rand.NewSource(1))
	seen := map[string]bool{}
	out := []string{}
	add := func(s string) {
		if !seen[s] && askable(s) {
			seen[s] = true
			out = append(out, s)
		}
	}
	for c := range 256 { // each byte by itself, in the middle, escaped
		add("/" + string([]byte{byte(c)}))
		add("/a" + string([]byte{byte(c)}) + "/../b")
		add(fmt.Sprintf("/a%%%02x/b", c))
		add(fmt.Sprintf("/%%%02X./b", c))
	}
	for len(out) < 4000 {
		s := "/"
		for range 1 + rng.Intn(8) {
			s += pieces[rng.Intn(len(pieces))]
		}
		add(s)
	}
	return out
}

// TestTable asks a real Envoy for every target of the committed table: the table
// is still true, and the engine agrees. POSTERN_UPDATE=1 writes it.
func TestTable(t *testing.T) {
	r := resources(t)
	g := start(t, r)
	proxy, err := envoy.Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, target := range targets() {
		b.WriteString(strconv.Quote(target))
		for _, port := range ports {
			got := g.ask(t, port, target, "")
			if ours := engine(proxy, port, target); ours != got {
				t.Errorf("port %d, %q: Envoy %s, the engine %s", port, target, got, ours)
			}
			b.WriteString("\t" + got)
		}
		b.WriteString("\n")
	}
	if os.Getenv("POSTERN_UPDATE") != "" {
		if err := os.WriteFile(table, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	committed, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	if string(committed) != b.String() {
		t.Error("Envoy answers otherwise than the committed table says (POSTERN_UPDATE=1 writes it)")
	}
}

// FuzzPath compares the engine with a real Envoy on whatever the fuzzer thinks of:
// go test -tags e2e -fuzz FuzzPath -parallel 1 ./e2e/paths
func FuzzPath(f *testing.F) {
	r := resources(f)
	g := start(f, r)
	proxy, err := envoy.Compile(r)
	if err != nil {
		f.Fatal(err)
	}
	for i, target := range targets() {
		if i%40 == 0 {
			f.Add(target)
		}
	}
	f.Fuzz(func(t *testing.T, target string) {
		if !askable(target) {
			return
		}
		for _, port := range ports {
			if got, ours := g.ask(t, port, target, ""), engine(proxy, port, target); ours != got {
				t.Errorf("port %d, %q: Envoy %s, the engine %s", port, target, got, ours)
			}
		}
	})
}
