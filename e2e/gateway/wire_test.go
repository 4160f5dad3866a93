//go:build e2e

package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/lab/gateway"
	"postern.dev/postern/internal/lab/realenvoy"
)

// listener is a gateway as Istio configures one, without a login: every request
// goes to the cluster up.
const listener = `{
 "name": "0.0.0.0_18080", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 18080}}, "trafficDirection": "OUTBOUND",
 "filterChains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typedConfig": {
  "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
  "statPrefix": "x", "delayedCloseTimeout": "0s", "serverName": "istio-envoy", "useRemoteAddress": true, "normalizePath": true, "upgradeConfigs": [{"upgradeType": "websocket"}],
  "routeConfig": {"name": "http.8080", "virtualHosts": [{"name": "all", "domains": ["*"], "routes": [
    {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}, "responseHeadersToAdd": [{"header": {"key": "x-added", "value": "by-the-route"}}], "responseHeadersToRemove": ["x-secret"]}]}]},
  "httpFilters": [
   {"name": "envoy.filters.http.router", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
 }}]}]}`

// cluster opens a connection for each request, which the upstream closes.
const cluster = `{"name": "up", "typedExtensionProtocolOptions": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
  "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
  "commonHttpProtocolOptions": {"maxRequestsPerConnection": 1}, "explicitHttpConfig": {"httpProtocolOptions": {}}}}}`

// pair is a real Envoy and our gateway with the same configuration in front of the
// same upstream.
type pair struct {
	up   *upstream
	addr map[string]string // "envoy" and "ours"
}

func newPair(t *testing.T) *pair {
	t.Helper()
	r, err := envoy.ParseResources([]json.RawMessage{json.RawMessage(listener)}, nil, []json.RawMessage{json.RawMessage(cluster)})
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := envoy.Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{up: newUpstream(t), addr: map[string]string{}}
	pod := netip.MustParseAddr("127.68.0.1")
	e, err := realenvoy.Start(context.Background(), realenvoy.Config{Program: program(t), Address: pod, Endpoints: func(string) []netip.AddrPort {
		return []netip.AddrPort{p.up.addr}
	}}, r)
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Config{Address: pod, Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", p.up.addr.String())
	}})
	g.Swap(proxy)
	l, err := net.Listen("tcp", "127.68.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	server := gateway.NewServer(g.Handler(18080))
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		<-done
		g.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	p.addr["envoy"], p.addr["ours"] = netip.AddrPortFrom(pod, 18080).String(), l.Addr().String()
	return p
}

// upstream answers any request with what respond says, and keeps what it saw.
type upstream struct {
	addr netip.AddrPort

	mu      sync.Mutex
	respond string
	seen    []string
	busy    int // requests under way
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	u := &upstream{addr: l.Addr().(*net.TCPAddr).AddrPort()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go u.serve(c)
		}
	}()
	return u
}

func (u *upstream) serve(c net.Conn) {
	defer c.Close()
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	u.add(1)
	defer u.add(-1)
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the gateway gave up: it had sent the head before it saw what is wrong with the body
	}
	var lines []string
	for name, values := range req.Header {
		if strings.HasPrefix(name, "X-Envoy") || strings.HasPrefix(name, "X-Forwarded") || name == "X-Request-Id" || name == "Content-Length" { // each says the length in its own way
			continue
		}
		for _, v := range values {
			lines = append(lines, strings.ToLower(name)+": "+v)
		}
	}
	for name, values := range req.Trailer {
		lines = append(lines, "trailer "+strings.ToLower(name)+": "+strings.Join(values, ","))
	}
	sort.Strings(lines)
	u.mu.Lock()
	u.seen = append(u.seen, fmt.Sprintf("%s %s host %q body %q | %s", req.Method, req.RequestURI, req.Host, body, strings.Join(lines, " | ")))
	respond := u.respond
	u.mu.Unlock()
	if respond == "" {
		respond = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
	}
	_, _ = io.WriteString(c, respond)
}

func (u *upstream) add(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.busy += n
}

// take is what reached the upstream, when it has answered all of it.
func (u *upstream) take() string {
	for quiet := 0; quiet < 10; quiet++ { // a request that a gateway gave up may still come
		u.mu.Lock()
		if u.busy > 0 {
			quiet = 0
		}
		u.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	s := strings.Join(u.seen, "\n")
	u.seen = nil
	return s
}

// exchange sends raw bytes and gives the status, or how the connection ended, and
// what reached the upstream.
func (p *pair) exchange(t *testing.T, who, raw string) (status, seen string) {
	t.Helper()
	p.up.take()
	status = p.send(t, who, raw)
	return status, p.up.take()
}

func (p *pair) send(t *testing.T, who, raw string) string {
	t.Helper()
	c, err := net.Dial("tcp", p.addr[who])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, raw); err != nil {
		return "closed"
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "closed"
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return strconv.Itoa(resp.StatusCode)
}

// compare holds ours to Envoy: nothing reaches the upstream that Envoy refuses, and
// what reaches it from both is the same. ours says the status where it is not
// Envoy's: a reason is given in the table.
func compare(t *testing.T, name, envoyStatus, envoySeen, oursStatus, oursSeen, ours string) {
	t.Helper()
	want := ours
	if ours == "" {
		want = envoyStatus
	}
	if oursStatus != want {
		t.Errorf("%s: ours answers %s, want %s (Envoy %s)", name, oursStatus, want, envoyStatus)
	}
	if envoySeen == "" && oursSeen != "" {
		t.Errorf("%s: Envoy (%s) lets nothing through, ours (%s)\n%s", name, envoyStatus, oursStatus, oursSeen)
	}
	if envoySeen != oursSeen && envoySeen != "" && oursSeen != "" {
		t.Errorf("%s: what reached the upstream:\nEnvoy %s\nours  %s", name, envoySeen, oursSeen)
	}
	if ours == envoyStatus {
		t.Errorf("%s: the table says that ours differs, and it does not", name)
	}
}

func TestRequestsOnTheWire(t *testing.T) {
	p := newPair(t)
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "X-%d: 1\r\n", i)
		}
		return b.String()
	}
	for _, tt := range []struct{ name, raw, ours string }{
		{"plain", "GET /a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"options *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"get *", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"length and chunked", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
		{"chunked and length", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", ""},
		{"length twice", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", ""},
		{"length list", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\nhi", ""},
		{"two lengths", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", ""},
		{"length +2", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nhi", ""},
		{"length empty", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", ""},
		{"length 02", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 02\r\n\r\nhi", ""},
		{"length huge", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nhi", ""},
		{"get with a body", "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", ""},
		{"chunked twice", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
		{"gzip, chunked", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ""},
		{"identity", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", ""},
		{"CHUNKED", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", ""},
		{"xchunked", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", ""},
		{"chunk extension", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0\r\n\r\n", ""},
		{"chunk with lf", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\nhi\n0\n\n", ""},
		{"chunk size 0x2", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n", ""},
		{"chunk size with space", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nhi\r\n0\r\n\r\n", ""},
		{"chunk too long", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhix\r\n0\r\n\r\n", "400"},
		{"trailers", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: kubeflow-userid\r\n\r\n2\r\nhi\r\n0\r\nkubeflow-userid: admin\r\n\r\n", ""},
		{"trailers undeclared", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nkubeflow-userid: admin\r\n\r\n", ""},
		{"trailer forbidden", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: content-length\r\n\r\n2\r\nhi\r\n0\r\ncontent-length: 9\r\n\r\n", "400"},
		{"unknown method", "FROB /a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"propfind", "PROPFIND /a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"lower method", "get /a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"odd method", "G!T /a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"trace", "TRACE /a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"connect", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", ""},
		{"http/1.2", "GET /a HTTP/1.2\r\nHost: a\r\n\r\n", ""},
		{"http/1.0", "GET /a HTTP/1.0\r\nHost: a\r\n\r\n", ""},
		{"http/0.9", "GET /aaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n", "400"},
		{"http/2.0", "GET /a HTTP/2.0\r\nHost: a\r\n\r\n", "505"},
		{"http/3.1", "GET /a HTTP/3.1\r\nHost: a\r\n\r\n", "505"},
		{"HTTP/1.01", "GET /a HTTP/1.01\r\nHost: a\r\n\r\n", ""},
		{"http lower", "GET /a http/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute", "GET http://b/a?q HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute without path", "GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute with query only", "GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute with port", "GET http://b:80/a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute https", "GET https://b/a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute HTTP", "GET HTTP://b/a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute ftp", "GET ftp://b/a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute without host", "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute with user", "GET http://u:p@b/a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute without Host", "GET http://b/a HTTP/1.1\r\n\r\n", "400"},
		{"absolute with fragment", "GET http://b#f HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute with backslash", "GET http://b\\c/a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute options", "OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"opaque", "GET mailto:a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"98 headers", "GET /a HTTP/1.1\r\nHost: a\r\n" + many(98) + "\r\n", ""},
		{"99 headers", "GET /a HTTP/1.1\r\nHost: a\r\n" + many(99) + "\r\n", ""},
		{"100 headers", "GET /a HTTP/1.1\r\nHost: a\r\n" + many(100) + "\r\n", ""},
		{"101 headers", "GET /a HTTP/1.1\r\nHost: a\r\n" + many(101) + "\r\n", ""},
		{"100 headers and length", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n" + many(98) + "\r\nhi", ""},
		{"101 headers and length", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n" + many(99) + "\r\nhi", ""},
		{"101 headers and chunked", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + many(99) + "\r\n0\r\n\r\n", ""},
		{"50 KB", "GET /a HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 50<<10) + "\r\n\r\n", ""},
		{"59 KB", "GET /a HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 59<<10) + "\r\n\r\n", ""},
		{"61 KB", "GET /a HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 61<<10) + "\r\n\r\n", ""},
		{"70 KB", "GET /a HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 70<<10) + "\r\n\r\n", ""},
		{"long target", "GET /" + strings.Repeat("x", 61<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"two hosts", "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
		{"same host twice", "GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"},
		{"host empty", "GET /a HTTP/1.1\r\nHost: \r\n\r\n", "400"},
		{"no host", "GET /a HTTP/1.1\r\n\r\n", ""},
		{"host with path", "GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n", ""},
		{"host with user", "GET /a HTTP/1.1\r\nHost: u@a\r\n\r\n", "400"},
		{"folded header", "GET /a HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", ""},
		{"folded first", "GET /a HTTP/1.1\r\n X: 1\r\nHost: a\r\n\r\n", ""},
		{"space before colon", "GET /a HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", ""},
		{"empty name", "GET /a HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", ""},
		{"no colon", "GET /a HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", ""},
		{"name with paren", "GET /a HTTP/1.1\r\nHost: a\r\nX(: 1\r\n\r\n", ""},
		{"name with space", "GET /a HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", ""},
		{"underscore", "GET /a HTTP/1.1\r\nHost: a\r\nkubeflow_userid: 1\r\n\r\n", ""},
		{"null in value", "GET /a HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n", ""},
		{"cr in value", "GET /a HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", "400"},
		{"control in value", "GET /a HTTP/1.1\r\nHost: a\r\nX: 1\x012\r\n\r\n", ""},
		{"del in value", "GET /a HTTP/1.1\r\nHost: a\r\nX: 1\x7f2\r\n\r\n", ""},
		{"tab in value", "GET /a HTTP/1.1\r\nHost: a\r\nX: 1\t2\r\n\r\n", ""},
		{"latin1 in value", "GET /a HTTP/1.1\r\nHost: a\r\nX: \xe9\r\n\r\n", ""},
		{"lf only", "GET /a HTTP/1.1\nHost: a\n\n", ""},
		{"lf in head", "GET /a HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", ""},
		{"leading crlf", "\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"leading spaces", "  GET /a HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"two spaces", "GET  /a HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"tab in line", "GET\t/a HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"space in target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"space at the end", "GET /a HTTP/1.1 \r\nHost: a\r\n\r\n", "400"},
		{"latin1 in target", "GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"upgrade refused", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", ""},
		{"upgrade without connection", "GET /a HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", ""},
		{"upgrade nominates", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, x-who\r\nUpgrade: websocket\r\nX-Who: 1\r\n\r\n", ""},
		{"nominates", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: x-who\r\nX-Who: 1\r\n\r\n", ""},
		{"nominates host", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", ""},
		{"nominates x-forwarded-for", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: X-Forwarded-For\r\n\r\n", ""},
		{"nominates x-forwarded-proto", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close, x-forwarded-proto\r\n\r\n", ""},
		{"nominates nine", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: a,b,c,d,e,f,g,h,i\r\n\r\n", ""},
		{"nominates ten", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: a,b,c,d,e,f,g,h,i,j\r\n\r\n", ""},
		{"nominates a pseudo header", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: :path\r\n\r\n", ""},
		{"nominates content-length", "POST /a HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 2\r\n\r\nhi", ""},
		{"expect", "POST /a HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\nhi", "417"},
		{"te", "GET /a HTTP/1.1\r\nHost: a\r\nTE: gzip, trailers\r\n\r\n", ""},
		{"pseudo header", "GET /a HTTP/1.1\r\nHost: a\r\n:path: /b\r\n\r\n", ""},
	} {
		es, eseen := p.exchange(t, "envoy", tt.raw)
		os, oseen := p.exchange(t, "ours", tt.raw)
		compare(t, tt.name, es, eseen, os, oseen, tt.ours)
	}
}
