//go:build e2e

package conformance

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"postern.dev/postern/internal/envoy"
)

// request is one request as it goes on the wire.
type request struct {
	port    uint16
	method  string
	target  string
	host    string
	headers envoy.Headers
	body    string
}

func (r request) raw() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.method, r.target, r.host)
	for _, h := range r.headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h.Name, h.Value)
	}
	if r.body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.body))
	}
	return b.String() + "\r\n" + r.body
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
	case s == "" || len(s) > 200 || strings.ContainsAny(s, " \n"):
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
func (v vocabulary) generate(r *rand.Rand, id int) request {
	q := request{port: pick(r, v.ports), method: pick(r, []string{"GET", "GET", "POST", "POST", "OPTIONS", "HEAD", "PUT"}), host: pick(r, v.hosts), target: pick(r, v.paths)}
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
	if q.target == "" {
		q.target = "/"
	}
	return q
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
			"x-envoy-max-retries", "x-envoy-attempt-count", "x-envoy-upstream-rq-timeout-ms", "x-envoy-peer-metadata", "x-envoy-hedge-on-per-try-timeout", "x-envoy-force-trace", "x-request-id"}), "5")
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

// asked is the request as the engine takes it: the codec's part is done, an
// absolute target split.
func (r request) asked() (authority, path string) {
	authority, path = r.host, r.target
	if _, rest, ok := strings.Cut(r.target, "://"); ok && !strings.HasPrefix(r.target, "/") {
		end := strings.IndexAny(rest, "/?#")
		if end < 0 {
			return rest, "/"
		}
		authority, path = rest[:end], rest[end:]
		if path[0] != '/' {
			path = "/" + path
		}
	}
	return authority, path
}
