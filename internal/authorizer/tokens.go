package authorizer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/keyset"
)

// Tokens says whose tokens (JWTs) are taken. The zero value takes none.
type Tokens struct {
	// Issuers are OpenID Connect providers, Dex among them.
	Issuers []Issuer `yaml:"issuers"`
	// Cluster is the issuer of the cluster's own ServiceAccount tokens.
	Cluster *Cluster `yaml:"cluster"`
}

// Issuer is one provider of tokens. The same issuer may stand here several times
// for audiences of their own: people's tokens, and those of machines.
type Issuer struct {
	// Issuer is the URL, exactly as a token's iss says it.
	Issuer string `yaml:"issuer"`
	// Audiences: a token must be for one of these. Required.
	Audiences []string `yaml:"audiences"`
	// Algorithms that a token may be signed with. Default RS256, ES256.
	Algorithms []string `yaml:"algorithms"`
	Keys       Keys     `yaml:",inline"`
	// Username is the claim that names the user. Default sub. With claim email,
	// email_verified must be true.
	Username Name `yaml:"username"`
	// Groups is the claim that lists the user's groups. Default: none.
	Groups Name `yaml:"groups"`
}

// Keys says where an issuer's public keys are: in one of jwks, jwksFile and
// jwksURL, else where the issuer's discovery document says.
type Keys struct {
	JWKS     string `yaml:"jwks"`     // the text of the key set
	JWKSFile string `yaml:"jwksFile"` // read once
	JWKSURL  string `yaml:"jwksURL"`
	// CAFile holds the certificates (PEM) that alone are trusted for fetching keys.
	// Default: the system's.
	CAFile string `yaml:"caFile"`
	// TokenFile holds the token that is shown for fetching keys, as an API server
	// asks for it. It is read each time.
	TokenFile string `yaml:"tokenFile"`
	// InsecureHTTP lets keys come by plain http: whoever can change that traffic can
	// make tokens.
	InsecureHTTP bool `yaml:"insecureHTTP"`
}

// Name is how a claim becomes a name in RBAC.
type Name struct {
	Claim string `yaml:"claim"`
	// Prefix is put in front. Default, as with Kubernetes: the issuer and "#".
	Prefix string `yaml:"prefix"`
	// SkipPrefix puts nothing in front: the names are the same as the login's, and
	// such a user is a person to Kubeflow (kubeflow-userid). One entry at most.
	SkipPrefix bool `yaml:"skipPrefix"`
}

// Cluster is the API server as an issuer.
type Cluster struct {
	Issuer    string   `yaml:"issuer"`    // --service-account-issuer
	Audiences []string `yaml:"audiences"` // required: a pod asks for one in its projected volume
	// Algorithms that a token may be signed with. Default RS256, ES256.
	Algorithms []string `yaml:"algorithms"`
	Keys       Keys     `yaml:",inline"`
	// InsecureSkipLiveness takes the token of a ServiceAccount or pod of which no UID
	// is known, so that it cannot be told whether it is still there. Objects of
	// manifests have no UIDs: without this, or a cluster that is watched, no
	// ServiceAccount's token is taken. One that is known to be another is refused
	// all the same.
	InsecureSkipLiveness bool `yaml:"insecureSkipLiveness"`
}

func (t Tokens) problems(add func(field, format string, args ...any)) {
	for i, is := range t.Issuers {
		field := fmt.Sprintf("tokens.issuers[%d].", i)
		issuerProblems(add, field, is.Issuer, is.Audiences, is.Algorithms, is.Keys)
		nameProblems(add, field+"username.", is.Username)
		nameProblems(add, field+"groups.", is.Groups)
		if is.Groups.Claim == "" && (is.Groups.Prefix != "" || is.Groups.SkipPrefix) {
			add(field+"groups.claim", "required for a prefix")
		}
		for j, other := range t.Issuers[:i] {
			t.clash(add, field, is, other, j)
		}
	}
	if c := t.Cluster; c != nil {
		issuerProblems(add, "tokens.cluster.", c.Issuer, c.Audiences, c.Algorithms, c.Keys)
		if slices.ContainsFunc(t.Issuers, func(is Issuer) bool { return is.Issuer == c.Issuer }) {
			add("tokens.cluster.issuer", "also among tokens.issuers")
		}
	}
}

// clash: two entries must not give one name to two people, nor leave open which of
// them a token falls under.
func (t Tokens) clash(add func(field, format string, args ...any), field string, a, b Issuer, j int) {
	if a.Issuer == b.Issuer && slices.ContainsFunc(a.Audiences, func(s string) bool { return slices.Contains(b.Audiences, s) }) {
		add(field+"audiences", "tokens.issuers[%d] is the same issuer and shares an audience", j)
	}
	for _, n := range []struct {
		name string
		a, b credential.Claim
	}{{"username", a.user(), b.user()}, {"groups", a.groups(), b.groups()}} {
		if n.a.Name == "" || n.b.Name == "" {
			continue
		}
		switch {
		case n.a.Prefix == "" && n.b.Prefix == "":
			add(field+n.name+".skipPrefix", "tokens.issuers[%d] skips it too: one at most", j)
		case n.a.Prefix != "" && n.b.Prefix != "" && (strings.HasPrefix(n.a.Prefix, n.b.Prefix) || strings.HasPrefix(n.b.Prefix, n.a.Prefix)):
			add(field+n.name+".prefix", "one of %q and %q of tokens.issuers[%d] begins with the other: names could be the same", n.a.Prefix, n.b.Prefix, j)
		}
	}
}

func issuerProblems(add func(field, format string, args ...any), field, issuer string, audiences, algorithms []string, k Keys) {
	if u, err := url.Parse(issuer); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		add(field+"issuer", "got %q, want a URL", issuer)
	}
	if len(audiences) == 0 || slices.Contains(audiences, "") {
		add(field+"audiences", "required, none of them empty: without it a token made for anything else would count")
	}
	for i, alg := range algorithms {
		if !slices.Contains(keyset.Algorithms(), alg) {
			add(fmt.Sprintf("%salgorithms[%d]", field, i), "got %q, want one of %s", alg, strings.Join(keyset.Algorithms(), ", "))
		}
	}
	given := 0
	for _, s := range []string{k.JWKS, k.JWKSFile, k.JWKSURL} {
		if s != "" {
			given++
		}
	}
	fetched := k.JWKS == "" && k.JWKSFile == ""
	at := k.JWKSURL
	if at == "" {
		at = issuer
	}
	switch u, err := url.Parse(at); {
	case given > 1:
		add(field+"jwks", "want one of jwks, jwksFile and jwksURL")
	case !fetched && (k.CAFile != "" || k.TokenFile != ""):
		add(field+"caFile", "caFile and tokenFile are for keys that are fetched")
	case fetched && k.JWKSURL != "" && (err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http"):
		add(field+"jwksURL", "got %q, want a URL", k.JWKSURL)
	case fetched && err == nil && u.Scheme == "http" && !k.InsecureHTTP:
		add(field+"insecureHTTP", "the keys would come by plain http from %s: say true if nobody can change that traffic", u.Host)
	case fetched && k.TokenFile != "" && k.JWKSURL == "":
		add(field+"tokenFile", "needs jwksURL: a token is not shown to whatever a document names")
	}
}

func nameProblems(add func(field, format string, args ...any), field string, n Name) {
	if n.Prefix != "" && n.SkipPrefix {
		add(field+"skipPrefix", "there is a prefix")
	}
	if strings.HasPrefix(n.Prefix, "system:") || strings.HasPrefix(n.Prefix, "postern:") {
		add(field+"prefix", "got %q: names of Kubernetes and Postern begin so", n.Prefix)
	}
}

func (is Issuer) user() credential.Claim {
	n := is.Username
	set(&n.Claim, "sub")
	return is.claim(n)
}

func (is Issuer) groups() credential.Claim { return is.claim(is.Groups) }

func (is Issuer) claim(n Name) credential.Claim {
	if n.Prefix == "" && !n.SkipPrefix {
		n.Prefix = is.Issuer + "#"
	}
	return credential.Claim{Name: n.Claim, Prefix: n.Prefix}
}

// prefixes are those of the issuers' names.
func (t Tokens) prefixes() credential.Prefixes {
	var rules []credential.TokenRules
	for _, is := range t.Issuers {
		rules = append(rules, credential.TokenRules{User: is.user(), Groups: is.groups()})
	}
	return credential.PrefixesOf(rules)
}

// newTokens reads the files and makes the judge of tokens.
func newTokens(t Tokens, opts Options) (*credential.Tokens, error) {
	var rules []credential.TokenRules
	var errs []error
	for i, is := range t.Issuers {
		keys, err := is.Keys.open(is.Issuer, opts)
		if err != nil {
			errs = append(errs, fmt.Errorf("tokens.issuers[%d]: %w", i, err))
		}
		rules = append(rules, credential.TokenRules{
			Issuer: is.Issuer, Audiences: is.Audiences, Algorithms: is.Algorithms, Keys: keys, User: is.user(), Groups: is.groups(),
		})
	}
	if c := t.Cluster; c != nil {
		keys, err := c.Keys.open(c.Issuer, opts)
		if err != nil {
			errs = append(errs, fmt.Errorf("tokens.cluster: %w", err))
		}
		rules = append(rules, credential.TokenRules{
			Issuer: c.Issuer, Audiences: c.Audiences, Algorithms: c.Algorithms, Keys: keys, Cluster: true, SkipLiveness: c.InsecureSkipLiveness,
		})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return credential.NewTokens(rules, opts.Now), nil
}

func (k Keys) open(issuer string, opts Options) (*keyset.Set, error) {
	if k.JWKS != "" {
		return keyset.Fixed([]byte(k.JWKS))
	}
	if k.JWKSFile != "" {
		text, err := os.ReadFile(k.JWKSFile)
		if err != nil {
			return nil, err
		}
		return keyset.Fixed(text)
	}
	client, err := keyClient(opts.HTTPClient, k.CAFile)
	if err != nil {
		return nil, err
	}
	source := keyset.Source{URL: k.JWKSURL, Issuer: issuer, Client: client, InsecureHTTP: k.InsecureHTTP}
	if k.TokenFile != "" {
		source.Bearer = func() (string, error) {
			text, err := os.ReadFile(k.TokenFile)
			return string(text), err
		}
	}
	return keyset.Fetched(source.Fetch, opts.Now), nil
}

// keyClient is the client for one issuer's keys: no redirect, no cookie, and its
// own certificates where the configuration names some. Issuers are often outside,
// so unlike the login they are reached through the environment's proxy.
func keyClient(client *http.Client, caFile string) (*http.Client, error) {
	own := bare(client)
	if t, ok := own.Transport.(*http.Transport); ok && client == nil {
		t.Proxy = http.ProxyFromEnvironment
	}
	if caFile == "" {
		return own, nil
	}
	text, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: got no certificate, want PEM", caFile)
	}
	t, ok := own.Transport.(*http.Transport)
	if !ok {
		return nil, errors.New("caFile: the HTTP client in use cannot be given certificates")
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	t.TLSClientConfig.RootCAs = pool
	return own, nil
}
