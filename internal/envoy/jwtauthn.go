package envoy

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// jwtAuthn is envoy.filters.http.jwt_authn.
type jwtAuthn struct {
	name            string
	providers       map[string]*provider
	rules           []jwtRule
	claimHeaders    []string // of all providers
	bypassPreflight bool
	unmodelled      []string
}

type provider struct {
	name            string
	issuer          string
	audiences       []string
	keys            keySet
	headers         []tokenHeader
	forward         bool
	payloadKey      string   // of the dynamic metadata
	params, cookies []string // where else a token may be
	mustExpire      bool
	payloadHeader   string // gets the token's payload
	padPayload      bool
	remote          *KeySource // nil: keys holds them
	spaceClaims     []string   // claims whose string is a list there
	claims          []claimHeader
	clearRoute      bool
	skew            time.Duration
}

type tokenHeader struct{ name, prefix string }

type claimHeader struct{ header, claim string }

type jwtRule struct {
	match    routeMatch
	requires requirement // nil: nothing
}

// requirement is a JwtRequirement: it looks at the request and says how it went.
type requirement func(s *stream, f *jwtAuthn) jwtStatus

func compileJWT(name string, c *jwtv3.JwtAuthentication) (filter, error) {
	f := &jwtAuthn{name: name, providers: map[string]*provider{}, bypassPreflight: c.BypassCorsPreflight}
	f.unmodelled = fieldsBut(c, "providers", "rules", "bypass_cors_preflight", "stat_prefix")
	for key, p := range c.Providers {
		cp, err := f.provider(key, p)
		if err != nil {
			return nil, fmt.Errorf("filter %s: provider %s: %w", name, key, err)
		}
		f.providers[key] = cp
	}
	for _, r := range c.Rules {
		f.unmodelled = append(f.unmodelled, fieldsBut(r, "match", "requires")...)
		m, err := compileMatch(r.Match)
		if err != nil {
			return nil, fmt.Errorf("filter %s: %w", name, err)
		}
		rule := jwtRule{match: m}
		if r.GetRequires() != nil {
			if rule.requires, err = f.requirement(r.GetRequires()); err != nil {
				return nil, fmt.Errorf("filter %s: %w", name, err)
			}
		}
		f.rules = append(f.rules, rule)
	}
	return f, nil
}

func (f *jwtAuthn) provider(key string, p *jwtv3.JwtProvider) (*provider, error) {
	f.unmodelled = append(f.unmodelled, fieldsBut(p, "issuer", "audiences", "local_jwks", "remote_jwks", "from_params", "from_cookies", "forward_payload_header", "pad_forward_payload_header", "require_expiration", "from_headers", "forward", "payload_in_metadata",
		"normalize_payload_in_metadata", "claim_to_headers", "clear_route_cache", "clock_skew_seconds", "jwt_cache_config")...)
	c := &provider{name: key, issuer: p.Issuer, audiences: p.Audiences, forward: p.Forward, payloadKey: p.PayloadInMetadata,
		spaceClaims: p.GetNormalizePayloadInMetadata().GetSpaceDelimitedClaims(), clearRoute: p.ClearRouteCache, skew: time.Minute}
	if p.ClockSkewSeconds != 0 {
		c.skew = time.Duration(p.ClockSkewSeconds) * time.Second
	}
	c.params, c.cookies, c.mustExpire = p.FromParams, p.FromCookies, p.RequireExpiration
	if name := strings.ToLower(p.ForwardPayloadHeader); name != "" {
		c.payloadHeader, c.padPayload = name, p.PadForwardPayloadHeader
		f.claimHeaders = append(f.claimHeaders, name)
	}
	if r := p.GetRemoteJwks(); r != nil {
		f.unmodelled = append(f.unmodelled, fieldsBut(r, "http_uri", "cache_duration", "async_fetch", "retry_policy")...)
		c.remote = &KeySource{Cluster: r.GetHttpUri().GetCluster(), URI: r.GetHttpUri().GetUri()}
	}
	jwks := p.GetLocalJwks()
	f.unmodelled = append(f.unmodelled, fieldsBut(jwks, "inline_string", "inline_bytes")...)
	var err error
	if c.remote == nil {
		if c.keys, err = parseKeys(jwks.GetInlineString() + string(jwks.GetInlineBytes())); err != nil {
			return nil, err
		}
		if len(c.keys) == 0 && len(fieldsBut(jwks, "inline_string", "inline_bytes")) == 0 {
			return nil, errors.New("local_jwks: no key")
		}
	}
	for _, h := range p.FromHeaders {
		c.headers = append(c.headers, tokenHeader{strings.ToLower(h.Name), h.ValuePrefix})
	}
	// The places are maps by name in Envoy.
	slices.SortFunc(c.headers, func(a, b tokenHeader) int { return strings.Compare(a.name+a.prefix, b.name+b.prefix) })
	c.headers, c.params, c.cookies = slices.Compact(c.headers), distinct(c.params), distinct(c.cookies)
	if len(c.headers)+len(c.params)+len(c.cookies) == 0 {
		c.headers, c.params = []tokenHeader{{"authorization", "Bearer "}}, []string{"access_token"}
	}
	for _, h := range p.ClaimToHeaders {
		c.claims = append(c.claims, claimHeader{strings.ToLower(h.HeaderName), h.ClaimName})
		f.claimHeaders = append(f.claimHeaders, strings.ToLower(h.HeaderName))
	}
	return c, nil
}

func (f *jwtAuthn) requirement(r *jwtv3.JwtRequirement) (requirement, error) {
	switch q := r.RequiresType.(type) {
	case *jwtv3.JwtRequirement_ProviderName:
		p := f.providers[q.ProviderName]
		if p == nil {
			return nil, fmt.Errorf("requires provider %q, which there is none of", q.ProviderName)
		}
		return func(s *stream, f *jwtAuthn) jwtStatus { return f.verify(s, p) }, nil
	case *jwtv3.JwtRequirement_AllowMissingOrFailed:
		return func(*stream, *jwtAuthn) jwtStatus { return jwtOK }, nil
	case *jwtv3.JwtRequirement_RequiresAny:
		return f.anyRequirement(q.RequiresAny.GetRequirements())
	case *jwtv3.JwtRequirement_RequiresAll:
		var all []requirement
		for _, x := range q.RequiresAll.GetRequirements() {
			each, err := f.requirement(x)
			if err != nil {
				return nil, err
			}
			all = append(all, each)
		}
		return func(s *stream, f *jwtAuthn) jwtStatus {
			for _, each := range all {
				if st := each(s, f); st != jwtOK {
					return st
				}
			}
			return jwtOK
		}, nil
	}
	what := fmt.Sprintf("JwtRequirement.%T", r.RequiresType)
	f.unmodelled = append(f.unmodelled, what)
	return func(s *stream, _ *jwtAuthn) jwtStatus { // never asked: see decode
		s.keyless = what
		return jwtMissing
	}, nil
}

// anyRequirement follows AnyVerifierImpl: the first that holds decides; else the
// last status that says more than "missing" or "unknown issuer"; allow_missing
// lets a request without a token through, and no other.
func (f *jwtAuthn) anyRequirement(list []*jwtv3.JwtRequirement) (requirement, error) {
	var each []requirement
	allowMissing, allowFailed := false, false
	for _, x := range list {
		switch x.RequiresType.(type) {
		case *jwtv3.JwtRequirement_AllowMissing:
			allowMissing = true
		case *jwtv3.JwtRequirement_AllowMissingOrFailed:
			allowFailed = true
		default:
			one, err := f.requirement(x)
			if err != nil {
				return nil, err
			}
			each = append(each, one)
		}
	}
	return func(s *stream, f *jwtAuthn) jwtStatus {
		status := jwtMissing
		for _, r := range each {
			got := r(s, f)
			if got == jwtOK {
				return jwtOK
			}
			if got != jwtMissing && (got != jwtUnknownIssuer || status == jwtMissing) {
				status = got
			}
		}
		if allowFailed || allowMissing && status == jwtMissing {
			return jwtOK
		}
		return status
	}, nil
}

func (f *jwtAuthn) decode(s *stream) *Outcome {
	if len(f.unmodelled) > 0 {
		return unknown("filter " + f.name + ": " + strings.Join(f.unmodelled, ", "))
	}
	for _, name := range f.claimHeaders {
		s.headers.Remove(name) // a client's own, for a preflight too
	}
	if f.bypassPreflight && s.preflight() {
		s.reach("preflight")
		s.trace.add(Step{Stage: f.name, Text: "not looked at: a CORS preflight"})
		return nil
	}
	if !s.choose() {
		return unknown(s.unknown)
	}
	if s.perRoute(f.name) != nil {
		return unknown("route configuration of filter " + f.name)
	}
	for _, r := range f.rules {
		switch r.match.test(s) {
		case no:
			continue
		case maybe:
			return unknown("filter " + f.name + ": " + s.unknown)
		}
		if r.requires == nil {
			return nil
		}
		status := r.requires(s, f)
		if s.keyless != "" {
			return unknown("filter " + f.name + ": " + s.keyless)
		}
		if status == jwtOK {
			s.trace.add(Step{Stage: f.name, Text: "passed"})
			return nil
		}
		return f.refuse(s, status)
	}
	return nil
}

// preflight is Http::Utility's notion of a CORS preflight in this filter.
func (s *stream) preflight() bool {
	origin, _ := s.headers.Get("origin")
	method, _ := s.headers.Get("access-control-request-method")
	return s.method == "OPTIONS" && origin != "" && method != ""
}

func (f *jwtAuthn) refuse(s *stream, status jwtStatus) *Outcome {
	s.reach(string(status))
	s.trace.add(Step{Stage: f.name, Text: "refused: " + string(status)})
	code := 401
	if status == jwtAudience {
		code = 403
	}
	o := s.local(code, string(status), "jwt_authn_access_denied{"+strings.ReplaceAll(string(status), " ", "_")+"}")
	// Http::Utility::buildOriginalUri with kMaximumUriLength
	realm := s.scheme + "://" + s.authority + s.path[:min(len(s.path), 256)]
	challenge := `Bearer realm="` + realm + `"`
	if status != jwtMissing {
		challenge += `, error="invalid_token"`
	}
	o.Headers.Set("www-authenticate", challenge)
	return o
}

// verify is one provider's look at the request (AuthenticatorImpl): every token
// found must be good.
func (f *jwtAuthn) verify(s *stream, p *provider) jwtStatus {
	tokens := p.tokens(s)
	if len(tokens) == 0 {
		return jwtMissing
	}
	for _, found := range tokens {
		t, status := parseToken(found.text)
		if status == jwtOK {
			status = p.judge(s, t)
			f.traceToken(s, p, found.where, status)
		}
		if status != jwtOK {
			return status
		}
		f.accept(s, p, t, found)
	}
	return jwtOK
}

// traceToken says how a token was judged, and by whose keys, if it came to that.
func (f *jwtAuthn) traceToken(s *stream, p *provider, header string, status jwtStatus) {
	switch status {
	case jwtOK:
		s.trace.add(Step{Stage: f.name, Text: fmt.Sprintf("the token in %s is good: issuer %s signed it", header, p.issuer), Issuer: p.issuer})
	case jwtNoKey, jwtBadSignature:
		s.trace.add(Step{Stage: f.name, Text: fmt.Sprintf("the token in %s is not signed by a key of issuer %s: %s", header, p.issuer, status), Issuer: p.issuer})
	}
}

// token is what follows the prefix, wherever that stands in the header, from the first
// byte on that a token may have; without one it is the whole value (ExtractorImpl::extract
// and extractJWT).
func (h tokenHeader) token(value string) (string, bool) {
	if h.prefix == "" {
		return value, true
	}
	at := strings.Index(value, h.prefix)
	if at < 0 {
		return "", false
	}
	rest := value[at+len(h.prefix):]
	if start := strings.IndexFunc(rest, func(r rune) bool {
		return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.'
	}); start >= 0 {
		return rest[start:], true
	}
	return value, true
}

func distinct(in []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(in)))
}

func (p *provider) judge(s *stream, t *token) jwtStatus {
	if p.issuer != "" && t.issuer != p.issuer {
		return jwtUnknownIssuer
	}
	if status := t.inTime(s.env.Now, p.skew); status != jwtOK {
		return status
	}
	if len(p.audiences) > 0 && !slices.ContainsFunc(t.audiences, func(a string) bool { return slices.Contains(p.audiences, a) }) {
		return jwtAudience
	}
	if p.mustExpire && t.expires == 0 { // JwksData::isLifetimeAllowed
		return jwtBadSignature
	}
	keys := p.keys
	if p.remote != nil {
		var status jwtStatus
		if keys, status = p.fetch(s); status != jwtOK {
			return status
		}
	}
	return keys.verify(t)
}

// jwtNamespace holds the payloads in the dynamic metadata, whatever the filter's name.
const jwtNamespace = "envoy.filters.http.jwt_authn"

// accept carries a good token's claims into the request.
func (f *jwtAuthn) accept(s *stream, p *provider, t *token, from foundToken) {
	s.reach("token accepted")
	for _, c := range p.claims {
		if value, ok := claimText(t.payload, c.claim); ok {
			s.headers.Add(c.header, value)
		}
	}
	if p.payloadHeader != "" {
		s.headers.Add(p.payloadHeader, t.payloadText(p.padPayload))
	}
	if !p.forward {
		from.remove(s)
	}
	if p.payloadKey != "" {
		if v, err := structpb.NewStruct(p.normalized(t.payload)); err == nil {
			s.metadata.set(jwtNamespace, p.payloadKey, structpb.NewStructValue(v))
		}
	}
	if p.clearRoute {
		s.clearRoute()
	}
}

// normalized is the payload with its space-delimited claims as lists.
func (p *provider) normalized(payload map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range payload {
		if text, ok := v.(string); ok && slices.Contains(p.spaceClaims, k) {
			var list []any
			for _, w := range strings.Split(text, " ") {
				list = append(list, w)
			}
			v = list
		}
		out[k] = v
	}
	return out
}

// claimText is a claim as a header's value: a dot leads into an object; lists and
// objects are base64 of their JSON (AuthenticatorImpl::addJWTClaimToHeader).
func claimText(payload map[string]any, claim string) (string, bool) {
	v, ok := payload[claim]
	if !ok {
		head, rest, nested := strings.Cut(claim, ".")
		inner, isObject := payload[head].(map[string]any)
		if !nested || !isObject {
			return "", false
		}
		return claimText(inner, rest)
	}
	switch v := v.(type) {
	case string:
		return v, v != ""
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		if v >= 0 && v == math.Trunc(v) {
			return strconv.FormatFloat(v, 'f', 0, 64), true
		}
		return strconv.FormatFloat(v, 'f', 6, 64), true // std::to_string, of negative integers too
	case nil:
		return "", false
	}
	data, err := json.Marshal(v)
	if err != nil {
		return "", false
	}
	// protobuf's JSON escapes < and >, Go's & as well
	text := strings.ReplaceAll(string(data), `\u0026`, "&")
	return base64.StdEncoding.EncodeToString([]byte(text)), true
}
