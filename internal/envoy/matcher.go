package envoy

import (
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// headerMatcher is envoy.config.route.v3.HeaderMatcher.
type headerMatcher struct {
	name         string
	pseudo       bool // Host or a pseudo header: always there, with one value
	present      bool // a presence test, wanting wantPresent
	wantPresent  bool
	value        stringMatcher
	invert       bool
	missingEmpty bool
	unmodelled   string
}

func compileHeader(m *routev3.HeaderMatcher) (headerMatcher, error) {
	name := strings.ToLower(m.Name)
	h := headerMatcher{name: name, pseudo: isPseudo(name), invert: m.InvertMatch, missingEmpty: m.TreatMissingHeaderAsEmpty}
	var err error
	text := func(sm *matcherv3.StringMatcher) { h.value, err = compileString(sm) }
	switch p := m.HeaderMatchSpecifier.(type) {
	case nil:
		h.present, h.wantPresent = true, true
	case *routev3.HeaderMatcher_PresentMatch:
		h.present, h.wantPresent = true, p.PresentMatch
	case *routev3.HeaderMatcher_StringMatch:
		text(p.StringMatch)
	case *routev3.HeaderMatcher_ExactMatch:
		text(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: p.ExactMatch}})
	case *routev3.HeaderMatcher_PrefixMatch:
		text(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: p.PrefixMatch}})
	case *routev3.HeaderMatcher_SuffixMatch:
		text(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: p.SuffixMatch}})
	case *routev3.HeaderMatcher_ContainsMatch:
		text(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: p.ContainsMatch}})
	case *routev3.HeaderMatcher_SafeRegexMatch:
		h.value, err = compileRegex(p.SafeRegexMatch)
	default:
		h.unmodelled = fmt.Sprintf("HeaderMatcher.%T", p)
	}
	if err != nil {
		return h, fmt.Errorf("header %s: %w", m.Name, err)
	}
	return h, nil
}

// test: a value match holds when it holds for one of the header's values, an
// inverted one when it holds for none. An absent header fails both, unless it is
// to be treated as empty; then it also counts as present. So it is in Envoy 1.40,
// for routes and RBAC; before the fix of CVE-2026-26308 RBAC matched the values
// joined by commas.
func (h *headerMatcher) test(s *stream) truth {
	if h.unmodelled != "" {
		s.unknown = h.unmodelled
		return maybe
	}
	if h.present {
		found := h.missingEmpty || h.pseudo || s.headers.has(h.name)
		return truthOf(found == h.wantPresent != h.invert)
	}
	t, found := no, h.pseudo
	if h.pseudo {
		t = h.value.test(s, s.pseudo(h.name))
	} else {
		for i := range s.headers {
			if f := &s.headers[i]; f.Name == h.name {
				found = true
				t = max(t, h.value.test(s, f.Value))
			}
		}
	}
	if !found {
		if !h.missingEmpty {
			return no
		}
		t = h.value.test(s, "")
	}
	if h.invert {
		return t.not()
	}
	return t
}

// isPseudo is whether a name is one that stream.pseudo knows.
func isPseudo(name string) bool {
	switch name {
	case ":authority", "host", ":path", ":method", ":scheme":
		return true
	}
	return false
}

// pseudo is the value of Host or a pseudo header.
func (s *stream) pseudo(name string) string {
	switch name {
	case ":authority", "host":
		return s.authority
	case ":path":
		return s.path
	case ":method":
		return s.method
	}
	return s.scheme
}
