package envoy

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// rarer is what Istio leaves at its default unless it is told otherwise.
type rarer struct {
	slashes     hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction
	underscores corev3.HttpProtocolOptions_HeadersWithUnderscoresAction
	anyPort     bool   // strip_any_host_port
	ownPort     bool   // strip_matching_host_port
	dot         bool   // strip_trailing_host_dot
	hops        int    // xff_num_trusted_hops
	keepXFF     bool   // skip_xff_append
	oldHTTP     bool   // accept_http_10
	oldHost     string // default_host_for_http_10
	maxHeaders  int    // max_headers_count, 0 for the default
}

// defaultHeaders is Http::DEFAULT_MAX_HEADERS_COUNT.
const defaultHeaders = 100

func compileRarer(h *hcmv3.HttpConnectionManager) rarer {
	return rarer{maxHeaders: int(h.GetCommonHttpProtocolOptions().GetMaxHeadersCount().GetValue()), slashes: h.PathWithEscapedSlashesAction, underscores: h.GetCommonHttpProtocolOptions().GetHeadersWithUnderscoresAction(), anyPort: h.GetStripAnyHostPort(), ownPort: h.StripMatchingHostPort,
		dot: h.StripTrailingHostDot, hops: int(h.XffNumTrustedHops), keepXFF: h.SkipXffAppend,
		oldHTTP: h.GetHttpProtocolOptions().GetAcceptHttp_10(), oldHost: h.GetHttpProtocolOptions().GetDefaultHostForHttp_10()}
}

// crowded tells whether a request has more headers than the codec takes. It counts the
// entries of Envoy's header map as they come: what that keeps as one value is one; Host
// and the pseudo headers count (http1/codec_impl.cc completeCurrentHeader, http2/codec_impl.cc saveHeader).
func (c *rarer) crowded(req *Request) bool {
	most := cmp.Or(c.maxHeaders, defaultHeaders)
	if len(req.Headers)+4 <= most {
		return false
	}
	n, http2 := 0, req.Protocol == "HTTP/2"
	switch {
	case http2 && req.Method == "CONNECT":
		n = 2
	case http2:
		n = 4
	case req.Authority != "":
		n = 1
	}
	var seen headerClass
	for i := range req.Headers {
		name := req.Headers[i].Name
		class := classOf(name) &^ headerFlags
		switch {
		case name == "host" && !http2:
			continue
		case c.underscores != corev3.HttpProtocolOptions_ALLOW && strings.Contains(name, "_"):
			if c.underscores == corev3.HttpProtocolOptions_REJECT_REQUEST {
				return n > most // refused for that, if it came so far
			}
			continue
		case classOf(name)&headerJoined != 0 && seen&class != 0:
			continue
		}
		seen |= class
		n++
	}
	return n > most
}

// overfull tells whether the request's headers are more, or larger, than the codec would
// have taken: what ext_authz looks at after each header that an authorizer sets (seen with
// Envoy 1.40, e2e/conformance). The four pseudo headers count.
func (s *stream) overfull() bool {
	size := len(":authority:method:path:scheme") + len(s.authority) + len(s.method) + len(s.path) + len(s.scheme)
	for i := range s.headers {
		size += len(s.headers[i].Name) + len(s.headers[i].Value)
	}
	return len(s.headers)+4 > cmp.Or(s.listener.conn.maxHeaders, defaultHeaders) || size > maxHeaderBytes
}

// maxHeaderBytes is Http::DEFAULT_MAX_REQUEST_HEADERS_KB; another limit is not modelled.
const maxHeaderBytes = 60 << 10

// form applies what concerns the host and the names of headers. The headers are
// the caller's and stay as they are.
func (c *rarer) form(s *stream, req *Request) *Outcome {
	if c.underscores != corev3.HttpProtocolOptions_ALLOW {
		var kept Headers
		for _, h := range req.Headers {
			if strings.Contains(h.Name, "_") {
				if c.underscores == corev3.HttpProtocolOptions_DROP_HEADER {
					continue
				}
				if s.protocol == "HTTP/2" {
					return malformed()
				}
				return s.local(400, "Bad Request", "http1.unexpected_underscore")
			}
			kept = append(kept, h)
		}
		req.Headers = kept
	}
	if req.Method == "CONNECT" || !c.dot && !c.anyPort && !c.ownPort {
		return nil
	}
	host, port := splitPort(req.Authority)
	if c.dot {
		host = strings.TrimSuffix(host, ".")
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(port, ":"), 10, 32); err == nil && (c.anyPort || c.ownPort && n == uint64(req.Destination.Port())) {
		port = ""
	}
	req.Authority = host + port
	return nil
}

// splitPort splits a host from its port, which keeps the colon.
func splitPort(authority string) (host, port string) {
	i := strings.LastIndexByte(authority, ':')
	if i < 0 || strings.Contains(authority[i:], "]") {
		return authority, ""
	}
	return authority[:i], authority[i:]
}

// slash applies path_with_escaped_slashes_action to a path with its query, before
// it is normalised (PathUtil::unescapeSlashes). True: the action wants the request
// refused or sent elsewhere.
func (c *rarer) slash(path string) (string, bool) {
	if c.slashes == hcmv3.HttpConnectionManager_KEEP_UNCHANGED || c.slashes == hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT {
		return path, false
	}
	path, query, has := strings.Cut(path, "?")
	plain := escapedSlashes.Replace(path)
	found := plain != path
	if has {
		plain += "?" + query
	}
	return plain, found && c.slashes != hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD
}

var escapedSlashes = strings.NewReplacer("%2F", "/", "%2f", "/", "%5C", `\`, "%5c", `\`)

// redirectPlain is the answer to a path whose slashes were escaped: to the plain one.
func (s *stream) redirectPlain(c *connManager, path string) *Outcome {
	if c.normalize {
		var ok bool
		if path, ok = normalizePath(path); !ok {
			return s.local(400, "", "path_normalization_failed")
		}
	}
	if c.mergeSlashes {
		path = mergeSlashes(path)
	}
	o := s.local(307, "", "path_normalization_failed")
	o.Headers.Set("location", path)
	return o
}

// fromForwardedFor is the address that stands in x-forwarded-for before the last
// skip ones (Http::Utility::getLastAddressFromXFF).
func fromForwardedFor(xff string, skip int) (netip.Addr, bool) {
	for range skip {
		i := strings.LastIndexByte(xff, ',')
		if i < 0 {
			return netip.Addr{}, false
		}
		xff = xff[:i]
	}
	if i := strings.LastIndexByte(xff, ','); i >= 0 {
		xff = xff[i+1:]
	}
	a, err := netip.ParseAddr(strings.TrimSpace(xff))
	return a, err == nil && a.Zone() == ""
}
