package territory

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/manifest"
)

// OriginsAnnotation, on an InferenceService or InferenceGraph, names the origins
// whose pages may call it, separated by commas: "https://app.example.com". No
// pattern is an origin: a page that may use a person's session is named.
const OriginsAnnotation = "postern.dev/allowed-origins"

// originsOf reads the annotation. An entry that is no origin counts for nothing
// and is reported; the others do.
func originsOf(o *manifest.Object) (out []string, err error) {
	var errs []error
	for entry := range strings.SplitSeq(o.Meta.Annotations[OriginsAnnotation], ",") {
		entry = strings.TrimSpace(entry)
		switch {
		case entry == "":
		case !isOrigin(entry):
			errs = append(errs, o.Errorf("metadata.annotations["+OriginsAnnotation+"]", "got %q, want an origin as a browser writes it, such as https://app.example.com", entry))
		case !slices.Contains(out, entry):
			out = append(out, entry)
		}
	}
	return out, errors.Join(errs...)
}

// isOrigin tells whether a text is an origin as browsers serialize it (RFC 6454
// section 6.2): scheme, host in lower case, the port unless it is the scheme's own.
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || s != u.Scheme+"://"+u.Host || s != strings.ToLower(s) {
		return false
	}
	if strings.ContainsAny(s, "*\"'<>,; ") || strings.HasSuffix(s, ":") {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return u.Port() != map[string]string{"http": "80", "https": "443"}[u.Scheme]
}

// readOrigins notes which pages may call a model.
func (c *compiler) readOrigins(o *manifest.Object, r access.Resource) error {
	origins, err := originsOf(o)
	if len(origins) > 0 {
		c.origins[r] = origins
	}
	return err
}
