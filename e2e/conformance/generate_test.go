//go:build e2e

package conformance

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"postern.dev/postern/internal/envoy"
)

// request is one request as it goes on the wire.
type request struct {
	port     uint16
	proto    string // "HTTP/1.1", "HTTP/1.0" or "HTTP/2"
	method   string
	scheme   string // HTTP/2 only
	target   string
	host     string
	noHost   bool // neither Host nor :authority
	headers  envoy.Headers
	body     string
	chunked  bool // the body's length is not told
	trailers envoy.Headers
}

func (r request) raw() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\r\n", r.method, r.target, r.proto)
	if !r.noHost {
		fmt.Fprintf(&b, "Host: %s\r\n", r.host)
	}
	for _, h := range r.headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h.Name, h.Value)
	}
	switch {
	case r.chunked:
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		if r.body != "" {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(r.body), r.body)
		}
		b.WriteString("0\r\n")
		for _, h := range r.trailers {
			fmt.Fprintf(&b, "%s: %s\r\n", h.Name, h.Value)
		}
		return b.String() + "\r\n"
	case r.body != "":
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.body))
	}
	return b.String() + "\r\n" + r.body
}

// pseudo are the pseudo headers of HTTP/2.
func (r request) pseudo() envoy.Headers {
	out := envoy.Headers{{Name: ":method", Value: r.method}}
	if r.method != "CONNECT" {
		out = append(out, envoy.Header{Name: ":scheme", Value: r.scheme}, envoy.Header{Name: ":path", Value: r.target})
	}
	if !r.noHost {
		out = append(out, envoy.Header{Name: ":authority", Value: r.host})
	}
	return out
}

// String is the request as it goes on the wire.
func (r request) String() string {
	if r.proto != "HTTP/2" {
		return r.raw()
	}
	return fmt.Sprintf("HTTP/2 %q %q body %q trailers %q", r.pseudo(), r.headers, r.body, r.trailers)
}

// vocabulary is what a configuration speaks of: every host, path, header name
// and value found in it.
type vocabulary struct {
	ports               []uint16
	hosts, paths, names []string
	values              []string
}

// read collects the strings of a configuration by the fields they stand in.
func read(r envoy.Resources, ports []uint16) vocabulary {
	v := vocabulary{ports: ports, hosts: []string{"unknown.example.org", "localhost:8080", "10.1.2.3"}, paths: []string{"/", "/v1/models/m:predict", "/dex/auth", "/x"},
		names: []string{"x-foo", "x-two", "authorization"}, values: []string{"a", "override", "application/grpc"}}
	for _, m := range r.Routes {
		v.message(m.ProtoReflect(), "")
	}
	for _, m := range r.Listeners {
		v.message(m.ProtoReflect(), "")
	}
	return v
}

func (v *vocabulary) message(m protoreflect.Message, within string) {
	if a, ok := m.Interface().(*anypb.Any); ok {
		if inner, err := a.UnmarshalNew(); err == nil {
			v.message(inner.ProtoReflect(), within)
		}
		return
	}
	name := string(m.Descriptor().Name())
	m.Range(func(f protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		where := within
		if name == "RouteMatch" || name == "PathMatcher" || name == "HeaderMatcher" || name == "VirtualHost" {
			where = name
		}
		field := where + "." + string(f.Name())
		switch {
		case f.IsMap():
			value.Map().Range(func(_ protoreflect.MapKey, x protoreflect.Value) bool {
				if f.MapValue().Message() != nil {
					v.message(x.Message(), where)
				}
				return true
			})
		case f.IsList():
			for i := range value.List().Len() {
				x := value.List().Get(i)
				if f.Message() != nil {
					v.message(x.Message(), where)
				} else if f.Kind() == protoreflect.StringKind {
					v.word(field, x.String())
				}
			}
		case f.Message() != nil:
			v.message(value.Message(), where)
		case f.Kind() == protoreflect.StringKind:
			v.word(field, value.String())
		}
		return true
	})
}

func (v *vocabulary) word(field, s string) {
	switch {
	case s == "" || len(s) > 400 || strings.ContainsAny(s, " \n"):
	case field == "VirtualHost.domains":
		v.hosts = append(v.hosts, strings.ReplaceAll(s, "*", "any"))
	case strings.HasPrefix(s, "/"):
		v.paths = append(v.paths, s)
	case field == "HeaderMatcher.name" && !strings.HasPrefix(s, ":"):
		v.names = append(v.names, strings.ToLower(s))
	case strings.HasPrefix(field, "HeaderMatcher."), strings.HasPrefix(field, "PathMatcher."):
		v.values = append(v.values, s)
		if strings.Contains(s, ".") && !strings.ContainsAny(s, `\^$()`) {
			v.hosts = append(v.hosts, s)
		}
	}
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// generate makes a request out of the configuration's words, mostly sound, often
// with one or two things twisted.
func (v vocabulary) generate(r *rand.Rand, id int, tokens *mint) request {
	q := request{port: pick(r, v.ports), proto: pick(r, []string{"HTTP/1.1", "HTTP/1.1", "HTTP/2"}), scheme: "http", method: pick(r, []string{"GET", "GET", "POST", "POST", "OPTIONS", "HEAD", "PUT"}), host: pick(r, v.hosts), target: pick(r, v.paths)}
	if r.IntN(2) == 0 {
		q.target = strings.TrimSuffix(q.target, "/") + pick(r, []string{"", "/", "/a", "/v1/models/x:predict", "x", "?q=1", "/a?b=/c&d"})
	}
	q.headers = envoy.Headers{{Name: "Cookie", Value: fmt.Sprintf("t=%d", id)}}
	if q.method == "POST" || q.method == "PUT" {
		q.body = pick(r, []string{"", "{}", `{"instances":[]}`})
	}
	for range r.IntN(3) {
		q.headers.Add(pick(r, v.names), pick(r, v.values))
	}
	for range r.IntN(3) {
		v.twist(r, &q)
	}
	if r.IntN(40) == 0 { // about as many headers as there may be, by default or where few may
		for i := range pick(r, []int{3, 5, 8, 92 + r.IntN(9)}) {
			q.headers.Add(fmt.Sprintf("x-many-%d", i), "1")
		}
	}
	if q.target == "" {
		q.target = "/"
	}
	if tokens != nil && r.IntN(3) > 0 {
		switch value := ascii(tokens.header(r)); {
		case r.IntN(12) == 0:
			q.headers.Add("x-token", strings.Replace(value, "Bearer ", pick(r, []string{"", "T "}), 1))
		case r.IntN(12) == 0 && strings.HasPrefix(q.target, "/"):
			sep := "?"
			if strings.Contains(q.target, "?") {
				sep = "&"
			}
			q.target += sep + "token=" + strings.NewReplacer("Bearer ", "", " ", "%20").Replace(value) + pick(r, []string{"", "&z=1"})
		case r.IntN(8) == 0:
			token := strings.TrimPrefix(value, "Bearer ")
			q.headers.Add("Cookie", pick(r, []string{"session=" + token, `session="` + token + `"`, "a=b; session=" + token + ";z=1", "session=x; session=" + token, "Session=" + token, "session = " + token, "session=\"" + token}))
			if r.IntN(3) == 0 {
				q.headers.Add("Authorization", ascii(tokens.header(r)))
			}
		default:
			q.headers.Add("Authorization", value)
		}
	}
	if r.IntN(8) == 0 {
		twistForm(r, &q)
	}
	if q.proto == "HTTP/2" {
		q.asHTTP2(r)
	}
	return q
}

// twistForm makes the request one of those a client rarely sends.
func twistForm(r *rand.Rand, q *request) {
	switch r.IntN(9) {
	case 0:
		q.proto = "HTTP/1.0"
	case 1:
		q.method = "CONNECT"
		q.target = pick(r, []string{q.host, q.host + ":443", q.target, pick(r, []string{"@", "u@", "u@v@", "u:p@", "[u]@"}) + q.host + ":443"})
		q.body = ""
	case 2:
		q.headers.Add("Connection", pick(r, []string{"upgrade", "Upgrade", "keep-alive, Upgrade", "close"}))
		q.headers.Add("Upgrade", pick(r, []string{"websocket", "WebSocket", "h2c", "other", "websocket, other", ""}))
		q.body = ""
	case 3:
		q.target = pick(r, []string{"*", strings.TrimPrefix(q.target, "/"), "http://", "http:///x", "https://" + q.host + "/x", "HTTP://" + q.host + "/x", "http://" + q.host, "http://" + q.host + "?x=1", "http://" + pick(r, []string{"u@v@", "u:p;%2f@", "[u]@", "u/@"}) + q.host + "/x", "http://@" + q.host + "/x", "ws://a/b", "//" + q.host + "/x", "?x=1", "http:/x"})
		if q.target == "" {
			q.target = "*"
		}
	case 4:
		q.noHost = true
	case 5:
		q.headers.Add("Host", pick(r, []string{q.host, "other.example"}))
	case 6:
		q.chunked = true
		q.trailers = pick(r, []envoy.Headers{nil, {{Name: "x-trailer", Value: "1"}}})
	case 7:
		q.method, q.body = "POST", "\x00\x00\x00\x00\x02hi"
		q.headers.Add("content-type", "application/grpc")
		q.headers.Add("te", "trailers")
		q.headers.Add("grpc-timeout", pick(r, []string{"30S", "60000m", "x", "5H", "99999999999S"}))
	case 8:
		q.method = pick(r, []string{"DELETE", "PATCH", "TRACE", "get", "X-OTHER", "PRI", "G,T"})
	}
}

// asHTTP2 puts what is sound for HTTP/1.1 into HTTP/2's form, mostly.
func (q *request) asHTTP2(r *rand.Rand) {
	// Envoy takes a second to end a connection: few may be malformed.
	if r.IntN(80) > 0 {
		q.noHost = false
		if !strings.HasPrefix(q.target, "/") {
			q.target = "/" + strings.TrimLeft(q.target, "*")
		}
		q.method = strings.ReplaceAll(q.method, ",", "")
		q.host = strings.NewReplacer(" ", "", "/", "", "@", "").Replace(q.host)
	}
	if r.IntN(1000) > 0 {
		var kept envoy.Headers
		for _, h := range q.headers {
			h.Name = strings.ToLower(h.Name)
			if h.Name != "connection" && h.Name != "upgrade" && h.Name != "keep-alive" && (h.Name != "te" || h.Value == "trailers") {
				kept = append(kept, h)
			}
		}
		q.headers = kept
	}
	if q.body != "" && r.IntN(2) == 0 {
		q.headers = append(q.headers, envoy.Header{Name: "content-length", Value: strconv.Itoa(len(q.body))})
	}
	if r.IntN(40) == 0 {
		q.scheme = pick(r, []string{"https", "https", "HTTP", "HTTP", "ftp", "ftp", "ftp", ""})
	}
	if r.IntN(8) == 0 {
		q.headers = append(q.headers, envoy.Header{Name: "cookie", Value: "more=1"})
	}
	if q.body != "" && r.IntN(6) == 0 {
		q.trailers = envoy.Headers{{Name: "x-trailer", Value: "1"}}
	}
}

func (v vocabulary) twist(r *rand.Rand, q *request) {
	switch r.IntN(12) {
	case 0:
		q.host = twistHost(r, q.host)
	case 1, 2:
		if strings.HasPrefix(q.target, "/") {
			q.target = twistPath(r, q.target)
		}
	case 3:
		q.headers.Add(pick(r, []string{"kubeflow-userid", "Kubeflow-Userid", "kubeflow_userid", "x-forwarded-host", "X-Forwarded-For", "x-forwarded-proto", "x-forwarded-client-cert", "x-postern-passport"}),
			pick(r, []string{"evil@example.com", "1.2.3.4", "https", "", "a,b"}))
	case 4:
		q.headers.Add(pick(r, []string{"x-envoy-internal", "x-envoy-retry-on", "x-envoy-original-path", "x-envoy-original-host", "x-envoy-decorator-operation", "x-envoy-external-address", "x-envoy-expected-rq-timeout-ms",
			"x-envoy-max-retries", "x-envoy-attempt-count", "x-envoy-upstream-rq-timeout-ms", "x-envoy-peer-metadata", "x-envoy-hedge-on-per-try-timeout", "x-envoy-force-trace", "x-envoy-auth-failure-mode-allowed", "x-request-id"}), "5")
	case 5:
		name := pick(r, v.names)
		q.headers.Add(name, "1")
		q.headers.Add(name, pick(r, v.values))
	case 6:
		q.headers.Add(pick(r, []string{"accept", "user-agent", "origin", "content-type", "via", "x-two", "accept-encoding", "cookie", "authorization", "referer"}), pick(r, []string{"a", "b", "application/grpc", "x/y"}))
		q.headers.Add(pick(r, []string{"accept", "user-agent", "content-type", "via", "x-two", "cookie", "authorization"}), "second")
	case 7:
		q.method = "OPTIONS"
		q.headers.Add("Origin", "https://a.example")
		q.headers.Add("Access-Control-Request-Method", "POST")
	case 8:
		q.headers.Add("TE", pick(r, []string{"trailers", "gzip", "trailers, deflate"}))
	case 9:
		q.headers.Add("Connection", pick(r, []string{"keep-alive", "x-foo", "kubeflow-userid, x-two", "te"}))
	case 10:
		q.headers.Add("content-type", pick(r, []string{"application/grpc", "application/grpc+proto", "application/grpc-web", "application/json"}))
	case 11:
		if strings.HasPrefix(q.target, "/") {
			// The codec is stricter with a URL's host and port than with Host.
			if host, _, _ := strings.Cut(pick(r, v.hosts), ":"); !strings.ContainsAny(host, `*\^$()?+`) {
				q.target = "http://" + host + q.target
			}
		}
	}
}

func twistHost(r *rand.Rand, host string) string {
	switch r.IntN(6) {
	case 0:
		return host + pick(r, []string{":80", ":8080", ":", ":abc", ":65536", ":99999999"})
	case 1:
		return host + "."
	case 2:
		return strings.ToUpper(host)
	case 3:
		return pick(r, []string{"a b", "a/b", "[::1]", "[::1]:80", "u@" + host, "a,b", "x_y", host + "%00"})
	case 4:
		return host + ".evil.example"
	}
	return "x." + host
}

func twistPath(r *rand.Rand, path string) string {
	at := r.IntN(len(path) + 1)
	return path[:at] + pick(r, []string{"//", "/./", "/../", "/..", "/..;x/", "/.;/", "%2F", "%2f", "%2e", "%2e%2e/", ";a=b", `\`, "%00", "%c0%af", "%31", "%zz", "%", "#f", "?x=1", "é", "[", "{|}", "..", "%25", "~", "/%2E%2e/"}) + path[at:]
}

// engine is the request as the engine takes it.
func (r request) engine(from, to netip.AddrPort) envoy.Request {
	authority, path := r.host, r.target
	if r.noHost {
		authority = ""
	}
	out := envoy.Request{Source: from, Destination: to, Protocol: r.proto, Method: r.method, Scheme: r.scheme, Authority: authority, Path: path}
	for _, h := range r.headers {
		if r.proto != "HTTP/2" {
			h.Name, h.Value = strings.ToLower(h.Name), strings.TrimSpace(h.Value)
		}
		out.Headers = append(out.Headers, h)
	}
	switch {
	case r.proto == "HTTP/2":
	case r.chunked:
		out.Headers.Add("transfer-encoding", "chunked")
	case r.body != "":
		out.Headers.Add("content-length", strconv.Itoa(len(r.body)))
	}
	return out
}
