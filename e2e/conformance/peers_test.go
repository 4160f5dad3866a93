//go:build e2e

package conformance

import (
	"bufio"
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http/httputil"
	"net/netip"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"postern.dev/postern/internal/envoy"
)

// message is a request or a check as a peer saw it.
type message struct {
	cluster, method, path, host string
	headers                     []string // "name: value", names lower-case, sorted by name, values of one name in their order
}

func (m message) String() string {
	return fmt.Sprintf("%s %s host %q to %s\n    %s", m.method, m.path, m.host, m.cluster, strings.Join(m.headers, "\n    "))
}

// fromHeaders sorts headers by name only. What differs for reasons that are no
// answer is left out: the id Envoy makes up, and the connection's own headers.
func fromHeaders(in envoy.Headers) []string {
	h := append(envoy.Headers{}, in...)
	sort.SliceStable(h, func(i, j int) bool { return h[i].Name < h[j].Name })
	var out []string
	for _, f := range h {
		switch f.Name {
		case "x-request-id", "transfer-encoding":
			continue
		}
		out = append(out, f.Name+": "+f.Value)
	}
	return out
}

// witness keeps what the peers saw, by the id that every request carries in its
// cookie.
type witness struct {
	mu       sync.Mutex
	upstream map[string]message
	checks   map[string]message
	mirrored int
	grpc     map[string]*authv3.CheckRequest
}

func (w *witness) take(id string) (up, check *message, grpcCheck *authv3.CheckRequest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m, ok := w.upstream[id]; ok {
		up = &m
		delete(w.upstream, id)
	}
	if m, ok := w.checks[id]; ok {
		check = &m
		delete(w.checks, id)
	}
	grpcCheck = w.grpc[id]
	delete(w.grpc, id)
	return up, check, grpcCheck
}

// idOf finds the id in a cookie header: "t=17".
func idOf(cookie string) string {
	_, rest, ok := strings.Cut(cookie, "t=")
	if !ok {
		return ""
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	return rest[:end]
}

// serve runs a raw HTTP/1.1 server for one cluster: it repeats nothing, joins
// nothing, and records every byte of the head.
func (w *witness) serve(t *testing.T, cluster string, authorizer bool) netip.AddrPort {
	t.Helper()
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
				r := bufio.NewReader(c)
				for w.one(c, r, cluster, authorizer) == nil {
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func (w *witness) one(c net.Conn, r *bufio.Reader, cluster string, authorizer bool) error {
	line, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	method, rest, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	m := message{cluster: cluster, method: method, path: strings.TrimSuffix(rest, " HTTP/1.1")}
	var headers envoy.Headers
	length, chunked := 0, false
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		name, value = strings.ToLower(name), strings.TrimPrefix(value, " ")
		switch name {
		case "host":
			m.host = value
			continue
		case "content-length":
			length, _ = strconv.Atoi(value)
		case "transfer-encoding":
			chunked = true
		}
		headers.Add(name, value)
	}
	m.headers = fromHeaders(headers)
	if chunked {
		if _, err := io.Copy(io.Discard, httputil.NewChunkedReader(r)); err != nil {
			return err
		}
		if line, err := r.ReadString('\n'); err != nil || line != "\r\n" {
			return fmt.Errorf("trailers %q: %w", line, err) // Envoy passes none on to HTTP/1
		}
	} else if _, err := r.Discard(length); err != nil {
		return err
	}
	cookie, _ := headers.Get("cookie")
	id := idOf(cookie)
	// oauth2-proxy is also an upstream; a check is what Envoy sends by itself.
	_, internal := headers.Get("x-envoy-internal")
	authorizer = authorizer && internal
	answer := raw(envoy.Answer{Status: 200, Headers: upstreamHeaders[:len(upstreamHeaders)-1], Body: "ok"})
	if upgrade, ok := headers.Get("upgrade"); ok && !authorizer {
		answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: " + upgrade + "\r\n\r\n"
	}
	if method == "HEAD" {
		answer = strings.TrimSuffix(answer, "ok")
	}
	w.mu.Lock()
	if authorizer {
		w.checks[id] = m
		answer = raw(httpRule(m))
	} else if internal { // a mirrored copy
		w.mirrored++
	} else {
		w.upstream[id] = m
	}
	w.mu.Unlock()
	if method == "HEAD" && authorizer {
		head, _, _ := strings.Cut(answer, "\r\n\r\n")
		answer = head + "\r\n\r\n"
	}
	_, err = io.WriteString(c, answer)
	return err
}

// upstreamHeaders are those of every upstream's answer, its length at the end.
var upstreamHeaders = envoy.Headers{{Name: "x-upstream", Value: "yes"}, {Name: "x-r", Value: "up"}, {Name: "x-t", Value: "up"}, {Name: "content-length", Value: "2"}}

// rule picks an answer from a check alone, so that both sides get the same one.
func rule(method, path, host, cookie string) uint32 {
	h := fnv.New32a()
	_, _ = io.WriteString(h, method+"\n"+path+"\n"+host+"\n"+idOf(cookie))
	return h.Sum32() % 20
}

func cookieOf(headers []string) string {
	for _, h := range headers {
		if v, ok := strings.CutPrefix(h, "cookie: "); ok {
			return v
		}
	}
	return ""
}

// httpRule is what the HTTP authorizer answers; to HEAD without a body.
func httpRule(m message) envoy.Answer {
	a := httpAnswer(m)
	if m.method == "HEAD" {
		a.Body = ""
	}
	return a
}

func httpAnswer(m message) envoy.Answer {
	switch n := rule(m.method, m.path, m.host, cookieOf(m.headers)); {
	case n == 0:
		return envoy.Answer{Status: 302, Headers: envoy.Headers{{Name: "location", Value: "/dex/auth?x=1"}, {Name: "set-cookie", Value: "a=1"}, {Name: "set-cookie", Value: "b=2"}}}
	case n == 1:
		return envoy.Answer{Status: 401, Headers: envoy.Headers{{Name: "www-authenticate", Value: "Bearer"}, {Name: "content-type", Value: "application/json"}, {Name: "x-other", Value: "1"}}, Body: `{"error":"x"}`}
	case n == 2:
		return envoy.Answer{Status: 500, Body: "broken"}
	case n == 3:
		return envoy.Answer{Status: 403, Body: "no"}
	case n == 4:
		return envoy.Answer{Status: 200}
	case n == 5:
		return envoy.Answer{Status: 200, Headers: envoy.Headers{{Name: "kubeflow-userid", Value: "u@example.com"}, {Name: "x-envoy-auth-headers-to-remove", Value: "x-foo, X-Two"}}}
	}
	return envoy.Answer{Status: 200, Headers: envoy.Headers{{Name: "kubeflow-userid", Value: "u@example.com"}, {Name: "x-not-allowed", Value: "1"}}}
}

// raw writes an answer on the wire.
func raw(a envoy.Answer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d X\r\n", a.Status)
	for _, h := range a.Headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h.Name, h.Value)
	}
	fmt.Fprintf(&b, "content-length: %d\r\n\r\n%s", len(a.Body), a.Body)
	return b.String()
}

// grpcAuthorizer answers checks by the same kind of rule.
type grpcAuthorizer struct {
	authv3.UnimplementedAuthorizationServer
	witness *witness
}

func (a grpcAuthorizer) Check(_ context.Context, in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a.witness.mu.Lock()
	a.witness.grpc[idOf(in.GetAttributes().GetRequest().GetHttp().GetHeaders()["cookie"])] = proto.Clone(in).(*authv3.CheckRequest)
	a.witness.mu.Unlock()
	return grpcRule(in)
}

func option(name, value string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: action}
}

func grpcRule(in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	const overwrite, appendOrAdd = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
	http := in.GetAttributes().GetRequest().GetHttp()
	if a := optionAnswer(http.GetPath()); a != nil {
		return a, nil
	}
	denied := func(code int32, body string, headers ...*corev3.HeaderValueOption) *authv3.CheckResponse {
		return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.PermissionDenied)}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode(code)}, Headers: headers, Body: body}}}
	}
	switch n := rule(http.GetMethod(), http.GetPath(), http.GetHost(), http.GetHeaders()["cookie"]); n {
	case 0:
		return denied(302, "", option("location", "/dex/auth", overwrite), option("set-cookie", "a=1", overwrite), option("set-cookie", "b=2", overwrite)), nil
	case 1:
		return denied(401, `{"error":"x"}`, option("content-type", "application/json", overwrite), option("www-authenticate", "Bearer", overwrite)), nil
	case 2:
		return nil, io.ErrUnexpectedEOF
	case 3:
		return denied(0, ""), nil
	case 4:
		return denied(403, "appended", option("x-a", "1", appendOrAdd), option("x-a", "2", appendOrAdd)), nil
	case 5:
		return &authv3.CheckResponse{Status: &status.Status{}}, nil
	}
	return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
		Headers:         []*corev3.HeaderValueOption{option("kubeflow-userid", "u@example.com", overwrite), option("x-postern-caller", "c", overwrite), option("x-foo", "more", appendOrAdd)},
		HeadersToRemove: []string{"authorization", "x-two"}, ResponseHeadersToAdd: []*corev3.HeaderValueOption{
			option("x-r", "authorizer", overwrite), option("x-s", "authorizer", appendOrAdd), option("x-t", "authorizer", corev3.HeaderValueOption_ADD_IF_ABSENT), option("x-u", "authorizer", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS)},
	}}}, nil
}

func (w *witness) serveGRPC(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, grpcAuthorizer{witness: w})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().(*net.TCPAddr).AddrPort()
}
