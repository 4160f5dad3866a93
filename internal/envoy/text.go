package envoy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// stringMatcher is envoy.type.matcher.v3.StringMatcher, and the path part of a
// RouteMatch. The zero value is never used; unmodelled is set for a pattern this
// engine cannot judge.
type stringMatcher struct {
	kind       textKind
	fold       bool              // ASCII letters of either case are one, as in Envoy
	pattern    string            // in lower case when fold; of kind judged, what every match begins with
	judge      func(string) bool // of kind judged
	unmodelled string
}

type textKind uint8

const (
	textExact textKind = iota
	textPrefix
	textSuffix
	textContains
	textSeparated // the pattern itself, or followed by a slash
	textHost      // the pattern itself, or followed by a colon and one to five digits
	textSome      // anything but the empty text, without a line feed
	textAny       // anything without a line feed
	textJudged    // as judge says
)

func (m *stringMatcher) test(s *stream, value string) truth {
	if m.unmodelled != "" {
		s.unknown = m.unmodelled
		return maybe
	}
	return truthOf(m.match(value))
}

func (m *stringMatcher) match(v string) bool {
	switch m.kind {
	case textExact:
		return len(v) == len(m.pattern) && m.same(v)
	case textPrefix:
		return len(v) >= len(m.pattern) && m.same(v[:len(m.pattern)])
	case textSuffix:
		return len(v) >= len(m.pattern) && m.same(v[len(v)-len(m.pattern):])
	case textContains:
		if m.fold {
			v = lowerASCII(v)
		}
		return strings.Contains(v, m.pattern)
	case textSeparated:
		n := len(m.pattern)
		return len(v) >= n && m.same(v[:n]) && (len(v) == n || v[n] == '/')
	case textHost:
		return strings.HasPrefix(v, m.pattern) && optionalPort(v[len(m.pattern):])
	case textSome:
		return v != "" && strings.IndexByte(v, '\n') < 0
	case textAny:
		return strings.IndexByte(v, '\n') < 0
	}
	return m.judge(v)
}

// same compares a text of the pattern's length with it.
func (m *stringMatcher) same(v string) bool {
	if !m.fold {
		return v == m.pattern
	}
	for i := range len(v) {
		if c := v[i]; c != m.pattern[i] && ('A' > c || c > 'Z' || c+'a'-'A' != m.pattern[i]) {
			return false
		}
	}
	return true
}

func optionalPort(v string) bool {
	if v == "" {
		return true
	}
	if v[0] != ':' || len(v) < 2 || len(v) > 6 {
		return false
	}
	for i := 1; i < len(v); i++ {
		if v[i] < '0' || v[i] > '9' {
			return false
		}
	}
	return true
}

// lowerASCII lowers the letters A to Z only (absl::AsciiStrToLower).
func lowerASCII(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

func text(kind textKind, pattern string, fold bool) stringMatcher {
	if fold {
		pattern = lowerASCII(pattern)
	}
	return stringMatcher{kind: kind, pattern: pattern, fold: fold}
}

func compileString(m *matcherv3.StringMatcher) (stringMatcher, error) {
	switch p := m.MatchPattern.(type) {
	case *matcherv3.StringMatcher_Exact:
		return text(textExact, p.Exact, m.IgnoreCase), nil
	case *matcherv3.StringMatcher_Prefix:
		return text(textPrefix, p.Prefix, m.IgnoreCase), nil
	case *matcherv3.StringMatcher_Suffix:
		return text(textSuffix, p.Suffix, m.IgnoreCase), nil
	case *matcherv3.StringMatcher_Contains:
		return text(textContains, p.Contains, m.IgnoreCase), nil
	case *matcherv3.StringMatcher_SafeRegex:
		return compileRegex(p.SafeRegex)
	}
	return stringMatcher{unmodelled: fmt.Sprintf("StringMatcher.%T", m.MatchPattern)}, nil
}

// compileRegex compiles an RE2 that must match the whole value. Go's regexp has
// RE2's syntax, but reads UTF-8, and Envoy's RE2 reads each byte as a character of
// Latin-1: so both pattern and value are widened (e2e/paths compares). The few forms
// that Istio, KServe and Knative write for hosts and presence are compared without
// an automaton.
func compileRegex(r *matcherv3.RegexMatcher) (stringMatcher, error) {
	if host, ok := hostRegex(r.GetRegex()); ok {
		return text(textHost, host, false), nil
	}
	whole := `\A(?:` + latin1(r.GetRegex()) + `)\z`
	tree, err := syntax.Parse(whole, syntax.Perl)
	if err != nil {
		return stringMatcher{}, fmt.Errorf("regex %q: %w", r.GetRegex(), err)
	}
	if wide(tree) {
		return stringMatcher{}, fmt.Errorf("regex %q: a character beyond \\xff", r.GetRegex())
	}
	if m, ok := plainRegex(tree); ok {
		return m, nil
	}
	re, err := regexp.Compile(whole)
	if err != nil {
		return stringMatcher{}, fmt.Errorf("regex %q: %w", r.GetRegex(), err)
	}
	_, literal := body(tree)
	return stringMatcher{kind: textJudged, pattern: literal, judge: func(v string) bool { return re.MatchString(latin1(v)) }}, nil
}

// hostRegex reads the regex that KServe makes of a host, in its own spelling: there
// are several for each model.
func hostRegex(regex string) (string, bool) {
	host, ok := strings.CutPrefix(regex, "^")
	host, ok2 := strings.CutSuffix(host, `(?::\d{1,5})?$`)
	if !ok || !ok2 {
		return "", false
	}
	literal := make([]byte, 0, len(host))
	for i := 0; i < len(host); i++ {
		switch c := host[i]; {
		case c == '\\' && i+1 < len(host) && host[i+1] == '.':
			i++
			literal = append(literal, '.')
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-':
			literal = append(literal, c)
		default:
			return "", false
		}
	}
	return string(literal), true
}

// latin1 makes a character of each byte.
func latin1(s string) string {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			wide := make([]rune, len(s))
			for j := range wide {
				wide[j] = rune(s[j])
			}
			return string(wide)
		}
	}
	return s
}

// narrow undoes latin1 for the characters of a pattern.
func narrow(runes []rune) string {
	b := make([]byte, len(runes))
	for i, r := range runes {
		b[i] = byte(r)
	}
	return string(b)
}

// wide is whether a pattern names a character that is no byte, which RE2 refuses.
func wide(re *syntax.Regexp) bool {
	if re.Op == syntax.OpLiteral && slices.Max(re.Rune) > 0xff {
		return true
	}
	return slices.ContainsFunc(re.Sub, wide)
}

// plainRegex recognises a literal, a literal with an optional port (KServe's
// "^host(?::\d{1,5})?$"), a literal before ".*", ".+" and ".*".
func plainRegex(tree *syntax.Regexp) (stringMatcher, bool) {
	parts, literal := body(tree)
	switch {
	case len(parts) == 0:
		return text(textExact, literal, false), true
	case len(parts) > 1:
		return stringMatcher{}, false
	case isPort(parts[0]):
		return text(textHost, literal, false), true
	case literal != "" || parts[0].Op != syntax.OpStar && parts[0].Op != syntax.OpPlus || parts[0].Sub[0].Op != syntax.OpAnyCharNotNL:
		return stringMatcher{}, false
	case parts[0].Op == syntax.OpPlus:
		return text(textSome, "", false), true
	}
	return text(textAny, "", false), true
}

// body is a pattern between its anchors, the literal it begins with apart.
func body(tree *syntax.Regexp) (parts []*syntax.Regexp, literal string) {
	parts = sequence(tree, nil)
	for len(parts) > 0 && parts[0].Op == syntax.OpBeginText {
		parts = parts[1:]
	}
	for len(parts) > 0 && parts[len(parts)-1].Op == syntax.OpEndText {
		parts = parts[:len(parts)-1]
	}
	if len(parts) > 0 && parts[0].Op == syntax.OpLiteral && parts[0].Flags&syntax.FoldCase == 0 {
		literal, parts = narrow(parts[0].Rune), parts[1:]
	}
	return parts, literal
}

// sequence flattens concatenations and groups.
func sequence(re *syntax.Regexp, out []*syntax.Regexp) []*syntax.Regexp {
	switch re.Op {
	case syntax.OpConcat, syntax.OpCapture:
		for _, sub := range re.Sub {
			out = sequence(sub, out)
		}
		return out
	case syntax.OpEmptyMatch:
		return out
	}
	return append(out, re)
}

// isPort is whether a tree is (?::\d{1,5})?.
func isPort(re *syntax.Regexp) bool {
	if re.Op != syntax.OpQuest {
		return false
	}
	parts := sequence(re.Sub[0], nil)
	if len(parts) != 2 || parts[0].Op != syntax.OpLiteral || string(parts[0].Rune) != ":" || parts[1].Op != syntax.OpRepeat || parts[1].Min != 1 || parts[1].Max != 5 {
		return false
	}
	digit := parts[1].Sub[0]
	return digit.Op == syntax.OpCharClass && len(digit.Rune) == 2 && digit.Rune[0] == '0' && digit.Rune[1] == '9'
}
