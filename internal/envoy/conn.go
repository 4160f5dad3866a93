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
	ingress          bool // x-envoy-decorator-operation ends here
	certificate      hcmv3.HttpConnectionManager_ForwardClientCertDetails
	certificateParts *hcmv3.HttpConnectionManager_SetCurrentClientCertDetails
	unmodelled       []string
	rarer
}

func compileConnManager(h *hcmv3.HttpConnectionManager, egress bool) *connManager {
	c := &connManager{
		serverName:       h.ServerName,
		useRemoteAddress: h.UseRemoteAddress.GetValue(),
		normalize:        h.NormalizePath.GetValue(),
		mergeSlashes:     h.MergeSlashes,
		upgrades:         map[string]bool{},
		egress:           egress && h.Tracing != nil,
		certificate:      h.ForwardClientCertDetails,
		certificateParts: h.SetCurrentClientCertDetails,
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
		"forward_client_cert_details", "set_current_client_cert_details",
		// judged below
		"path_with_escaped_slashes_action", "strip_any_host_port", "strip_matching_host_port", "strip_trailing_host_dot", "xff_num_trusted_hops", "skip_xff_append", "http_protocol_options", "http2_protocol_options", "common_http_protocol_options", "proxy_100_continue",
	)...)
	c.rarer = compileRarer(h)
	c.unmodelled = append(c.unmodelled, fieldsBut(h.HttpProtocolOptions, "accept_http_10", "default_host_for_http_10")...)
	c.unmodelled = append(c.unmodelled, fieldsBut(h.CommonHttpProtocolOptions, "idle_timeout", "max_connection_duration", "headers_with_underscores_action", "max_headers_count", "max_requests_per_connection", "max_stream_duration")...)
	if h.InternalAddressConfig != nil {
		c.unmodelled = append(c.unmodelled, fieldsBut(h.InternalAddressConfig)...)
	}
	return c
}

// stream is one request on its way through the filters.
type stream struct {
	method, authority, path, protocol, scheme string
	headers                                   Headers
	source, destination                       netip.AddrPort
	remote                                    netip.Addr // the client, as x-forwarded-for is trusted
	lost                                      lost
	protoless                                 bool   // x-forwarded-proto is there and empty: no route matches
	keyless                                   string // the keys that a token would need
	untold                                    string // why some metadata is not known
	metadata                                  metadata
	upgrade                                   string
	refused                                   bool           // the upgrade is none of those that are allowed
	response                                  ResponseChange // what the filters want
	off                                       uint64         // the filters that the route chosen first switches off
	branch                                    *branch        // the cluster of the route in force
	outcome                                   Outcome
	seen                                      headerClass // of the headers that came
	peer, own                                 addressText // of source and destination
	env                                       Env
	trace                                     *Trace
	tls                                       *TLS   // nil: plaintext
	principal                                 string // filter state io.istio.peer_principal

	routes   *routeTable
	host     *virtualHost // of hostOf, an authority
	hostOf   string
	route    *route // the cached route
	chosen   bool   // route holds the choice, nil for none
	unknown  string // why the last maybe was one
	listener *listener
	at       int  // the place of the filter that is being run
	egress   bool // the route's decorator goes to the upstream
}

// accept does the connection manager's part: it normalises the path, rewrites
// the headers, and answers what may not go on. A nil Outcome goes on.
func (c *connManager) accept(req Request, s *stream) *Outcome {
	if len(c.unmodelled) > 0 {
		return unknown(strings.Join(c.unmodelled, ", "))
	}
	s.protocol = req.Protocol
	if o := s.codec(c, &req); o != nil {
		return o
	}
	if o := c.rarer.form(s, &req); o != nil {
		return o
	}
	s.method, s.authority, s.protocol = req.Method, req.Authority, req.Protocol
	s.source, s.destination = req.Source, req.Destination
	s.remote = req.Source.Addr().Unmap()
	s.combine(req.Headers, c.useRemoteAddress)

	path := req.Path
	s.path = path
	traits, _ := targetTraits(path)
	if traits&pathFragment != 0 {
		path, _, _ = strings.Cut(path, "#") // http_reject_path_with_fragment is false in Istio's bootstrap
	}
	if traits&pathUnusual != 0 {
		plain, stop := c.slash(path)
		switch {
		case !stop:
		case c.slashes == hcmv3.HttpConnectionManager_REJECT_REQUEST:
			return s.local(400, "", "path_normalization_failed")
		default:
			return s.redirectPlain(c, plain)
		}
		path = plain
	}
	if c.normalize && traits&(pathUnusual|pathInvalid) != 0 {
		ok := false
		if path, ok = normalizePath(path); !ok {
			return s.local(400, "", "path_normalization_failed")
		}
	}
	if c.mergeSlashes {
		path = mergeSlashes(path)
	}
	s.path = path
	if s.trace != nil && path != req.Path {
		s.trace.add(Step{Stage: "connection", Text: "path " + req.Path + " becomes " + path})
	}
	o := c.headers(s)
	if s.scheme == "" { // what x-forwarded-proto says by now, else what the connection is
		if s.scheme, _ = s.headers.Get("x-forwarded-proto"); s.scheme != "http" && s.scheme != "https" {
			if s.scheme = "http"; s.tls != nil {
				s.scheme = "https"
			}
		}
	}
	return o
}

// combine copies the headers, joins what Envoy keeps in one field and leaves out
// what goes in any case.
func (s *stream) combine(in Headers, external bool) {
	drop := headerHop
	if external {
		drop |= headerInternal
	}
	for i := range in {
		h := &in[i]
		class := classOf(h.Name)
		if class&drop != 0 || class&headerJoined != 0 && s.seen&class&^headerFlags != 0 && s.headers.join(h.Name, h.Value) {
			continue
		}
		s.seen |= class
		s.headers = append(s.headers, *h)
	}
}

// The addresses Envoy takes for its own machine (Network::Utility::isLoopbackAddress):
// not the rest of 127.0.0.0/8. For them x-forwarded-for shows Envoy's own address.
var localhost4, localhost6 = netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()

func (c *connManager) headers(s *stream) *Outcome {
	if s.seen&headerExamined != 0 {
		c.examine(s)
	}
	if !c.useRemoteAddress {
		c.behindProxy(s)
		return nil
	}
	peer := s.peer.of(s.source.Addr())
	shown := peer
	if s.peer.addr == localhost4 || s.peer.addr == localhost6 {
		shown = s.own.of(s.destination.Addr())
	}
	external := peer
	if s.seen&headerForwardedFor != 0 {
		if xff, ok := s.headers.Get("x-forwarded-for"); ok && xff != "" {
			if c.hops > 0 {
				if a, ok := fromForwardedFor(xff, c.hops-1); ok {
					s.remote, external = a.Unmap(), a.Unmap().String()
				}
			}
			shown = xff + "," + shown
		}
	}
	if !c.keepXFF {
		s.put(headerForwardedFor, "x-forwarded-for", shown)
	}
	if proto, there := s.headers.Get("x-forwarded-proto"); c.hops > 0 && there {
		s.protoless = proto == ""
	} else {
		s.put(headerForwardedProto, "x-forwarded-proto", "http")
	}
	s.put(headerExternalAddress, "x-envoy-external-address", external)
	s.put(headerRequestID, "x-request-id", s.env.RequestID)
	if s.seen&headerClientCert != 0 || s.tls != nil {
		c.clientCertificate(s)
	}
	return nil
}

// put is Headers.Set for a header with a class of its own.
func (s *stream) put(class headerClass, name, value string) {
	if s.seen&class != 0 {
		s.headers.Set(name, value)
		return
	}
	s.headers = append(s.headers, Header{name, value})
}

// examine deals with the headers whose values matter here.
func (c *connManager) examine(s *stream) {
	h := &s.headers
	if up, ok := upgradeOf(s.headers); ok && up != "h2c" {
		s.upgrade, s.refused = up, !c.upgrades[up]
	} else {
		h.removeNominated()
		h.Remove("connection")
		h.Remove("upgrade")
		h.Remove("http2-settings")
	}
	if te, ok := h.Get("te"); ok && s.upgrade == "" { // ConnectionManagerUtility::sanitizeTEHeader
		h.Remove("te")
		for t := range strings.SplitSeq(te, ",") {
			if strings.EqualFold(strings.TrimSpace(t), "trailers") {
				h.Add("te", "trailers")
				break
			}
		}
	}
	if expect, _ := h.Get("expect"); strings.EqualFold(expect, "100-continue") {
		h.Remove("expect") // answered here
	}
}

func upgradeOf(h Headers) (string, bool) {
	connection, _ := h.Get("connection")
	upgrade, ok := h.Get("upgrade")
	if !ok {
		return "", false
	}
	tokens := strings.Split(strings.ToLower(connection), ",")
	if !slices.ContainsFunc(tokens, func(t string) bool { return strings.TrimSpace(t) == "upgrade" }) {
		return "", false
	}
	return strings.ToLower(upgrade), true
}
