package keyset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

const maxDiscovery = 256 << 10 // bytes

// Source says where an issuer's keys are fetched.
type Source struct {
	// URL of the JWKS; empty: what the issuer's discovery document says (OpenID
	// Connect Discovery 1.0 section 4).
	URL    string
	Issuer string
	// Client follows no redirect and bounds nothing: Fetch does.
	Client *http.Client
	// InsecureHTTP lets keys come by plain http.
	InsecureHTTP bool
	// Bearer, if set, gives the token that a fetch shows: a cluster's API server
	// asks for one.
	Bearer func() (string, error)
}

// Fetch gets the key set. Its errors hold no token.
func (s Source) Fetch(ctx context.Context) ([]byte, error) {
	at := s.URL
	if at == "" {
		var err error
		if at, err = s.discover(ctx); err != nil {
			return nil, err
		}
	}
	return s.get(ctx, at, maxJWKS)
}

func (s Source) discover(ctx context.Context) (string, error) {
	text, err := s.get(ctx, strings.TrimSuffix(s.Issuer, "/")+"/.well-known/openid-configuration", maxDiscovery)
	if err != nil {
		return "", err
	}
	var doc struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	switch err := json.Unmarshal(text, &doc); {
	case err != nil:
		return "", errors.New("the issuer's discovery document is no JSON")
	case doc.Issuer != s.Issuer:
		return "", fmt.Errorf("the discovery document is of issuer %.200q, want %q", doc.Issuer, s.Issuer)
	case doc.JWKS == "":
		return "", errors.New("the discovery document has no jwks_uri")
	}
	return doc.JWKS, nil
}

func (s Source) get(ctx context.Context, at string, limit int64) ([]byte, error) {
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !s.InsecureHTTP) {
		return nil, fmt.Errorf("got %.200q for the keys, want an https URL", at)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	if s.Bearer != nil {
		token, err := s.Bearer()
		if err != nil {
			return nil, fmt.Errorf("the token for fetching keys: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d, want 200", u.Redacted(), resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", u.Redacted(), err)
	case int64(len(text)) > limit:
		return nil, fmt.Errorf("the answer of %s is longer than %d bytes", u.Redacted(), limit)
	}
	return text, nil
}
