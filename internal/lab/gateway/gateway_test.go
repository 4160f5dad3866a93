package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/envoy"
)

// config is a gateway of one route to cluster "up", with ext_authz at "auth".
const config = `{
 "name": "0.0.0.0_8080", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 8080}}, "trafficDirection": "OUTBOUND",
 "filterChains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typedConfig": {
  "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
  "statPrefix": "x", "serverName": "istio-envoy", "useRemoteAddress": true, "normalizePath": true, "upgradeConfigs": [{"upgradeType": "websocket"}],
  "routeConfig": {"name": "http.8080", "virtualHosts": [{"name": "all", "domains": ["*"], "routes": [
    {"match": {"prefix": "/slow"}, "route": {"cluster": "up", "timeout": "0.05s"}},
    {"match": {"prefix": "/hostless"}, "route": {"cluster": "up", "timeout": "0s"}, "typedPerFilterConfig": {"m": {"@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute", "mutations": {"requestMutations": [{"remove": "host"}]}}}},
    {"match": {"prefix": "/gone"}, "route": {"cluster": "nobody", "timeout": "0s"}},
    {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}]}]},
  "httpFilters": [
   {"name": "envoy.filters.http.ext_authz", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
     "httpService": {"serverUri": {"uri": "http://auth", "cluster": "auth", "timeout": "1s"},
       "authorizationRequest": {"allowedHeaders": {"patterns": [{"exact": "cookie"}]}},
       "authorizationResponse": {"allowedUpstreamHeaders": {"patterns": [{"exact": "kubeflow-userid"}]}}}}},
   {"name": "m", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"}},
   {"name": "envoy.filters.http.router", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
 }}]}]}`

// start serves the configuration in front of an upstream and an authorizer.
func start(t *testing.T, upstream, authorizer http.Handler) *httptest.Server {
	t.Helper()
	clusters := []json.RawMessage{json.RawMessage(`{"name":"up"}`), json.RawMessage(`{"name":"auth"}`), json.RawMessage(`{"name":"nobody"}`)}
	r, err := envoy.ParseResources([]json.RawMessage{json.RawMessage(config)}, nil, clusters)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := envoy.Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	up, auth := httptest.NewServer(upstream), httptest.NewServer(authorizer)
	addr := map[string]string{"up": up.Listener.Addr().String(), "auth": auth.Listener.Addr().String()}
	g := New(Config{Address: netip.MustParseAddr("10.244.0.1"), Dial: func(ctx context.Context, cluster string) (net.Conn, error) {
		if addr[cluster] == "" {
			return nil, fmt.Errorf("cluster %s: connection refused", cluster)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr[cluster])
	}})
	g.Swap(proxy)
	server := NewServer(g.Handler(8080))
	front := httptest.NewUnstartedServer(nil)
	front.Config, front.Listener = server.Server, heads{front.Listener}
	front.Start()
	t.Cleanup(func() { front.Close(); g.Close(); up.Close(); auth.Close() })
	return front
}

func allow(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Kubeflow-Userid", "u@example.com")
}

func TestRequestArrivesAsTheEngineSays(t *testing.T) {
	var got *http.Request
	front := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Clone(context.Background()) }), http.HandlerFunc(allow))
	for _, test := range []struct{ sent, want string }{
		{"/a/../v1/m:predict?x=%2F&y", "/v1/m:predict?x=%2F&y"},
		{"//v1//m", "//v1//m"},
		{"/a%2fb", "/a%2fb"},
		{"/a;b/..;c/d", "/d"},
		{"/?", "/?"},
	} {
		raw := "GET " + test.sent + " HTTP/1.1\r\nHost: model.example.com\r\nKubeflow-Userid: forged@example.com\r\nX-Two: 1\r\nX-Two: 2\r\nConnection: close\r\n\r\n"
		resp := send(t, front, raw)
		if resp.StatusCode != http.StatusOK || got.RequestURI != test.want {
			t.Errorf("%s: got %d and the upstream %q, want 200 and %q", test.sent, resp.StatusCode, got.RequestURI, test.want)
		}
		if id := got.Header.Values("Kubeflow-Userid"); len(id) != 1 || id[0] != "u@example.com" {
			t.Errorf("%s: kubeflow-userid %q reached the upstream", test.sent, id)
		}
		if len(got.Header.Values("X-Two")) != 2 || got.Host != "model.example.com" {
			t.Errorf("%s: got header %v and host %s", test.sent, got.Header, got.Host)
		}
	}
}

// send writes raw bytes and reads one response.
func send(t *testing.T, front *httptest.Server, raw string) *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestRefusals(t *testing.T) {
	deny := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/login":
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			w.Header().Set("Location", "/dex/auth")
			w.WriteHeader(http.StatusFound)
		case "/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "/hang":
			time.Sleep(1500 * time.Millisecond)
		}
	})
	front := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/slow") {
			<-r.Context().Done()
		}
	}), deny)
	for _, test := range []struct {
		raw  string
		want int
	}{
		{"GET /login HTTP/1.1\r\nHost: a\r\n\r\n", 302},
		{"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n", 403},
		{"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n", 403},
		{"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n", 200},
		{"GET /ok HTTP/1.0\r\nHost: a\r\n\r\n", 426},
		{"GET ok HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},  // Envoy would pass it on; net/http does not read it
		{"GET //%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400}, // net/http cannot send it on as it is
		{"GET /ok HTTP/1.1\r\n\r\n", 400},
		{"GET /hostless HTTP/1.1\r\nHost: a\r\n\r\n", 400}, // Envoy sends it on without a host
		{"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", 504},
		{"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n", 503},
		{"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n", 403},
	} {
		resp := send(t, front, test.raw)
		if resp.StatusCode != test.want {
			t.Errorf("%q: got %d, want %d", test.raw, resp.StatusCode, test.want)
		}
		if test.want == 302 && (len(resp.Header.Values("Set-Cookie")) != 2 || resp.Header.Get("Location") != "/dex/auth") {
			t.Errorf("got headers %v, want both cookies and the location", resp.Header)
		}
	}
}

func TestStreamsBothWaysWithoutBuffering(t *testing.T) {
	const size = 100 << 20
	front := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d\n", n)
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			<-r.Context().Done() // the client ends it after what it has seen
			return
		}
	}), http.HandlerFunc(allow))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, front.URL+"/v1/m:predict", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	if line, _ := r.ReadString('\n'); line != fmt.Sprintln(size) {
		t.Errorf("the upstream read %q bytes, want %d", strings.TrimSpace(line), size)
	}
	if line, err := r.ReadString('\n'); line != "data: 0\n" {
		t.Errorf("got %q, %v: an event must arrive while the stream is open", line, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestWebsocket(t *testing.T) {
	front := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		line, _ := buf.ReadString('\n')
		fmt.Fprintf(c, "echo %s", line)
	}), http.HandlerFunc(allow))
	c, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v; want 101", resp, err)
	}
	fmt.Fprintf(c, "hello\n")
	if line, err := r.ReadString('\n'); line != "echo hello\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestHTTP2(t *testing.T) {
	var body bytes.Buffer
	front := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(&body, r.Body) }), http.HandlerFunc(allow))
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: front.Config.Handler, Protocols: h2}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = server.Serve(l); close(done) }()
	defer func() { server.Close(); <-done }()
	client := &http.Client{Transport: &http.Transport{Protocols: h2}}
	resp, err := client.Post("http://"+l.Addr().String()+"/v1/m", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 || body.String() != "{}" {
		t.Errorf("got %s %d and body %q upstream", resp.Proto, resp.StatusCode, body.String())
	}
}

func TestWithoutConfigurationItRefuses(t *testing.T) {
	g := New(Config{Address: netip.MustParseAddr("10.244.0.1")})
	w := httptest.NewRecorder()
	g.Handler(8080).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("got %d, want 503", w.Code)
	}
}

// Of an answer nothing reaches the client before or behind the route's changes: no
// informational response, no HTTP/1 trailer; and nobody guesses its type.
func TestAnswersAreWhatTheRouteMadeOfThem(t *testing.T) {
	front := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</secret>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.Header()["Content-Type"] = nil
		w.Header().Set("Trailer", "X-Declared")
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "<html>")
		w.Header().Set("X-Declared", "1")
		w.Header().Set(http.TrailerPrefix+"X-Undeclared", "1")
	}), http.HandlerFunc(allow))
	resp := send(t, front, "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || string(body) != "<html>" {
		t.Errorf("got %d %q, %v", resp.StatusCode, body, err)
	}
	if len(resp.Trailer) != 0 || resp.Header.Get("Content-Type") != "" {
		t.Errorf("got trailers %v and headers %v", resp.Trailer, resp.Header)
	}
}

// What is wrong with an answer is 502, what keeps one from coming 503.
func TestAnswersThatAreRefused(t *testing.T) {
	front := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large":
			w.Header().Set("X", strings.Repeat("x", maxAnswerHead))
		case "/many":
			for i := range maxHeaders + 1 {
				w.Header().Set(fmt.Sprint("X-", i), "1")
			}
		case "/ended":
			panic(http.ErrAbortHandler)
		}
	}), http.HandlerFunc(allow))
	for path, want := range map[string]int{"/": 200, "/large": 502, "/many": 502, "/ended": 503, "/gone": 503} {
		if resp := send(t, front, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n"); resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, resp.StatusCode, want)
		}
	}
}
