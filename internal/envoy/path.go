package envoy

import (
	"strings"
	"unicode/utf8"
)

// normalizePath is what HttpConnectionManager.normalize_path does to :path
// (Envoy PathUtil::canonicalPath over Chromium's path canonicaliser), as seen
// with Envoy 1.40: dot segments are resolved, also as %2e and with a literal
// "..;params"; a backslash is a slash; an escaped unreserved character is
// unescaped, characters outside the path set are escaped; %00 fails. The query
// is left alone. False means 400.
func normalizePath(path string) (string, bool) {
	path, query, hasQuery := strings.Cut(path, "?")
	if path == "" || path[0] != '/' {
		return "", false
	}
	path = withoutDotParameters(path)
	out := make([]byte, 0, len(path)+8)
	stray := -3 // where in out the last percent sign stands that begins no escape
	for i := 0; i < len(path); {
		if c := path[i]; c == '/' || c == '\\' {
			out = append(out, '/')
			i++
			for { // resolve the dot segments that start here, with the slash behind each
				dots, end := dotSegment(path[i:])
				if dots == 0 {
					break
				}
				if dots == 2 {
					out, stray = backUp(out), -3
				}
				i = min(i+end+1, len(path))
			}
			continue
		}
		n, ok := appendPathByte(&out, path[i:])
		if !ok {
			return "", false
		}
		i += n
		switch last := len(out) - 1; {
		case n == 1 && out[last] == '%':
			stray = last
		case n == 3 && stray >= last-2:
			out = nestedEscape(out, stray, path[i:])
		}
	}
	if hasQuery {
		return string(out) + "?" + query, true
	}
	return string(out), true
}

// withoutDotParameters turns "/..;a=b/" into "/../" and "/.;/" into "/./": only
// with literal slash and dots, and up to the next literal slash.
func withoutDotParameters(path string) string {
	if !strings.Contains(path, ".;") {
		return path
	}
	var b strings.Builder
	for path != "" {
		at := strings.IndexByte(path[1:], '/') + 1
		if at == 0 {
			at = len(path)
		}
		segment := path[:at] // begins with a slash
		if name, _, ok := strings.Cut(segment, ";"); ok && (name == "/." || name == "/..") {
			segment = name
		}
		b.WriteString(segment)
		path = path[at:]
	}
	return b.String()
}

// dotSegment reports whether s starts with a segment that is one or two dots,
// and where that segment ends. A dot may be written %2e.
func dotSegment(s string) (dots, end int) {
	for {
		switch rest := s[end:]; {
		case dots > 0 && (rest == "" || rest[0] == '/' || rest[0] == '\\'):
			return dots, end
		case dots < 2 && strings.HasPrefix(rest, "."):
			end++
		case dots < 2 && len(rest) >= 3 && strings.EqualFold(rest[:3], "%2e"):
			end += 3
		default:
			return 0, 0
		}
		dots++
	}
}

// nestedEscape keeps an unescaped character from completing an escape with a
// stray percent sign before it ("%3%31" would become "%31"): the sign is escaped
// (CheckForNestedEscapes of Chromium's canonicaliser).
func nestedEscape(out []byte, stray int, rest string) []byte {
	if tail := out[stray+1:]; len(tail) == 1 {
		if rest == "" || !isHex(tail[0]) || !isHex(rest[0]) {
			return out
		}
	} else if !isHex(tail[0]) || !isHex(tail[1]) {
		return out
	}
	return append(out[:stray+1], append([]byte("25"), out[stray+1:]...)...)
}

// backUp removes the last segment of out, which ends with a slash.
func backUp(out []byte) []byte {
	i := len(out) - 1
	for i > 0 && out[i-1] != '/' {
		i--
	}
	if i == 0 {
		return out[:1]
	}
	return out[:i]
}

// appendPathByte copies one character of a path and returns its length.
func appendPathByte(out *[]byte, s string) (int, bool) {
	c := s[0]
	if c == '%' && len(s) >= 3 && isHex(s[1]) && isHex(s[2]) {
		v := unhex(s[1])<<4 | unhex(s[2])
		switch {
		case v == 0:
			return 0, false
		case unreserved(v):
			*out = append(*out, v)
		default:
			*out = append(*out, s[:3]...)
		}
		return 3, true
	}
	if c >= utf8.RuneSelf { // byte by byte, UTF-8 or not: HTTP/2 lets any through
		*out = append(*out, '%', upperHex[c>>4], upperHex[c&15])
		return 1, true
	}
	switch c {
	case '"', '<', '>', '^', '`', '{', '|', '}':
		*out = append(*out, '%', upperHex[c>>4], upperHex[c&15])
	default:
		*out = append(*out, c)
	}
	return 1, true
}

const upperHex = "0123456789ABCDEF"

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}
