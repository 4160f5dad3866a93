package authorizer

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern.dev/postern/internal/territory"

	"golang.org/x/net/http/httpguts"
)

// CORS says what a page of an allowed origin may do with a model. The origins
// themselves are each model's own: territory.OriginsAnnotation.
type CORS struct {
	// Methods that a page may use. Default GET, HEAD, POST, PUT, PATCH, DELETE.
	Methods []string `yaml:"methods"`
	// MaxAge is how long a browser may remember a preflight's answer. Default 10m.
	MaxAge time.Duration `yaml:"maxAge"`
}

const maxRequestHeaders = 4 << 10 // bytes of Access-Control-Request-Headers

func (c CORS) withDefaults() CORS {
	if c.Methods == nil {
		c.Methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
	}
	if c.MaxAge == 0 {
		c.MaxAge = 10 * time.Minute
	}
	return c
}

func (c CORS) problems(add func(field, format string, args ...any)) {
	for _, m := range c.Methods {
		if !httpguts.ValidHeaderFieldName(m) || m != strings.ToUpper(m) || m == http.MethodConnect || m == http.MethodTrace {
			add("cors.methods", "got %q, want a method in upper case", m)
		}
	}
	if c.MaxAge < 0 || c.MaxAge > 24*time.Hour {
		add("cors.maxAge", "got %s, want up to 24h", c.MaxAge)
	}
}

// originOf is the page's origin that a request comes from, if the model allows
// it. "null", which a sandboxed page and others have, is never allowed.
func originOf(req Request, t territory.Territory) (string, bool) {
	origin, once := req.Headers.Only("origin")
	return origin, once && t.Kind == territory.Model && slices.Contains(t.Origins, origin)
}

// preflight answers a browser's question whether a page may call a model (Fetch
// section 4.8, CORS-preflight fetch): it carries no credential and is not the call
// itself, and never reaches the model. The method that counts is the one the
// request really has; a question that is not answered is judged like any call.
func (a *Authorizer) preflight(req Request, t territory.Territory) (Verdict, bool) {
	origin, ok := originOf(req, t)
	method, asks := req.Headers.Only("access-control-request-method")
	if !ok || !asks || req.Method != http.MethodOptions || !slices.Contains(a.cfg.CORS.Methods, method) {
		return Verdict{}, false
	}
	v := Verdict{Reason: Preflight, Status: http.StatusNoContent, How: ByAnonymous, Resource: t.Resource}
	v.Headers = append(corsHeaders(origin),
		Header{"access-control-allow-methods", strings.Join(a.cfg.CORS.Methods, ", ")},
		Header{"access-control-max-age", strconv.Itoa(int(a.cfg.CORS.MaxAge / time.Second))},
		Header{"vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"},
	)
	if names := requestHeaders(req); names != "" {
		v.Headers = append(v.Headers, Header{"access-control-allow-headers", names})
	}
	return v, true
}

// requestHeaders are the names that a preflight asks for, and that are names. Any
// is allowed: those that name a caller are removed on the way to the model
// whoever sends them.
func requestHeaders(req Request) string {
	var names []string
	asked := strings.Join(req.Headers["access-control-request-headers"], ",")
	if len(asked) > maxRequestHeaders {
		return ""
	}
	for name := range strings.SplitSeq(asked, ",") {
		if name = strings.ToLower(strings.TrimSpace(name)); httpguts.ValidHeaderFieldName(name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// corsHeaders name one origin, never all: only so may a session be used.
func corsHeaders(origin string) []Header {
	return []Header{{"access-control-allow-origin", origin}, {"access-control-allow-credentials", "true"}}
}

// crossOrigin lets an allowed page read the answer, a refusal too.
func crossOrigin(req Request, t territory.Territory, v Verdict) Verdict {
	origin, ok := originOf(req, t)
	if !ok {
		return v
	}
	headers := append(corsHeaders(origin), Header{"access-control-expose-headers", "www-authenticate"})
	if v.Allow {
		v.Response = append(append(v.Response, headers[:2]...), Header{"vary", "Origin"})
		return v
	}
	v.Headers = append(append(v.Headers, headers...), Header{"vary", "Origin"})
	return v
}

// sandboxed keeps the pages of a model on a host that is not its own from acting
// as that host's pages: with CSP sandbox they have an origin of nobody's.
func sandboxed(t territory.Territory, v Verdict) Verdict {
	if t.Kind == territory.Model && t.Shared && v.Allow {
		v.Response = append(v.Response, Header{"content-security-policy", "sandbox"}, Header{"x-content-type-options", "nosniff"})
	}
	return v
}
