package authservice

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	providerTimeout  = 5 * time.Second // half of the 10 s that Kubeflow's authn-filter waits
	providerMaxBody  = 1 << 20
	discoveryPause   = time.Second // a failure answers everybody for this long
	maxUserBytes     = 512
	emailClaim       = "email"
	emailVerifyClaim = "email_verified"
)

// provider is the identity provider, found when it is first needed.
type provider struct {
	issuer    string
	authURL   string
	userClaim string
	oauth     oauth2.Config // without the endpoint
	client    *http.Client
	now       func() time.Time

	found atomic.Pointer[discovered]
	turn  chan struct{} // holds one token: whoever has it may discover, and use failure
	// failure of the last discovery.
	failure   error
	failureAt time.Time
}

// discovered is what the discovery document said.
type discovered struct {
	oauth    oauth2.Config
	verifier *oidc.IDTokenVerifier
}

func newProvider(s settings, clientID, clientSecret string, client *http.Client, now func() time.Time) *provider {
	if client == nil {
		client = http.DefaultClient
	}
	p := &provider{
		issuer:    s.issuer,
		authURL:   s.authURL,
		userClaim: s.userClaim,
		oauth:     oauth2.Config{ClientID: clientID, ClientSecret: clientSecret, RedirectURL: s.redirectURL, Scopes: s.scopes},
		client:    bounded(client),
		now:       now,
		turn:      make(chan struct{}, 1),
	}
	p.turn <- struct{}{}
	return p
}

// discover gives the provider's endpoints and keys. The first caller asks for
// them while the others wait for its result; a failure is asked again after a
// pause.
func (p *provider) discover(ctx context.Context) (*discovered, error) {
	if d := p.found.Load(); d != nil {
		return d, nil
	}
	select {
	case <-p.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { p.turn <- struct{}{} }()
	if d := p.found.Load(); d != nil {
		return d, nil
	}
	if p.failure != nil && p.now().Sub(p.failureAt) < discoveryPause {
		return nil, p.failure
	}
	d, err := p.ask(ctx)
	if err != nil {
		p.failure, p.failureAt = err, p.now()
		return nil, err
	}
	p.found.Store(d)
	return d, nil
}

func (p *provider) ask(ctx context.Context) (*discovered, error) {
	ctx, cancel := waitAtMost(ctx, providerTimeout)
	defer cancel()
	// NewProvider checks that the document names the same issuer. It keeps the
	// client of ctx, not ctx.
	answer, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.issuer)
	if err != nil {
		return nil, fmt.Errorf("discovery of %s: %s", p.issuer, brief(err))
	}
	d := &discovered{
		oauth:    p.oauth,
		verifier: answer.Verifier(&oidc.Config{ClientID: p.oauth.ClientID, Now: p.now}),
	}
	d.oauth.Endpoint = answer.Endpoint()
	// The only way that every provider must know (RFC 6749 section 2.3.1);
	// guessing would send the code twice.
	d.oauth.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if p.authURL != "" {
		d.oauth.Endpoint.AuthURL = p.authURL
	}
	return d, nil
}

// identify redeems a code and gives the value of the configured claim of the
// person it stands for. Its errors hold no token, and no code.
func (p *provider) identify(ctx context.Context, d *discovered, code string, l login) (string, error) {
	ctx, cancel := waitAtMost(ctx, providerTimeout)
	defer cancel()
	ctx = oidc.ClientContext(ctx, p.client)
	tokens, err := d.oauth.Exchange(ctx, code, oauth2.VerifierOption(l.verifier))
	if err != nil {
		return "", exchangeError(err)
	}
	raw, ok := tokens.Extra("id_token").(string)
	if !ok {
		return "", refuse(http.StatusBadGateway, "the identity provider gave no ID token", nil)
	}
	// Verify checks signature, iss, aud and exp.
	token, err := d.verifier.Verify(ctx, raw)
	if err != nil {
		return "", badToken(errors.New(brief(err)))
	}
	// go-oidc asks that our id is among the audiences and does not look at azp;
	// Dex issues tokens with others besides for its cross-client scopes.
	if len(token.Audience) != 1 {
		return "", badToken(fmt.Errorf("got %d audiences, want ours alone", len(token.Audience)))
	}
	if subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(l.nonce)) != 1 {
		return "", badToken(errors.New("the nonce is not that of this login"))
	}
	claims := map[string]any{}
	if err := token.Claims(&claims); err != nil {
		return "", badToken(errors.New("the claims are not a JSON object"))
	}
	return userOf(claims, p.userClaim)
}

// userOf is the person the claims name, in a form that a header carries unchanged.
func userOf(claims map[string]any, claim string) (string, error) {
	user, ok := claims[claim].(string)
	switch {
	case !ok || user == "":
		return "", badToken(fmt.Errorf("claim %q is missing or not a text", claim))
	case len(user) > maxUserBytes:
		return "", badToken(fmt.Errorf("claim %q is longer than %d bytes", claim, maxUserBytes))
	}
	if err := headerSafe(user); err != nil {
		return "", badToken(fmt.Errorf("claim %q %w", claim, err))
	}
	// Not so in 28c59ef: whoever may set an address at the provider without
	// proving it would be anybody here.
	if verified, _ := claims[emailVerifyClaim].(bool); claim == emailClaim && !verified {
		return "", refuse(http.StatusForbidden, "the identity provider has not verified this e-mail address", nil)
	}
	return user, nil
}

func badToken(cause error) error {
	return refuse(http.StatusForbidden, "the identity provider's ID token is not valid for this login", cause)
}

// brief cuts what go-oidc quotes of the provider's answers.
func brief(err error) string {
	const most = 200
	text := strings.ToValidUTF8(err.Error(), "?")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + " ..."
}

// exchangeError keeps of a failed exchange what cannot hold a secret: the
// package's own text quotes the provider's answer.
func exchangeError(err error) error {
	var answered *oauth2.RetrieveError
	if errors.As(err, &answered) {
		status := 0
		if answered.Response != nil {
			status = answered.Response.StatusCode
		}
		cause := fmt.Errorf("token endpoint: status %d", status)
		if status >= 500 {
			return refuse(http.StatusServiceUnavailable, "the identity provider has failed, try again", cause)
		}
		return refuse(http.StatusForbidden, "the identity provider did not accept the code of this login", cause)
	}
	if strings.HasPrefix(err.Error(), "oauth2: ") {
		return refuse(http.StatusBadGateway, "the identity provider's answer cannot be read", errors.New("token endpoint: no token in the answer"))
	}
	return refuse(http.StatusServiceUnavailable, "the identity provider cannot be reached, try again", err)
}

// bounded is the client with a limit on what it reads, and without redirects:
// a provider's endpoints are where its discovery document says.
func bounded(c *http.Client) *http.Client {
	b := *c
	base := c.Transport
	if base == nil {
		base = http.DefaultTransport
	}
	b.Transport = limitedTransport{base}
	if b.Timeout <= 0 || b.Timeout > providerTimeout {
		b.Timeout = providerTimeout // also for the keys, which go-oidc fetches without our context
	}
	b.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	b.Jar = nil
	return &b
}

type limitedTransport struct{ base http.RoundTripper }

func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{http.MaxBytesReader(nil, res.Body, providerMaxBody), res.Body}
	return res, nil
}
