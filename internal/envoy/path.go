package envoy

import "strings"

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
	out := make([]byte, 0, len(path)+8)
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
					out = backUp(out)
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
	}
	if hasQuery {
		return string(out) + "?" + query, true
	}
	return string(out), true
}

// dotSegment reports whether s starts with a segment that is one or two dots,
// and where that segment ends. A dot may be written %2e; literal dots may be
// followed by parameters ("..;a=b").
func dotSegment(s string) (dots, end int) {
	literal := true
	for dots < 2 {
		switch {
		case strings.HasPrefix(s[end:], "."):
			end++
		case len(s) >= end+3 && strings.EqualFold(s[end:end+3], "%2e"):
			end += 3
			literal = false
		default:
			goto counted
		}
		dots++
	}
counted:
	if dots == 0 {
		return 0, 0
	}
	if end == len(s) || s[end] == '/' || s[end] == '\\' {
		return dots, end
	}
	if s[end] == ';' && literal {
		for end < len(s) && s[end] != '/' && s[end] != '\\' {
			end++
		}
		return dots, end
	}
	return 0, 0
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
	switch c {
	case '"', '<', '>', '^', '`', '{', '|', '}':
		const hex = "0123456789ABCDEF"
		*out = append(*out, '%', hex[c>>4], hex[c&15])
	default:
		*out = append(*out, c)
	}
	return 1, true
}

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
