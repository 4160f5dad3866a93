package authservice

import (
	"net/url"
	"strings"
)

// maxReturnPath bounds what a pending login keeps.
const maxReturnPath = 2048

// returnPath is the one normaliser of the addresses that a login returns to:
// the path and query of this gateway that target names, or "/" when a browser
// could read it as an address of somewhere else, or two readers could disagree.
//
// Browsers take "//evil", "/\evil" and "/<tab>/evil" for another host (WHATWG
// URL: a backslash is a slash, tabs and newlines are dropped), and a proxy
// that resolves dots makes "/.//evil" the first of these.
func returnPath(target string) string {
	const home = "/"
	if len(target) > maxReturnPath || !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "//") {
		return home
	}
	for _, c := range []byte(target) {
		if c <= ' ' || c >= 0x7f || c == '\\' || c == '#' {
			return home
		}
	}
	u, err := url.ParseRequestURI(target)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return home
	}
	// Once more on the decoded path: what a reader that decodes first would see.
	if strings.HasPrefix(u.Path, "//") || strings.Contains(u.Path, `\`) || hasControl(u.Path) || hasDots(u.Path) {
		return home
	}
	return target
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// hasDots tells whether a segment of a decoded path is . or .., so that the
// path means another one.
func hasDots(path string) bool {
	for _, segment := range strings.Split(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}
