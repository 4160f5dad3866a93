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

// tokens finds a provider's tokens in the order in which they are verified: the last one
// found goes first, and headers, parameters and cookies are looked at in that order, each
// by its name (ExtractorImpl::extract, AuthenticatorImpl::startVerify).
func (p *provider) tokens(s *stream) []foundToken {
	var out []foundToken
	for _, h := range p.headers {
		for i := range s.headers {
			if f := &s.headers[i]; f.Name == h.name {
				if text, ok := h.token(f.Value); ok {
					out = append(out, foundToken{text: text, where: h.name, header: h.name})
				}
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
	for _, name := range p.cookies {
		if value, ok := s.headers.cookie(name); ok {
			out = append(out, foundToken{text: value, where: "cookie " + name})
		}
	}
	slices.Reverse(out)
	return out
}

// cookie is the first cookie of a name. Each field is read by itself, and one pair of
// quotes belongs to the form (Http::Utility::forEachCookie).
func (h Headers) cookie(name string) (string, bool) {
	for i := range h {
		if h[i].Name != "cookie" {
			continue
		}
		for part := range strings.SplitSeq(h[i].Value, ";") {
			key, value, ok := strings.Cut(strings.TrimLeft(part, " "), "=")
			if !ok || key != name {
				continue
			}
			if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}
			return value, true
		}
	}
	return "", false
}
