package authorizer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"postern.dev/postern/internal/credential"
)

const maxAnswer = 1 << 20 // bytes of a login's page

// errUnrepresentable: Go's HTTP client cannot send the request as it came.
var errUnrepresentable = errors.New("the request target cannot be sent to the login as it is")

// login is the client of the login that is there. It asks as Envoy's HTTP
// ext_authz does (source/extensions/filters/common/ext_authz/ext_authz_http_impl.cc):
// the request's own method, path with query and Host, the listed headers and no
// others, no body; and follows no redirect.
type login struct {
	rules  Delegate
	base   *url.URL
	client *http.Client
}

// answer is what the login said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func newLogin(d Delegate, client *http.Client) (*login, error) {
	base, err := url.Parse(d.URL)
	if err != nil {
		return nil, fmt.Errorf("login.delegate.url: %w", err)
	}
	return &login{rules: d, base: base, client: bare(client)}, nil
}

// bare is a client that sends what it is told and nothing else: no cookie, no
// second request where the first answer leads.
func bare(client *http.Client) *http.Client {
	own := &http.Client{}
	if client != nil {
		*own = *client
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	own.Jar = nil
	switch t := own.Transport.(type) {
	case nil:
		own.Transport = plain(http.DefaultTransport)
	case *http.Transport:
		own.Transport = plain(t)
	}
	return own
}

// plain is a transport that neither asks for compression, which Envoy does not,
// nor goes through a proxy of this process's environment.
func plain(rt http.RoundTripper) http.RoundTripper {
	t, ok := rt.(*http.Transport)
	if !ok {
		return rt
	}
	t = t.Clone()
	t.DisableCompression = true
	t.Proxy = nil
	if t.MaxIdleConnsPerHost == 0 {
		t.MaxIdleConnsPerHost = 64
	}
	return t
}

func (l *login) sessionRules() credential.SessionRules {
	r := credential.SessionRules{
		Cookies: l.rules.Cookies, User: l.rules.UserHeader, Groups: l.rules.GroupsHeader, Life: l.rules.SessionLife,
	}
	for _, h := range l.rules.RequestHeaders {
		if h != "authorization" && holdsSecret(h) {
			r.Tokens = append(r.Tokens, h)
		}
	}
	return r
}

// holdsSecret tells whether a header that the login gets may be a credential.
// Cookies go one by one; what says where a browser's request comes from is none,
// and a login that refuses other sites' requests needs it.
func holdsSecret(header string) bool {
	return header != "cookie" && header != "origin" && header != "sec-fetch-site"
}

// skips tells whether the login is not asked about a request for people's pages.
// Its path is the one that the gateway normalised, as its policies see it.
func (l *login) skips(req Request) bool {
	if !slices.Contains(l.rules.Skip.Doors, req.Door) {
		return false
	}
	for _, name := range l.rules.Skip.Headers {
		if req.Headers.Has(name) {
			return true
		}
	}
	for _, p := range l.rules.Skip.Paths {
		prefix, open := strings.CutSuffix(p, "*")
		if req.Path == p || open && strings.HasPrefix(req.Path, prefix) {
			return true
		}
	}
	return false
}

// passes tells whether a header of a refusal reaches the client. As with Envoy, a
// list does not keep back the two without which the status says nothing
// (ext_authz.proto, allowed_client_headers).
func (l *login) passes(name string) bool {
	if len(l.rules.RefusalHeaders) == 0 || name == "Location" || name == "Www-Authenticate" {
		return true
	}
	return slices.ContainsFunc(l.rules.RefusalHeaders, func(h string) bool { return strings.EqualFold(h, name) })
}

// request asks about a request as it is.
func (l *login) request(ctx context.Context, req Request) (answer, error) {
	return l.ask(ctx, req.Method, req.Path+req.Query, req.Host, req.Headers)
}

// session asks whose session it is: always with the same method, path and Host,
// so that the answer depends on the credentials alone and may be kept.
func (l *login) session(ctx context.Context, h credential.Headers) (int, http.Header, error) {
	a, err := l.ask(ctx, http.MethodGet, l.rules.SessionPath, l.base.Host, h)
	return a.status, a.header, err
}

func (l *login) ask(ctx context.Context, method, target, host string, h credential.Headers) (answer, error) {
	u, err := l.target(target)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.rules.Timeout)
	defer cancel()
	out := (&http.Request{
		Method: method, URL: u, Host: host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"User-Agent": {""}}, // "" keeps Go from adding its own
	}).WithContext(ctx)
	for _, name := range l.rules.RequestHeaders {
		if v := h[name]; len(v) > 0 {
			out.Header[http.CanonicalHeaderKey(name)] = slices.Clone(v) // the client may look at it after it has answered
		}
	}
	resp, err := l.client.Do(out)
	if err != nil {
		return answer{}, hideURL(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("reading the login's answer: %w", err)
	case len(body) > maxAnswer:
		return answer{}, fmt.Errorf("the login's answer is longer than %d bytes", maxAnswer)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: body}, nil
}

// target is a URL of the login that makes Go send the request target byte for
// byte. Opaque does, but turns a leading "//" into an absolute URL; then only a
// path that Go itself would write in the same way can be sent.
func (l *login) target(raw string) (*url.URL, error) {
	u := &url.URL{Scheme: l.base.Scheme, Host: l.base.Host}
	if !strings.HasPrefix(raw, "//") {
		u.Opaque = raw
		return u, nil
	}
	path, query, has := strings.Cut(raw, "?")
	unescaped, err := url.PathUnescape(path)
	if err != nil {
		return nil, errUnrepresentable
	}
	u.Path, u.RawPath, u.RawQuery, u.ForceQuery = unescaped, path, query, has
	if u.RequestURI() != raw {
		return nil, errUnrepresentable
	}
	return u, nil
}

// hideURL takes the URL out of an error of http.Client: its query may hold a
// login's code.
func hideURL(err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		return fmt.Errorf("asking the login: %w", ue.Err)
	}
	return err
}
