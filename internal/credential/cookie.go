package credential

import "strings"

// HasCookie tells whether a Cookie header holds one of the named cookies; a
// name's last * stands for any rest.
func HasCookie(headers []string, names []string) bool {
	_, removed := WithoutCookies(headers, names)
	return removed
}

// WithoutCookies is a Cookie header without the named cookies, one line; the
// other cookies keep their bytes and their order. Several Cookie headers of one
// request reach an ext_authz service joined by commas, and a cookie's value may
// hold a comma: so a name is looked for after a comma as well as after a
// semicolon.
func WithoutCookies(headers []string, names []string) (rest string, removed bool) {
	var kept []string
	for _, h := range headers {
		for pair := range strings.SplitSeq(h, ";") {
			var parts []string
			dropping := false
			for part := range strings.SplitSeq(pair, ",") {
				name, _, begins := strings.Cut(part, "=")
				if begins || !dropping { // else the rest of a dropped value that holds a comma
					dropping = named(strings.TrimSpace(name), names)
				}
				removed = removed || dropping
				if !dropping {
					parts = append(parts, part)
				}
			}
			if p := strings.TrimSpace(strings.Join(parts, ",")); p != "" {
				kept = append(kept, p)
			}
		}
	}
	return strings.Join(kept, "; "), removed
}

func named(name string, names []string) bool {
	name = strings.Trim(name, `"`)
	for _, n := range names {
		if prefix, ok := strings.CutSuffix(n, "*"); ok && strings.HasPrefix(name, prefix) || n == name {
			return true
		}
	}
	return false
}
