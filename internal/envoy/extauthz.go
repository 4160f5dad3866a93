package envoy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/grpc/codes"
)

// extAuthz is envoy.filters.http.ext_authz.
type extAuthz struct {
	name      string
	cluster   string
	timeout   time.Duration
	grpc      bool
	enabled   predicate // filter_enabled_metadata; nil: always
	failOpen  bool
	onError   int
	clear     bool     // clear_route_cache
	routeMeta []string // route_metadata_context_namespaces
	meta      []string // metadata_context_namespaces
	failMark  bool     // failure_mode_allow_header_add
	extra     []Header // headers_to_add of an HTTP check

	someHeaders    bool // allowed_headers limits what a gRPC check shows
	pathPrefix     string
	allowed        []stringMatcher // request headers sent; HTTP always sends authorization
	disallowed     []stringMatcher // request headers not sent whatever allowed says
	upstream       []stringMatcher // headers of a 200 that reach the upstream
	upstreamAppend []stringMatcher
	client         []stringMatcher // headers of a refusal that reach the client; none: all
	clientOK       []stringMatcher
	unmodelled     []string
}

func compileExtAuthz(name string, c *extauthzv3.ExtAuthz) (filter, error) {
	f := &extAuthz{name: name, failOpen: c.FailureModeAllow, onError: 403, clear: c.ClearRouteCache, routeMeta: c.RouteMetadataContextNamespaces,
		meta: c.MetadataContextNamespaces, failMark: c.FailureModeAllowHeaderAdd}
	f.unmodelled = fieldsBut(c, "grpc_service", "http_service", "transport_api_version", "failure_mode_allow", "status_on_error", "clear_route_cache",
		"filter_enabled_metadata", "stat_prefix", "route_metadata_context_namespaces", "allowed_headers",
		"disallowed_headers", "metadata_context_namespaces", "failure_mode_allow_header_add", "filter_enabled", "charge_cluster_response_stats", "emit_filter_state_stats", "enable_dynamic_metadata_ingestion")
	if code := c.GetStatusOnError().GetCode(); code != 0 {
		f.onError = int(code)
	}
	if m := c.FilterEnabledMetadata; m != nil {
		var err error
		if f.enabled, err = metadataPredicate(m); err != nil {
			return nil, fmt.Errorf("filter %s: filter_enabled_metadata: %w", name, err)
		}
	}
	err := f.matchers(c.GetAllowedHeaders(), &f.allowed)
	if err != nil {
		return nil, fmt.Errorf("filter %s: allowed_headers: %w", name, err)
	}
	if err := f.matchers(c.GetDisallowedHeaders(), &f.disallowed); err != nil {
		return nil, fmt.Errorf("filter %s: disallowed_headers: %w", name, err)
	}
	f.someHeaders = c.AllowedHeaders != nil
	if p := c.FilterEnabled; p != nil {
		switch chance(p.GetDefaultValue()) {
		case no:
			return nil, nil
		case maybe:
			f.unmodelled = append(f.unmodelled, "ExtAuthz.filter_enabled: a check by chance")
		}
	}
	switch s := c.Services.(type) {
	case *extauthzv3.ExtAuthz_GrpcService:
		f.grpc = true
		f.cluster, f.timeout = s.GrpcService.GetEnvoyGrpc().GetClusterName(), s.GrpcService.GetTimeout().AsDuration()
		f.unmodelled = append(f.unmodelled, fieldsBut(s.GrpcService, "envoy_grpc", "timeout")...)
		f.unmodelled = append(f.unmodelled, fieldsBut(s.GrpcService.GetEnvoyGrpc(), "cluster_name", "authority")...)
	case *extauthzv3.ExtAuthz_HttpService:
		err = f.http(s.HttpService)
	default:
		f.unmodelled = append(f.unmodelled, fmt.Sprintf("ExtAuthz.%T", c.Services))
	}
	if err != nil {
		return nil, fmt.Errorf("filter %s: %w", name, err)
	}
	return f, nil
}

func (f *extAuthz) http(s *extauthzv3.HttpService) error {
	f.cluster, f.timeout, f.pathPrefix = s.GetServerUri().GetCluster(), s.GetServerUri().GetTimeout().AsDuration(), s.PathPrefix
	req, resp := s.GetAuthorizationRequest(), s.GetAuthorizationResponse()
	f.unmodelled = append(f.unmodelled, fieldsBut(s, "server_uri", "path_prefix", "authorization_request", "authorization_response")...)
	f.unmodelled = append(f.unmodelled, fieldsBut(req, "allowed_headers", "headers_to_add")...)
	for _, h := range req.GetHeadersToAdd() {
		if strings.Contains(h.Value, "%") {
			f.unmodelled = append(f.unmodelled, "AuthorizationRequest.headers_to_add with a format string")
		}
		f.extra = append(f.extra, Header{strings.ToLower(h.Key), h.Value})
	}
	f.unmodelled = append(f.unmodelled, fieldsBut(resp, "allowed_upstream_headers", "allowed_upstream_headers_to_append", "allowed_client_headers", "allowed_client_headers_on_success")...)
	for _, list := range []struct {
		in  *matcherv3.ListStringMatcher
		out *[]stringMatcher
	}{
		{req.GetAllowedHeaders(), &f.allowed}, {resp.GetAllowedUpstreamHeaders(), &f.upstream}, {resp.GetAllowedUpstreamHeadersToAppend(), &f.upstreamAppend},
		{resp.GetAllowedClientHeaders(), &f.client}, {resp.GetAllowedClientHeadersOnSuccess(), &f.clientOK},
	} {
		if err := f.matchers(list.in, list.out); err != nil {
			return err
		}
	}
	return nil
}

// matchers compiles a list of header name matchers.
func (f *extAuthz) matchers(in *matcherv3.ListStringMatcher, out *[]stringMatcher) error {
	for _, p := range in.GetPatterns() {
		m, err := compileString(p)
		if err != nil {
			return err
		}
		if m.unmodelled != "" {
			f.unmodelled = append(f.unmodelled, m.unmodelled)
			continue
		}
		*out = append(*out, m)
	}
	return nil
}

func matchesAny(list []stringMatcher, name string) bool {
	for i := range list {
		if list[i].match(name) {
			return true
		}
	}
	return false
}

func (f *extAuthz) decode(s *stream) *Outcome {
	if len(f.unmodelled) > 0 {
		return unknown("filter " + f.name + ": " + strings.Join(f.unmodelled, ", "))
	}
	if !s.choose() {
		return unknown(s.unknown)
	}
	if s.route == nil { // Filter::getPerRouteFlags: without a route the check is skipped
		s.reach("no route")
		s.trace.add(Step{Stage: f.name, Text: "not asked: no route"})
		return nil
	}
	if skip, why := f.disabledByRoute(s); why != "" {
		return unknown(why)
	} else if skip {
		s.reach("disabled by the route")
		s.trace.add(Step{Stage: f.name, Text: "not asked: disabled by the route's configuration", Object: s.route.info.Object()})
		return nil
	}
	if f.enabled != nil {
		switch f.enabled(s) {
		case no:
			s.reach("not enabled")
			s.trace.add(Step{Stage: f.name, Text: "not asked: no CUSTOM policy matched"})
			return nil
		case maybe:
			return unknown(s.unknown)
		}
	}
	if slices.ContainsFunc(f.meta, func(ns string) bool { return !s.metadata.known(ns) }) {
		return unknown(s.untold)
	}
	if s.env.Authorize == nil {
		return unknown("the answer of authorizer " + f.cluster)
	}
	if f.grpc {
		return f.grpcAnswer(s, s.env.Authorize(Check{Cluster: f.cluster, Timeout: f.timeout, GRPC: f.grpcCheck(s)}))
	}
	return f.httpAnswer(s, s.env.Authorize(Check{Cluster: f.cluster, Timeout: f.timeout, HTTP: f.httpCheck(s)}))
}

// disabledByRoute reads ExtAuthzPerRoute of the route in force.
func (f *extAuthz) disabledByRoute(s *stream) (skip bool, unknown string) {
	c := s.perRoute(f.name)
	if c == nil {
		return false, ""
	}
	per, ok := c.(*extauthzv3.ExtAuthzPerRoute)
	if !ok {
		return false, "route configuration of filter " + f.name
	}
	if per.GetDisabled() {
		return true, ""
	}
	if extra := fieldsBut(per.GetCheckSettings(), "context_extensions", "disable_request_body_buffering"); len(extra) > 0 {
		return false, strings.Join(extra, ", ")
	}
	return false, ""
}

// httpCheck is the request to an HTTP authorizer: method, path, host and
// authorization always, other headers as allowed, as a gRPC check would hold them, and no body
// (ClientConfig::toRequestMatchers, RawHttpClientImpl::check; the last two
// headers are added by Envoy's own HTTP client).
func (f *extAuthz) httpCheck(s *stream) *Upstream {
	u := &Upstream{Method: s.method, Authority: utf8Only(s.authority), Path: f.pathPrefix + utf8Only(s.path)}
	u.Headers.Add("content-length", "0")
	seen := map[string]bool{"content-length": true}
	for _, h := range s.headers { // the check's headers are a map: repeated values are joined
		if !seen[h.Name] && (h.Name == "authorization" || matchesAny(f.allowed, h.Name)) && !matchesAny(f.disallowed, h.Name) {
			seen[h.Name] = true
			value, _ := s.headers.Get(h.Name)
			u.Headers = append(u.Headers, Header{h.Name, utf8Only(value)})
		}
	}
	for _, h := range f.extra {
		u.Headers.Set(h.Name, h.Value)
	}
	u.Headers.Add("x-envoy-internal", "true")
	if f.timeout > 0 {
		u.Headers.Add("x-envoy-expected-rq-timeout-ms", strconv.FormatInt(f.timeout.Milliseconds(), 10))
	}
	return u
}

func (f *extAuthz) fails(s *stream, err error) *Outcome {
	s.reach("failed")
	if f.failOpen {
		if f.failMark {
			s.headers.Add("x-envoy-auth-failure-mode-allowed", "true")
		}
		s.trace.add(Step{Stage: f.name, Text: "the authorizer " + f.cluster + " failed and failure_mode_allow lets the request through"})
		return nil
	}
	s.trace.add(Step{Stage: f.name, Text: fmt.Sprintf("the authorizer %s failed: %v", f.cluster, err)})
	return s.local(f.onError, "", "ext_authz_error")
}

// httpAnswer: 200 allows, a 5xx is a failure, everything else refuses with the
// authorizer's own answer (RawHttpClientImpl::toResponse).
func (f *extAuthz) httpAnswer(s *stream, a Answer) *Outcome {
	switch {
	case a.Err != nil:
		return f.fails(s, a.Err)
	case a.Status >= 500:
		return f.fails(s, fmt.Errorf("status %d", a.Status))
	case a.Status != 200:
		var headers Headers
		for _, h := range a.Headers {
			if len(f.client) == 0 || matchesAny(f.client, h.Name) || slices.Contains([]string{"content-length", "www-authenticate", "location"}, h.Name) {
				headers = append(headers, h)
			}
		}
		return f.refuse(s, a.Status, headers, a.Body)
	}
	change := okChange{}
	for _, h := range a.Headers {
		switch {
		case h.Name == "x-envoy-auth-headers-to-remove":
			for _, name := range strings.Split(h.Value, ",") {
				change.remove = append(change.remove, strings.ToLower(strings.TrimSpace(name)))
			}
		case matchesAny(f.upstream, h.Name):
			change.set = append(change.set, h)
		case matchesAny(f.upstreamAppend, h.Name):
			change.appendTo = append(change.appendTo, h)
		}
		if matchesAny(f.clientOK, h.Name) {
			change.response = append(change.response, HeaderOp{Action: AddHeader, Name: h.Name, Value: h.Value})
		}
	}
	return f.allow(s, change)
}

func (f *extAuthz) grpcAnswer(s *stream, a Answer) *Outcome {
	if a.Err != nil {
		return f.fails(s, a.Err)
	}
	r := a.GRPC
	if md := r.GetDynamicMetadata(); md != nil {
		for k, v := range md.Fields {
			s.metadata.set("envoy.filters.http.ext_authz", k, v)
		}
	}
	if codes.Code(r.GetStatus().GetCode()) != codes.OK {
		if r.GetErrorResponse() != nil {
			return unknown("authorizer's answer: CheckResponse.error_response")
		}
		status := int(r.GetDeniedResponse().GetStatus().GetCode())
		if status == 0 {
			status = 403
		}
		set, _ := options(r.GetDeniedResponse().GetHeaders())
		return f.refuse(s, status, set, r.GetDeniedResponse().GetBody())
	}
	ok := r.GetOkResponse()
	if extra := fieldsBut(ok, "headers", "headers_to_remove", "response_headers_to_add"); len(extra) > 0 {
		return unknown("authorizer's answer: " + strings.Join(extra, ", "))
	}
	change := okChange{remove: lowerAll(ok.GetHeadersToRemove())}
	for _, o := range ok.GetResponseHeadersToAdd() {
		op := HeaderOp{Name: strings.ToLower(o.GetHeader().GetKey()), Value: o.GetHeader().GetValue(), Action: headerAction(o.AppendAction)}
		//lint:ignore SA1019 the deprecated field decides when it is set
		if a := o.Append; a != nil {
			op.Action = map[bool]HeaderAction{true: AddHeader, false: SetHeader}[a.Value]
		}
		change.response = append(change.response, op)
	}
	// Filter::encodeHeaders: what is added, overwritten, added where there is none, overwritten where there is one.
	order := map[HeaderAction]int{AddHeader: 0, SetHeader: 1, AddHeaderIfAbsent: 2, SetHeaderIfThere: 3}
	slices.SortStableFunc(change.response, func(a, b HeaderOp) int { return order[a.Action] - order[b.Action] })
	change.set, change.appendTo = options(ok.GetHeaders())
	return f.allow(s, change)
}

// options are what an answer sets and what it appends to, which the deprecated field
// append tells apart; append_action, keep_empty_value and raw_value count for nothing
// (copyHeaderFieldIntoResponse of Envoy's grpc_impl).
func options(in []*corev3.HeaderValueOption) (set, appendTo Headers) {
	for _, o := range in {
		h := Header{strings.ToLower(o.GetHeader().GetKey()), o.GetHeader().GetValue()}
		//lint:ignore SA1019 see above
		if o.GetAppend().GetValue() {
			appendTo = append(appendTo, h)
		} else {
			set = append(set, h)
		}
	}
	return set, appendTo
}

// okChange is what an authorizer that allows wants changed.
type okChange struct {
	set, appendTo Headers
	response      ResponseChange
	remove        []string
}

func (f *extAuthz) allow(s *stream, c okChange) *Outcome {
	if f.clear && len(c.set)+len(c.appendTo)+len(c.remove) > 0 {
		s.clearRoute()
	}
	overfull := false
	for _, h := range c.set {
		if !s.set(h) {
			return unknown("an authorizer that sets " + h.Name)
		}
		overfull = overfull || s.overfull()
	}
	for _, h := range c.appendTo {
		if !changeable(h.Name) {
			return unknown("an authorizer that appends to " + h.Name)
		}
		if s.headers.join(h.Name, h.Value) { // only where there is one: HeaderMapImpl::appendCopy
			overfull = overfull || s.overfull()
		}
	}
	if overfull {
		s.trace.add(Step{Stage: f.name, Text: "allowed by " + f.cluster + ", which adds to more headers than the listener takes"})
		if !s.choose() { // again, if it is cleared: the reply has the headers of the route's answers
			return unknown(s.unknown)
		}
		return s.local(500, "", "ext_authz_invalid")
	}
	for _, name := range c.remove {
		if !strings.HasPrefix(name, ":") && name != "host" {
			s.headers.Remove(name)
		}
	}
	for _, op := range c.response {
		if strings.HasPrefix(op.Name, ":") {
			return unknown("an authorizer that adds " + op.Name + " to an answer")
		}
		s.answering(op.Action, op.Name, op.Value)
	}
	s.reach("allowed")
	if s.trace != nil {
		s.trace.add(Step{Stage: f.name, Text: "allowed by " + f.cluster})
	}
	return nil
}

// set sets a header of the request, which may be its host, path, method or scheme.
// False: what Envoy makes of it is not modelled.
func (s *stream) set(h Header) bool {
	switch h.Name {
	case ":authority", "host":
		s.authority = h.Value
	case ":path":
		s.path = h.Value
		return h.Value != ""
	case ":method":
		ordinary := s.method != "HEAD" && h.Value != "HEAD" && h.Value != "CONNECT" && h.Value != ""
		s.method = h.Value
		return ordinary
	case ":scheme":
		s.scheme = h.Value
	default:
		s.headers.Set(h.Name, h.Value)
		return h.Name != "" && h.Name[0] != ':'
	}
	return true
}

func (f *extAuthz) refuse(s *stream, status int, headers Headers, body string) *Outcome {
	s.reach("refused")
	s.trace.add(Step{Stage: f.name, Text: fmt.Sprintf("refused by %s with %d", f.cluster, status)})
	for _, h := range headers {
		if strings.HasPrefix(h.Name, ":") {
			return unknown("an authorizer that sets " + h.Name + " in its refusal")
		}
	}
	o := s.local(status, body, "ext_authz_denied")
	_, grpc := o.Headers.Get("grpc-status")
	own := func(name string) bool { // what the local reply decides by itself (Http::Utility::prepareLocalReply)
		return grpc && (name == "content-type" || name == "content-length") || body == "" && name == "content-type"
	}
	for _, h := range headers {
		if !own(h.Name) {
			o.Headers.Remove(h.Name)
		}
	}
	for _, h := range headers {
		if !own(h.Name) {
			o.Headers.Add(h.Name, h.Value)
		}
	}
	return o
}
