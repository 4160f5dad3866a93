package serving_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"postern.dev/postern/internal/lab/serving"
)

func proxy(t *testing.T, target string) string {
	t.Helper()
	h, err := serving.Proxy(target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, h)
}

func TestProxyPassesOn(t *testing.T) {
	t.Setenv("http_proxy", "http://127.0.0.1:1") // must not be used
	backend := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Seen", strings.Join([]string{r.Method, r.Host, r.URL.String(), r.Header.Get("X-Forwarded-For"), r.Header.Get("Kubeflow-Userid"), string(body)}, " "))
		w.WriteHeader(http.StatusTeapot)
	}))
	front := proxy(t, backend+"/base")
	req, err := http.NewRequestWithContext(t.Context(), "POST", front+"/v1/models/m:predict?a=b;c", strings.NewReader("rows"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", "10.0.0.9")
	req.Header.Set("kubeflow-userid", "ada")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	want := "POST " + strings.TrimPrefix(backend, "http://") + " /base/v1/models/m:predict?a=b;c 10.0.0.9 ada rows"
	if got := res.Header.Get("X-Seen"); got != want || res.StatusCode != http.StatusTeapot {
		t.Errorf("got  %d %s\nwant 418 %s", res.StatusCode, got, want)
	}
}

// A client's Connection header names headers for a proxy to remove. Who the client is
// must not be among them.
func TestProxyKeepsWhatConnectionNames(t *testing.T) {
	seen := make(chan http.Header, 1)
	front := proxy(t, start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })))
	for _, connection := range []string{"Upgrade, x-postern-caller, X-Postern-Passport", "x-postern-caller, x-postern-passport"} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", front+"/v1/models", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Connection": {connection}, "Upgrade": {"websocket"}, "X-Postern-Caller": {"ada"}, "X-Postern-Passport": {"p"}}
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := <-seen; got.Get("X-Postern-Caller") != "ada" || got.Get("X-Postern-Passport") != "p" || strings.Contains(strings.Join(got["Connection"], ","), "postern") {
			t.Errorf("Connection: %s: the model server saw %v", connection, got)
		}
	}
}

// TestProxyStreams: the first event arrives while the server still waits to send the second.
func TestProxyStreams(t *testing.T) {
	more := make(chan struct{})
	backend := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first\n")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		select {
		case <-more:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "second\n")
	}))
	res, err := http.Get(proxy(t, backend))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() || lines.Text() != "first" {
		t.Fatalf("got %q, want first", lines.Text())
	}
	close(more)
	if !lines.Scan() || lines.Text() != "second" {
		t.Errorf("got %q, want second", lines.Text())
	}
}

func TestProxyToNobody(t *testing.T) {
	front := proxy(t, "http://127.0.0.1:1")
	check(t, front, "GET", "/v1/models", "", "", 502, `{"error":"the model server http://127.0.0.1:1 does not answer"}`)
}

func TestProxyRefusesBadTargets(t *testing.T) {
	for target, ok := range map[string]bool{
		"http://host:8080": true, "https://host/base": true,
		"host:8080": false, "ftp://host": false, "http://": false, "": false, "http://user:secret@host": false, "http://host?q": false, "http://%zz": false, "http://user:secret@%zz": false,
	} {
		if _, err := serving.Proxy(target, nil); (err == nil) != ok {
			t.Errorf("%q: got %v, want ok %v", target, err, ok)
		} else if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error %q tells the password", target, err)
		}
	}
}

// TestProxySurvivesClosedConnections: a server that closes each connection unannounced, as uvicorn
// does after an error, loses no request.
func TestProxySurvivesClosedConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(conn, "HTTP/1.1 500 x\r\nContent-Length: 2\r\n\r\nno")
			}
			conn.Close()
		}
	}()
	front := proxy(t, "http://"+l.Addr().String())
	for range 200 {
		check(t, front, "POST", predict, js, instances, 500, "no")
	}
}
