package envoy

import (
	"slices"
	"strconv"
	"strings"
)

// codec is what Envoy's codecs do to a request, and what they and the connection
// manager refuse by its form alone. Sources, Envoy 1.40: balsa_parser.cc
// (isUrlValid, isMethodValid), http1/codec_impl.cc (handlePath),
// conn_manager_impl.cc (decodeHeaders); what HTTP/2 refuses was seen.
func (s *stream) codec(c *connManager, req *Request) *Outcome {
	crowded := c.crowded(req)
	if req.Protocol == "HTTP/2" {
		if crowded {
			return &Outcome{Kind: Local, Reason: "http2.too_many_headers"}
		}
		return s.codec2(req)
	}
	late := lateTarget(req.Path, req.Method == "CONNECT")
	sound := s.target(req)
	if req.Method != "GET" && req.Method != "POST" && !slices.Contains(methods, req.Method) || !sound && !late {
		return s.local(400, "Bad Request", "http1.codec_error")
	}
	switch {
	case crowded:
		return s.local(431, "Request Header Fields Too Large", "http1.too_many_headers")
	case !sound:
		return s.local(400, "Bad Request", "http1.codec_error")
	case s.scheme != "" && s.scheme != "http" && s.scheme != "https":
		return s.local(400, "Bad Request", "http1.invalid_scheme")
	case s.scheme == "https" && s.tls == nil && c.useRemoteAddress && c.hops == 0: // Http1Settings::validate_scheme_
		return s.local(403, "Forbidden", "http1.https_in_plaintext")
	case req.Protocol == "HTTP/1.0" && !c.oldHTTP:
		return s.local(426, "Upgrade Required", "low_version")
	case !validAuthority(req.Authority):
		return s.local(400, "Bad Request", "http1.codec_error")
	}
	if req.Protocol == "HTTP/1.0" && req.Authority == "" {
		req.Authority = c.oldHost
	}
	switch {
	case req.Authority == "":
		return s.early(req, 400, "missing_host_header")
	case req.Path != "" && req.Path[0] != '/':
		return s.early(req, 404, "absolute_path_rejected")
	}
	return nil
}

// lateTarget tells whether a target passes the parser, which looks at the characters of
// the first line alone, so that it may be refused only behind the headers
// (balsa_parser.cc isUrlValid, then http1/codec_impl.cc handlePath).
func lateTarget(target string, connect bool) bool {
	only := func(s, odd string) bool {
		for i := range len(s) {
			if !unreserved(s[i]) && strings.IndexByte(odd, s[i]) < 0 {
				return false
			}
		}
		return true
	}
	path := func(s string) bool {
		return strings.IndexFunc(s, func(r rune) bool { return r > 126 || r < '!' && r != '\t' && r != '\f' }) < 0
	}
	if strings.HasPrefix(target, "/") || strings.HasPrefix(target, "*") {
		return path(target)
	}
	if !connect {
		scheme, rest, ok := strings.Cut(target, "://")
		if !ok || strings.Trim(strings.ToLower(scheme), "abcdefghijklmnopqrstuvwxyz") != "" || scheme == "" {
			return false
		}
		target = rest
	}
	end := strings.IndexAny(target, "/?")
	if end < 0 {
		end = len(target)
	}
	return only(target[:end], "!$&'()*+,;=:@[]%") && path(target[end:])
}

// early is local before the stream has the request: gRPC gets its own form.
func (s *stream) early(req *Request, status int, details string) *Outcome {
	memory := s.headers
	s.method, s.path, s.headers = req.Method, req.Path, req.Headers
	o := s.local(status, "", details)
	s.headers = memory
	return o
}

// methods are those Envoy's HTTP/1 codec takes unless it is told to take any.
var methods = strings.Fields(`ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL MOVE MSEARCH NOTIFY OPTIONS PATCH POST
	PROPFIND PROPPATCH PURGE PUT REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE`)

// target takes the request's target apart. An absolute one says host and scheme,
// whatever Host says. False: refused.
func (s *stream) target(req *Request) bool {
	host := slices.IndexFunc(req.Headers, func(h Header) bool { return h.Name == "host" })
	if host >= 0 { // Host again: the values are joined
		kept := slices.Clone(req.Headers)
		for _, h := range req.Headers {
			if h.Name == "host" {
				req.Authority += "," + h.Value
			}
		}
		kept.Remove("host")
		req.Headers = kept
	}
	if _, valid := targetTraits(req.Path); valid && req.Method != "CONNECT" {
		return true
	}
	for i := range len(req.Path) {
		if req.Path[i] <= ' ' || req.Path[i] >= 0x7f {
			return false
		}
	}
	if req.Method == "CONNECT" {
		host, port, path, ok := splitURL(req.Path)
		if !ok || port == "" || path != "" || strings.IndexByte(req.Path, '@') > 0 { // a host and a port, and no user
			return false
		}
		req.Authority, req.Path = host+":"+port, ""
		return true
	}
	if req.Method == "OPTIONS" && strings.HasPrefix(req.Path, "*") {
		return true
	}
	scheme, rest, ok := strings.Cut(req.Path, "://")
	if !ok || scheme == "" || strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return false
	}
	name, port, path, ok := splitURL(rest)
	if !ok {
		return false
	}
	if port != "" {
		name += ":" + port
	}
	if path == "" {
		path = "/"
	}
	s.scheme, req.Authority, req.Path = strings.ToLower(scheme), name, path
	return true
}

// splitURL splits what follows "scheme://", or CONNECT's target, as http_parser
// does (http_parser_parse_url). User and password go.
func splitURL(s string) (host, port, path string, ok bool) {
	end := strings.IndexAny(s, "/?#")
	if end < 0 {
		end = len(s)
	}
	host, path = s[:end], s[end:]
	if strings.HasPrefix(path, "#") {
		return "", "", "", false
	}
	if user, name, found := strings.Cut(host, "@"); found {
		for i := range len(user) {
			if c := user[i]; !unreserved(c) && strings.IndexByte("!*'()%;:&=+$,", c) < 0 {
				return "", "", "", false
			}
		}
		host = name // in which no other @ may be
	}
	digits, found := "", false
	if strings.HasPrefix(host, "[") {
		close := strings.IndexByte(host, ']')
		if close < 2 || strings.Trim(host[1:close], "0123456789abcdefABCDEF:.") != "" {
			return "", "", "", false
		}
		rest := host[close+1:]
		if host, digits, found = host[:close+1], strings.TrimPrefix(rest, ":"), rest != ""; found && rest[0] != ':' {
			return "", "", "", false
		}
	} else {
		host, digits, found = strings.Cut(host, ":")
		for i := range len(host) {
			if c := host[i]; !unreserved(c) || c == '~' || c == '_' {
				return "", "", "", false
			}
		}
	}
	if host == "" {
		return "", "", "", false
	}
	if found {
		for i := range len(digits) {
			if digits[i] < '0' || digits[i] > '9' {
				return "", "", "", false
			}
		}
		if n, err := strconv.ParseUint(digits, 10, 64); err != nil || n > 0xffff {
			return "", "", "", false
		}
	}
	return host, digits, path, true
}

// codec2 is codec for HTTP/2: what Envoy takes for malformed ends the connection.
func (s *stream) codec2(req *Request) *Outcome {
	cookies := 0
	for i := range req.Headers {
		h := &req.Headers[i]
		switch h.Name {
		case "host":
			if cookies = 2; strings.Contains(h.Value, "@") || !validAuthority(h.Value) {
				return malformed()
			}
		case "cookie":
			cookies++
		case "connection", "upgrade", "keep-alive", "proxy-connection", "transfer-encoding":
			return malformed()
		}
		if h.Name == "te" && h.Value != "trailers" || !isToken(h.Name) || h.Name != strings.ToLower(h.Name) {
			return malformed()
		}
	}
	if cookies > 1 {
		req.gather()
	}
	s.scheme = strings.ToLower(req.Scheme)
	if !isToken(req.Method) || req.Authority == "" || strings.Contains(req.Authority, "@") || !validAuthority(req.Authority) {
		return malformed()
	}
	if req.Method == "CONNECT" {
		req.Path = ""
		return nil
	}
	for i := range len(req.Path) {
		if c := req.Path[i]; c <= ' ' || c == 0x7f {
			return malformed()
		}
	}
	switch {
	case req.Scheme == "" || req.Path == "":
		return malformed()
	case req.Path[0] == '/':
		return nil
	case s.scheme == "http" || s.scheme == "https": // of other schemes nothing is known
		if req.Method != "OPTIONS" || req.Path != "*" {
			return malformed()
		}
	}
	return s.early(req, 404, "absolute_path_rejected")
}

// gather makes one header of HTTP/2's cookies. Host counts only without
// :authority.
func (req *Request) gather() {
	var cookies []string
	kept := make(Headers, 0, len(req.Headers))
	for _, h := range req.Headers {
		switch h.Name {
		case "host":
			if req.Authority == "" {
				req.Authority = h.Value
			}
		case "cookie":
			cookies = append(cookies, h.Value)
		default:
			kept = append(kept, h)
		}
	}
	if cookies != nil {
		kept = append(kept, Header{"cookie", strings.Join(cookies, "; ")})
	}
	req.Headers = kept
}

// isToken is RFC 9110's token.
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; !unreserved(c) && !strings.ContainsRune("!#$%&'*+^`|", rune(c)) {
			return false
		}
	}
	return s != ""
}

// malformed is no answer: Envoy ends the HTTP/2 connection.
func malformed() *Outcome { return &Outcome{Kind: Local, Reason: "http2.codec_error"} }
