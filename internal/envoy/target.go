package envoy

import "strings"

// pathTraits say what of a request's target needs a closer look.
type pathTraits uint8

const (
	// pathUnusual: normalizePath may change or refuse it. Without this trait it
	// does neither: no percent sign, no backslash, no character outside the path
	// set and no dot behind a slash.
	pathUnusual pathTraits = 1 << iota
	pathFragment
	pathInvalid
	pathSlash
	pathDot
)

var targetBytes = func() (t [256]pathTraits) {
	for i := range t {
		if i <= ' ' || i >= 0x7f {
			t[i] = pathInvalid
		}
	}
	for _, c := range "%\\\"<>^`{|}" {
		t[c] = pathUnusual
	}
	t['#'], t['/'], t['.'] = pathFragment, pathSlash, pathDot
	return t
}()

// targetTraits looks at each byte of a path with its query. False: it is not what
// Envoy's HTTP/1 codec (Balsa) takes for a path, printable ASCII from a leading
// slash on.
func targetTraits(path string) (traits pathTraits, valid bool) {
	if path == "" || path[0] != '/' {
		return 0, false
	}
	before := pathTraits(0)
	for i := range len(path) {
		t := targetBytes[path[i]]
		if t == pathDot && before == pathSlash {
			traits |= pathUnusual
		}
		traits |= t
		before = t
	}
	return traits, traits&pathInvalid == 0
}

var authorityBytes = func() (t [256]bool) {
	for i := range t {
		t[i] = unreserved(byte(i)) || strings.IndexByte("!$%&'()*+,:;=@[]", byte(i)) >= 0
	}
	return t
}()

// validAuthority is nghttp2's check of :authority (HeaderUtility::authorityIsValid).
func validAuthority(a string) bool {
	for i := range len(a) {
		if !authorityBytes[a[i]] {
			return false
		}
	}
	return true
}

// mergeSlashes makes one of several slashes in a row. A path of slashes alone
// becomes two: Envoy puts its parts, here none, between the first and the last
// (PathUtil::mergeSlashes).
func mergeSlashes(target string) string {
	path, query, has := strings.Cut(target, "?")
	if !strings.Contains(path, "//") {
		return target
	}
	var b strings.Builder
	for i := range len(path) {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			b.WriteByte(path[i])
		}
	}
	if b.Len() == 1 {
		b.WriteByte('/')
	}
	if has {
		b.WriteByte('?')
		b.WriteString(query)
	}
	return b.String()
}
