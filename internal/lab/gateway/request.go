package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"postern.dev/postern/internal/envoy"
)

// refusal is a request this gateway does not take: Envoy does not, or cannot be
// followed here.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func badRequest(format string, args ...any) error {
	return &refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// fromHTTP reads the request as it came on the wire. What it refuses, Envoy's codecs
// and connection manager refuse before any filter (e2e/gateway compares).
func fromHTTP(req *http.Request, local netip.AddrPort) (envoy.Request, error) {
	if err := acceptable(req); err != nil {
		return envoy.Request{}, err
	}
	source, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return envoy.Request{}, fmt.Errorf("peer address %q: %w", req.RemoteAddr, err)
	}
	path, err := pathOf(req)
	if err != nil {
		return envoy.Request{}, err
	}
	proto := "HTTP/1.1"
	if req.ProtoMajor == 2 {
		proto = "HTTP/2"
	}
	er := envoy.Request{Source: netip.AddrPortFrom(source.Addr().Unmap(), source.Port()), Destination: local, Protocol: proto, Scheme: "http", Method: req.Method, Authority: req.Host, Path: path}
	for name, values := range req.Header {
		for _, v := range values {
			er.Headers.Add(strings.ToLower(name), v)
		}
	}
	// net/http takes these out of the header map.
	if req.ContentLength > 0 && len(req.Header["Content-Length"]) == 0 {
		er.Headers.Add("content-length", strconv.FormatInt(req.ContentLength, 10))
	}
	for _, coding := range req.TransferEncoding {
		er.Headers.Add("transfer-encoding", coding)
	}
	for name := range req.Trailer {
		er.Headers.Add("trailer", strings.ToLower(name))
	}
	return er, nil
}

// methods are those of Envoy's HTTP/1 codec (isMethodValid in
// source/common/http/http1/balsa_parser.cc). Over HTTP/2 it takes any token.
var methods = []string{
	"ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "MSEARCH", "NOTIFY",
	"OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH", "PURGE", "PUT", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
}

// acceptable refuses what has the wrong form whatever the configuration.
func acceptable(req *http.Request) error {
	if status, err := strconv.Atoi(req.Header.Get(refusedHeader)); err == nil {
		return &refusal{status, "too large headers, or more than one length of the body"}
	}
	switch {
	case req.ProtoMajor == 1 && req.ProtoMinor != 1:
		return &refusal{http.StatusUpgradeRequired, req.Proto + " is not spoken here"} // Envoy's answer without accept_http_10
	case req.ProtoMajor == 1 && !slices.Contains(methods, req.Method):
		return badRequest("got method %q, which HTTP/1 does not have", req.Method)
	case req.Host == "": // over HTTP/1.1 Envoy takes an empty Host; net/http cannot send one on
		return badRequest("got no host")
	case req.ProtoMajor == 1:
		return nominations(req.Header["Connection"])
	case !httpguts.ValidHeaderFieldName(req.Method): // the same form: a token
		return badRequest("got method %q, want a token", req.Method)
	case len(req.Header["Content-Length"]) > 1 || len(req.Header["Host"]) > 1:
		return badRequest("got more than one length or host")
	}
	for _, length := range req.Header["Content-Length"] { // net/http takes what is no number for 0
		if _, err := strconv.ParseUint(length, 10, 63); err != nil {
			return badRequest("got %q for the length of the body", length)
		}
	}
	size := len(req.Method) + len(req.Host) + len(req.RequestURI)
	for name, values := range req.Header {
		for _, v := range values {
			size += len(name) + len(v)
		}
	}
	if size > maxHead {
		return &refusal{http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("got headers of %d bytes, want at most %d", size, maxHead)}
	}
	return nil
}

// nominations refuses a Connection that names what must not be removed
// (Utility::sanitizeConnectionHeader in source/common/http/utility.cc).
func nominations(connection []string) error {
	names := strings.Split(strings.ToLower(strings.Join(connection, ",")), ",")
	if len(names) >= 10 {
		return badRequest("got %d names in Connection, want fewer than 10", len(names))
	}
	for _, name := range names {
		switch name = strings.TrimSpace(name); {
		case name == "host" || strings.HasPrefix(name, ":") || name == "x-forwarded-for" || name == "x-forwarded-host" || name == "x-forwarded-proto":
			return badRequest("Connection may not name %s", name)
		}
	}
	return nil
}

// pathOf is the request's path and query. In the absolute form net/http has taken
// the host from it already.
func pathOf(req *http.Request) (string, error) {
	target := req.RequestURI
	if strings.HasPrefix(target, "/") || req.Method == http.MethodConnect {
		return target, nil
	}
	scheme, rest, ok := strings.Cut(target, "://")
	switch {
	case target == "*" && req.Method == http.MethodOptions:
		return "", &refusal{http.StatusNotFound, "no route is for *"}
	case !ok || req.ProtoMajor == 2:
		return "", badRequest("got a target that is neither a path nor a URL")
	case strings.EqualFold(scheme, "https"):
		return "", &refusal{http.StatusForbidden, "got a URL of https without TLS"}
	case !strings.EqualFold(scheme, "http"):
		return "", badRequest("got a URL of scheme %q", scheme)
	}
	host, path := rest, "/"
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	switch {
	case host == "":
		return "", badRequest("got a URL without a host")
	case path[0] == '?':
		return "", &refusal{http.StatusNotFound, "got a URL without a path, which no route is for"}
	case path[0] == '#':
		return "", badRequest("got a URL with a fragment and no path")
	}
	return path, nil
}
