package envoy

import (
	"net/url"
	"slices"
	"strings"
)

// KeySource is where a provider's keys are fetched from.
type KeySource struct{ Cluster, URI string }

const jwtFetchFailed jwtStatus = "Jwks remote fetch is failed"

// fetch asks for the keys of a provider that has none of its own.
func (p *provider) fetch(s *stream) (keySet, jwtStatus) {
	if s.env.Keys == nil {
		s.keyless = "the keys at " + p.remote.URI
		return nil, jwtFetchFailed
	}
	text, err := s.env.Keys(*p.remote)
	if err != nil {
		return nil, jwtFetchFailed
	}
	keys, err := parseKeys(text)
	if err != nil {
		return nil, jwtFetchFailed
	}
	return keys, jwtOK
}

// foundToken is a token and where it was.
type foundToken struct {
	text, where string
	header      string // to be removed with it
	param       string
}

// remove takes an accepted token out of the request. One in a cookie stays.
func (t foundToken) remove(s *stream) {
	switch {
	case t.header != "":
		s.headers.Remove(t.header)
	case t.param != "":
		path, query, _ := strings.Cut(s.path, "?")
		var kept []string
		for part := range strings.SplitSeq(query, "&") {
			if name, _, _ := strings.Cut(part, "="); name != t.param {
				kept = append(kept, part)
			}
		}
		if s.path = path; len(kept) > 0 {
			s.path += "?" + strings.Join(kept, "&")
		}
	}
}

// tokens finds a provider's tokens: in headers, parameters, cookies, in that order
// (ExtractorImpl::extract).
func (p *provider) tokens(s *stream) []foundToken {
	var out []foundToken
	for _, h := range p.headers {
		if value, ok := s.headers.Get(h.name); ok {
			if text, ok := h.token(value); ok {
				out = append(out, foundToken{text: text, where: h.name, header: h.name})
			}
		}
	}
	if _, query, ok := strings.Cut(s.path, "?"); ok && len(p.params) > 0 {
		for _, name := range p.params {
			for part := range strings.SplitSeq(query, "&") {
				key, value, _ := strings.Cut(part, "=")
				if decoded, err := url.PathUnescape(key); err == nil {
					key = decoded
				}
				if key == name {
					if decoded, err := url.PathUnescape(value); err == nil {
						value = decoded
					}
					out = append(out, foundToken{text: value, where: "parameter " + name, param: name})
					break
				}
			}
		}
	}
	if len(p.cookies) > 0 {
		seen := map[string]bool{}
		cookies, _ := s.headers.Get("cookie")
		for part := range strings.SplitSeq(cookies, ";") {
			key, value, ok := strings.Cut(strings.TrimLeft(part, " "), "=")
			if ok && slices.Contains(p.cookies, key) && !seen[key] {
				seen[key] = true
				out = append(out, foundToken{text: strings.Trim(value, `"`), where: "cookie " + key})
			}
		}
	}
	return out
}
