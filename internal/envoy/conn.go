package envoy

import (
	"net/netip"
	"slices"
	"strings"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// connManager is what the HTTP connection manager does before the filters.
type connManager struct {
	serverName       string
	useRemoteAddress bool
	normalize        bool
	mergeSlashes     bool
	upgrades         map[string]bool
	egress           bool // x-envoy-decorator-operation goes to the upstream
	unmodelled       []string
}

func compileConnManager(h *hcmv3.HttpConnectionManager, egress bool) *connManager {
	c := &connManager{
		serverName:       h.ServerName,
		useRemoteAddress: h.UseRemoteAddress.GetValue(),
		normalize:        h.NormalizePath.GetValue(),
		mergeSlashes:     h.MergeSlashes,
		upgrades:         map[string]bool{},
		egress:           egress && h.Tracing != nil,
	}
	for _, u := range h.UpgradeConfigs {
		c.upgrades[strings.ToLower(u.UpgradeType)] = u.Enabled == nil || u.Enabled.Value
		c.unmodelled = append(c.unmodelled, fieldsBut(u, "upgrade_type", "enabled")...)
	}
	c.unmodelled = append(c.unmodelled, fieldsBut(h,
		// modelled here
		"server_name", "use_remote_address", "normalize_path", "merge_slashes", "upgrade_configs", "http_filters", "rds", "route_config", "tracing",
		// of no influence on one answer
		"stat_prefix", "access_log", "access_log_options", "codec_type", "stream_idle_timeout", "request_timeout", "delayed_close_timeout", "drain_timeout",
		"request_id_extension", "internal_address_config",
		// of influence only with TLS, which no listener here has: the header is removed
		"forward_client_cert_details", "set_current_client_cert_details",
		// judged below
		"path_with_escaped_slashes_action", "http_protocol_options", "http2_protocol_options", "common_http_protocol_options", "proxy_100_continue",
	)...)
	switch h.PathWithEscapedSlashesAction {
	case hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT, hcmv3.HttpConnectionManager_KEEP_UNCHANGED:
	default:
		c.unmodelled = append(c.unmodelled, "HttpConnectionManager.path_with_escaped_slashes_action="+h.PathWithEscapedSlashesAction.String())
	}
	c.unmodelled = append(c.unmodelled, fieldsBut(h.HttpProtocolOptions, "accept_http_10", "default_host_for_http_10")...)
	c.unmodelled = append(c.unmodelled, fieldsBut(h.CommonHttpProtocolOptions, "idle_timeout", "max_connection_duration")...)
	if h.InternalAddressConfig != nil {
		c.unmodelled = append(c.unmodelled, fieldsBut(h.InternalAddressConfig)...)
	}
	return c
}

// stream is one request on its way through the filters.
type stream struct {
	method, authority, path, protocol string
	headers                           Headers
	source, destination               netip.AddrPort
	metadata                          metadata
	upgrade                           string
	attempted                         bool
	response                          ResponseChange
	env                               Env
	trace                             *Trace

	routes   *routeTable
	route    *route // the cached route
	chosen   bool   // route holds the choice, nil for none
	unknown  string // why the last maybe was one
	listener *listener
	at       int  // the place of the filter that is being run
	egress   bool // the route's decorator goes to the upstream
}

// x-envoy-* headers that a request from outside may not carry
// (ConnectionManagerUtility::cleanInternalHeaders).
var internalHeaders = []string{
	"x-envoy-internal", "x-envoy-decorator-operation", "x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node", "x-envoy-original-path", "x-envoy-original-host",
	"x-envoy-retriable-header-names", "x-envoy-retry-on", "x-envoy-retry-grpc-on", "x-envoy-max-retries", "x-envoy-upstream-alt-stat-name",
	"x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-rq-timeout-alt-response",
	"x-envoy-expected-rq-timeout-ms", "x-envoy-force-trace", "x-envoy-ip-tags", "x-envoy-original-url", "x-envoy-retriable-status-codes", "x-envoy-hedge-on-per-try-timeout",
}

// accept does the connection manager's part: it normalises the path, rewrites
// the headers, and answers what may not go on. A nil Outcome goes on.
func (c *connManager) accept(req Request, s *stream) *Outcome {
	if len(c.unmodelled) > 0 {
		return unknown(strings.Join(c.unmodelled, ", "))
	}
	if !validTarget(req.Path) {
		return s.local(400, "Bad Request", "http1.codec_error")
	}
	if !validAuthority(req.Authority) {
		return s.local(400, "Bad Request", "http1.codec_error")
	}
	if req.Method == "CONNECT" {
		return unknown("method CONNECT")
	}
	s.method, s.authority, s.protocol = req.Method, req.Authority, req.Protocol
	s.source, s.destination = req.Source, req.Destination
	s.headers = combine(req.Headers)

	path, _, _ := strings.Cut(req.Path, "#") // http_reject_path_with_fragment is false in Istio's bootstrap
	if c.normalize {
		ok := false
		if path, ok = normalizePath(path); !ok {
			return s.local(400, "", "path_normalization_failed")
		}
	}
	if c.mergeSlashes {
		path = mergeSlashes(path)
	}
	s.path = path
	if path != req.Path {
		s.trace.add(Step{Stage: "connection", Text: "path " + req.Path + " becomes " + path})
	}
	return c.headers(s)
}

// combine joins what Envoy keeps in one field.
func combine(in Headers) Headers {
	out := make(Headers, 0, len(in)+8)
	for _, h := range in {
		out.Add(h.Name, h.Value)
	}
	return out
}

// The addresses Envoy takes for its own machine (Network::Utility::isLoopbackAddress):
// not the rest of 127.0.0.0/8. For them x-forwarded-for shows Envoy's own address.
var localhost4, localhost6 = netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()

func (c *connManager) headers(s *stream) *Outcome {
	h := &s.headers
	if up, ok := upgradeOf(s.headers); ok && up != "h2c" {
		if !c.upgrades[up] {
			return s.local(403, "", "upgrade_failed")
		}
		s.upgrade = up
	} else {
		h.removeNominated()
		h.Remove("connection")
		h.Remove("upgrade")
		h.Remove("http2-settings")
	}
	if te, ok := h.Get("te"); ok { // ConnectionManagerUtility::sanitizeTEHeader
		h.Remove("te")
		if slices.ContainsFunc(strings.Split(te, ","), func(t string) bool { return strings.EqualFold(strings.TrimSpace(t), "trailers") }) {
			h.Add("te", "trailers")
		}
	}
	for _, name := range []string{"keep-alive", "proxy-connection", "transfer-encoding"} {
		h.Remove(name)
	}
	if expect, _ := h.Get("expect"); strings.EqualFold(expect, "100-continue") {
		h.Remove("expect") // answered here
	}
	if !c.useRemoteAddress {
		return unknown("HttpConnectionManager.use_remote_address=false")
	}
	peer := s.source.Addr().Unmap()
	shown := peer
	if peer == localhost4 || peer == localhost6 {
		shown = s.destination.Addr().Unmap()
	}
	if xff, ok := h.Get("x-forwarded-for"); ok && xff != "" {
		h.Set("x-forwarded-for", xff+","+shown.String())
	} else {
		h.Set("x-forwarded-for", shown.String())
	}
	h.Set("x-forwarded-proto", "http")
	for _, name := range internalHeaders {
		h.Remove(name)
	}
	h.Set("x-envoy-external-address", peer.String())
	h.Set("x-request-id", s.env.RequestID)
	h.Remove("x-forwarded-client-cert")
	return nil
}

// removeNominated removes the headers that Connection names (RFC 9110, 7.6.1;
// Envoy's Utility::sanitizeConnectionHeader), before any filter sees them: what a
// filter adds later, a client cannot take away.
func (h *Headers) removeNominated() {
	connection, ok := h.Get("connection")
	if !ok {
		return
	}
	for _, name := range strings.Split(strings.ToLower(connection), ",") {
		if name = strings.TrimSpace(name); name != "" && name != "close" && name != "te" {
			h.Remove(name)
		}
	}
}

func upgradeOf(h Headers) (string, bool) {
	connection, _ := h.Get("connection")
	upgrade, ok := h.Get("upgrade")
	if !ok || upgrade == "" {
		return "", false
	}
	tokens := strings.Split(strings.ToLower(connection), ",")
	if !slices.ContainsFunc(tokens, func(t string) bool { return strings.TrimSpace(t) == "upgrade" }) {
		return "", false
	}
	return strings.ToLower(upgrade), true
}

// validTarget is what Envoy's HTTP/1 codec (Balsa) takes for a path: printable
// ASCII from a leading slash on.
func validTarget(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	for i := range len(path) {
		if path[i] <= ' ' || path[i] >= 0x7f {
			return false
		}
	}
	return true
}

// validAuthority is nghttp2's check of :authority (HeaderUtility::authorityIsValid).
func validAuthority(a string) bool {
	for i := range len(a) {
		c := a[i]
		if !unreserved(c) && !strings.ContainsRune("!$%&'()*+,:;=@[]", rune(c)) {
			return false
		}
	}
	return true
}

func mergeSlashes(path string) string {
	path, query, has := strings.Cut(path, "?")
	var b strings.Builder
	for i := range len(path) {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			b.WriteByte(path[i])
		}
	}
	if has {
		return b.String() + "?" + query
	}
	return b.String()
}
