package envoy

import (
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
	anyPort     bool // strip_any_host_port
	ownPort     bool // strip_matching_host_port
	dot         bool // strip_trailing_host_dot
	hops        int  // xff_num_trusted_hops
	keepXFF     bool // skip_xff_append
}

func compileRarer(h *hcmv3.HttpConnectionManager) rarer {
	return rarer{slashes: h.PathWithEscapedSlashesAction, underscores: h.GetCommonHttpProtocolOptions().GetHeadersWithUnderscoresAction(), anyPort: h.GetStripAnyHostPort(), ownPort: h.StripMatchingHostPort,
		dot: h.StripTrailingHostDot, hops: int(h.XffNumTrustedHops), keepXFF: h.SkipXffAppend}
}

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
