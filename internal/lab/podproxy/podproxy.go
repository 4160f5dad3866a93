// Package podproxy is the HTTP proxy that `postern exec` names in http_proxy: a
// command behind it calls as one pod of the system, by the cluster's names and
// from the pod's own address.
package podproxy

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"postern.dev/postern/internal/lab/network"
)

// Dial connects from a pod to "host:port", resolving the name as the pod would.
type Dial func(ctx context.Context, pod, addr string) (net.Conn, error)

// Proxy is the proxy for all pods. Who may use it, and as which pod, is said by
// a password that only `postern exec` learns: a connection to the proxy's port
// alone is nobody's pod.
type Proxy struct {
	dial      Dial
	transport *http.Transport

	mu        sync.Mutex
	passwords map[string]string // pod -> password
}

type podKey struct{}

// New makes a proxy.
func New(dial Dial) *Proxy {
	p := &Proxy{dial: dial, passwords: map[string]string{}}
	p.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			pod, _ := ctx.Value(podKey{}).(string)
			c, err := dial(ctx, pod, addr)
			if err != nil {
				return nil, err
			}
			return network.ForHTTP1(c), nil
		},
		// A connection belongs to one pod: none is kept for the next request.
		DisableKeepAlives: true, DisableCompression: true, ResponseHeaderTimeout: 10 * time.Minute,
	}
	return p
}

// Password is the password for calling as a pod ("namespace/name").
func (p *Proxy) Password(pod string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.passwords[pod] == "" {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		p.passwords[pod] = hex.EncodeToString(b[:])
	}
	return p.passwords[pod]
}

// pod is the pod the caller may call as.
func (p *Proxy) pod(r *http.Request) (string, bool) {
	scheme, encoded, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", false
	}
	plain, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", false
	}
	user, password, _ := strings.Cut(string(plain), ":")
	// A user name in a URL cannot hold a slash: "namespace.name", and a
	// namespace has no dot.
	pod := strings.Replace(user, ".", "/", 1)
	p.mu.Lock()
	want := p.passwords[pod]
	p.mu.Unlock()
	ok := subtle.ConstantTimeCompare([]byte(password), []byte(want)) == 1
	return pod, ok && want != ""
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	pod, ok := p.pod(r)
	if !ok {
		w.Header().Set("Proxy-Authenticate", `Basic realm="postern exec"`)
		http.Error(w, "this proxy is for postern exec", http.StatusProxyAuthRequired)
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), podKey{}, pod))
	if r.Method == http.MethodConnect {
		p.tunnel(w, r, pod)
		return
	}
	if r.URL.Scheme != "http" || r.URL.Host == "" {
		http.Error(w, "got no http:// URL in the request line", http.StatusBadRequest)
		return
	}
	p.relay(w, r)
}

// relay sends a request on as the client would have sent it itself.
func (p *Proxy) relay(w http.ResponseWriter, r *http.Request) {
	_, rest, _ := strings.Cut(r.RequestURI, "://")
	path := "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		path = rest[i:]
	}
	if path[0] == '?' {
		path = "/" + path
	}
	raw, query, has := strings.Cut(path, "?")
	rp := httputil.ReverseProxy{
		Transport:     p.transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.RawQuery, pr.Out.URL.ForceQuery = query, has && query == ""
			if !strings.HasPrefix(raw, "//") {
				pr.Out.URL.Opaque = raw
			}
			pr.Out.Host = r.Host
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v := r.Header.Values(name); len(v) > 0 {
					pr.Out.Header[name] = v
				}
			}
			pr.Out.Header.Del("Proxy-Authorization")
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "from this pod: "+err.Error(), http.StatusBadGateway)
		},
	}
	rp.ServeHTTP(w, r)
}

// tunnel is CONNECT: a plain connection from the pod.
func (p *Proxy) tunnel(w http.ResponseWriter, r *http.Request, pod string) {
	up, err := p.dial(r.Context(), pod, r.Host)
	if err != nil {
		http.Error(w, "from this pod: "+err.Error(), http.StatusBadGateway)
		return
	}
	defer up.Close()
	down, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer down.Close()
	if _, err := io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(up, buf)
		up.Close()
	})
	_, _ = io.Copy(down, up)
	down.Close()
	wg.Wait()
}
