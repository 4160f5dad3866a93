package gateway

import (
	"encoding/base32"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// targetURL is a URL that net/http writes on the request line exactly as path,
// query included. A path that it cannot write as it is gives an error: such a
// request is refused rather than changed on its way.
func targetURL(scheme, host, path string) (*url.URL, error) {
	raw, query, hasQuery := strings.Cut(path, "?")
	u := &url.URL{Scheme: scheme, Host: host, RawQuery: query, ForceQuery: hasQuery && query == ""}
	if !strings.HasPrefix(raw, "//") {
		u.Opaque = raw
	} else if decoded, err := url.PathUnescape(raw); err == nil {
		u.Path, u.RawPath = decoded, raw
	}
	if got := u.RequestURI(); got != path {
		return nil, &refusal{http.StatusBadRequest, fmt.Sprintf("got a path that cannot be sent on unchanged: %q", path)}
	}
	return u, nil
}

// A cluster's name travels to the dialer as a host name, which must survive
// net/http: base32 keeps it one label of harmless characters.
var hostEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

func hostOf(cluster string) string { return hostEncoding.EncodeToString([]byte(cluster)) }

func clusterOf(host string) string {
	b, err := hostEncoding.DecodeString(strings.ToUpper(host))
	if err != nil {
		return ""
	}
	return string(b)
}
