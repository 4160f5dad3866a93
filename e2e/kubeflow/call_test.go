//go:build e2e

package kubeflow

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// call is one request: from a pod to a URL of the cluster, as its name leads there,
// or from outside to the gateway's pod, with a Host.
type call struct {
	from   string // "namespace/pod"; empty: outside
	method string // default POST with a body, else GET
	url    string // from a pod
	host   string // from outside; from a pod, in the URL's place
	port   uint16 // from outside; default 8080
	path   string // from outside
	body   string
	header http.Header
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) String() string { return fmt.Sprintf("%d %.300s", a.status, a.body) }

// headers makes a header of "name: value" lines.
func headers(lines ...string) http.Header {
	h := http.Header{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		// As it is written: x_y and x-y are two names.
		name = http.CanonicalHeaderKey(name)
		h[name] = append(h[name], strings.TrimSpace(value))
	}
	return h
}

// dial connects a call's connection.
func (c *cluster) dial(ctx context.Context, k call) (net.Conn, string, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	port := k.port
	if port == 0 {
		port = 8080
	}
	to := netip.AddrPortFrom(c.gateway("kubeflow/kubeflow-gateway"), port)
	host := k.host
	if k.from != "" {
		pod := c.pod(k.from)
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(pod.Addr, 0))
		u, err := url.Parse(k.url)
		if err != nil {
			return nil, "", err
		}
		n := uint64(80)
		if u.Port() != "" {
			n, _ = strconv.ParseUint(u.Port(), 10, 16)
		}
		eps, err := c.world.Topology.Reach(pod.Namespace, u.Hostname(), uint32(n))
		if err != nil || len(eps) == 0 {
			return nil, "", fmt.Errorf("%s: %v", k.url, err)
		}
		to = eps[0].Addr
		if host == "" {
			host = u.Host
		}
	}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	return conn, host, err
}

// request makes the HTTP request of a call.
func (k call) request(host string) (*http.Request, error) {
	path := k.path
	if k.from != "" {
		u, err := url.Parse(k.url)
		if err != nil {
			return nil, err
		}
		path = u.RequestURI()
	}
	method := k.method
	if method == "" {
		method = http.MethodGet
		if k.body != "" {
			method = http.MethodPost
		}
	}
	req, err := http.NewRequest(method, "http://gateway"+path, strings.NewReader(k.body))
	if err != nil {
		return nil, err
	}
	req.Host = host
	for name, values := range k.header {
		req.Header[name] = values
	}
	return req, nil
}

// client sends every request over the connection of a call, and follows nothing.
func (c *cluster) client(k call) *http.Client {
	return &http.Client{Timeout: 60 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, _, err := c.dial(ctx, k)
			return conn, err
		}}}
}

// do sends a call.
func (c *cluster) do(k call) (answer, error) {
	host := k.host
	if host == "" && k.url != "" {
		u, err := url.Parse(k.url)
		if err != nil {
			return answer{}, err
		}
		host = u.Host
	}
	req, err := k.request(host)
	if err != nil {
		return answer{}, err
	}
	resp, err := c.client(k).Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

// call sends a call that must be answered.
func (c *cluster) call(k call) answer {
	c.t.Helper()
	a, err := c.do(k)
	if err != nil {
		c.t.Fatalf("%s%s%s: %v", k.url, k.host, k.path, err)
	}
	return a
}

// raw sends bytes to the ingress gateway and reads until it closes.
func (c *cluster) raw(from, text string) string {
	c.t.Helper()
	conn, _, err := c.dial(context.Background(), call{from: from, url: "http://sklearn-iris.kserve-test.svc.cluster.local/"})
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		c.t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	var out bytes.Buffer
	_, _ = io.Copy(&out, conn)
	return out.String()
}
