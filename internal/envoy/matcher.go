package envoy

import (
	"fmt"
	"regexp"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// stringMatcher is envoy.type.matcher.v3.StringMatcher. The zero value is never
// used; unmodelled is set for a pattern this engine cannot judge.
type stringMatcher struct {
	match      func(string) bool
	unmodelled string
}

func (m stringMatcher) test(s *stream, value string) truth {
	if m.match == nil {
		s.unknown = m.unmodelled
		return maybe
	}
	return truthOf(m.match(value))
}

func compileString(m *matcherv3.StringMatcher) (stringMatcher, error) {
	fold := func(s string) string { return s }
	if m.IgnoreCase {
		fold = strings.ToLower
	}
	plain := func(pattern string, f func(value, pattern string) bool) stringMatcher {
		pattern = fold(pattern)
		return stringMatcher{match: func(v string) bool { return f(fold(v), pattern) }}
	}
	switch p := m.MatchPattern.(type) {
	case *matcherv3.StringMatcher_Exact:
		return plain(p.Exact, func(v, p string) bool { return v == p }), nil
	case *matcherv3.StringMatcher_Prefix:
		return plain(p.Prefix, strings.HasPrefix), nil
	case *matcherv3.StringMatcher_Suffix:
		return plain(p.Suffix, strings.HasSuffix), nil
	case *matcherv3.StringMatcher_Contains:
		return plain(p.Contains, strings.Contains), nil
	case *matcherv3.StringMatcher_SafeRegex:
		return compileRegex(p.SafeRegex)
	}
	return stringMatcher{unmodelled: fmt.Sprintf("StringMatcher.%T", m.MatchPattern)}, nil
}

// compileRegex compiles an RE2 that must match the whole value. Go's regexp has
// RE2's syntax.
func compileRegex(r *matcherv3.RegexMatcher) (stringMatcher, error) {
	re, err := regexp.Compile(`\A(?:` + r.GetRegex() + `)\z`)
	if err != nil {
		return stringMatcher{}, fmt.Errorf("regex %q: %w", r.GetRegex(), err)
	}
	return stringMatcher{match: re.MatchString}, nil
}

// headerMatcher is envoy.config.route.v3.HeaderMatcher.
type headerMatcher struct {
	name         string
	present      bool // a presence test, wanting wantPresent
	wantPresent  bool
	value        stringMatcher
	invert       bool
	missingEmpty bool
	unmodelled   string
}

func compileHeader(m *routev3.HeaderMatcher) (headerMatcher, error) {
	h := headerMatcher{name: strings.ToLower(m.Name), invert: m.InvertMatch, missingEmpty: m.TreatMissingHeaderAsEmpty}
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
func (h headerMatcher) test(s *stream) truth {
	if h.unmodelled != "" {
		s.unknown = h.unmodelled
		return maybe
	}
	if h.present {
		_, found := s.header(h.name)
		return truthOf((found || h.missingEmpty) == h.wantPresent != h.invert)
	}
	t, found := no, false
	s.values(h.name, func(value string) {
		found = true
		t = max(t, h.value.test(s, value))
	})
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

// values yields each value of a name, pseudo headers included.
func (s *stream) values(name string, yield func(string)) {
	if strings.HasPrefix(name, ":") || name == "host" {
		if v, ok := s.header(name); ok {
			yield(v)
		}
		return
	}
	for _, f := range s.headers {
		if f.Name == name {
			yield(f.Value)
		}
	}
}

// header looks a name up, pseudo headers included.
func (s *stream) header(name string) (string, bool) {
	switch name {
	case ":authority", "host":
		return s.authority, true
	case ":path":
		return s.path, true
	case ":method":
		return s.method, true
	case ":scheme":
		return "http", true
	}
	return s.headers.Get(name)
}
