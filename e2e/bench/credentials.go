package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/apikey"
	"postern.dev/postern/internal/passport"
)

const (
	issuer = "https://bench.test"
	person = "ada@bench.test"
	cookie = "authservice_session"

	// Of each kind that is shown a first time: more than posternd remembers (16,384
	// tokens, 10,000 sessions, 8,192 passports), so that going round is as good as
	// new ones.
	manyTokens    = 17_000
	manySessions  = 12_000
	manyPassports = 9_000
)

// objects are added to the story's manifests: who calls, and what they may.
const objects = `apiVersion: v1
kind: Pod
metadata: {name: bench-caller, namespace: default}
spec: {containers: [{name: c, image: bench}]}
---
apiVersion: v1
kind: Pod
metadata: {name: bench-gateway, namespace: istio-system, labels: {istio: ingressgateway}}
spec: {containers: [{name: c, image: bench}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bench, namespace: kserve-test}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-model-caller}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: "postern:key:kserve-test:bench"}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: "` + issuer + `#robot"}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: "` + person + `"}
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: bench}
`

// credentials are made anew for every run.
type credentials struct {
	key, keyObject string   // an API key, and its object in YAML
	tokens         []string // of one caller, signed with RS256 and 2,048 bits
	jwks           string   // their issuer's keys
	passportKey    []byte   // PEM, posternd's
	passports      *passport.Keys
}

func newCredentials(tokens int) (credentials, error) {
	var c credentials
	text, spec, err := apikey.New(rand.Reader, "kserve-test", "bench")
	if err != nil {
		return c, err
	}
	c.key = text
	c.keyObject = fmt.Sprintf("---\napiVersion: apikeys.postern.dev/v1alpha1\nkind: ApiKey\nmetadata: {name: bench, namespace: kserve-test}\nspec: {id: %q, hash: %q}\n", spec.ID, spec.Hash)
	if err := c.signer(); err != nil {
		return c, err
	}
	return c, c.issue(tokens)
}

// signer makes the key that posternd signs passports with.
func (c *credentials) signer() error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	c.passportKey = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	c.passports, err = passport.FromPEM(c.passportKey, nil)
	return err
}

// issue signs n tokens that differ in jti only.
func (c *credentials) issue(n int) error {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: private, KeyID: "bench"}}, nil)
	if err != nil {
		return err
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: private.Public(), KeyID: "bench", Algorithm: "RS256", Use: "sig"}}})
	if err != nil {
		return err
	}
	c.jwks, c.tokens = string(set), make([]string, n)
	now := time.Now()
	errs := make([]error, runtime.NumCPU())
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += len(errs) {
				c.tokens[i], errs[w] = jwt.Signed(signer).Claims(jwt.Claims{
					Issuer: issuer, Subject: "robot", Audience: jwt.Audience{"postern"}, ID: fmt.Sprintf("bench-%06d", i),
					IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(24 * time.Hour)),
				}).Claims(map[string]any{"email": "robot@bench.test", "email_verified": true}).Serialize()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// passport is one for the second hop to the model, as the gateway shows it.
func (c *credentials) passport(user string) (string, error) {
	return c.passports.Mint(access.Caller{User: user, Groups: []string{"bench", access.AuthenticatedGroup}, Proven: true, Kind: access.Token},
		passport.Audience{Resource: access.Model("kserve-test", "sklearn-iris"), Hop: true}, time.Now())
}

// shown are the header lines by which a variant's requests differ.
func (b *bench) shown(s shows) ([][]byte, error) {
	var out [][]byte
	add := func(format string, args ...any) { out = append(out, fmt.Appendf(nil, format, args...)) }
	switch s {
	case nothing:
		add("")
	case apiKey:
		add("Authorization: Bearer %s\r\n", b.credentials.key)
	case token:
		add("Authorization: Bearer %s\r\n", b.credentials.tokens[0])
	case newTokens:
		for _, t := range b.credentials.tokens {
			add("Authorization: Bearer %s\r\n", t)
		}
	case session:
		add("Cookie: theme=dark; %s=%s\r\n", cookie, bytes.Repeat([]byte("s"), 64))
	case newSessions:
		for i := range manySessions {
			add("Cookie: theme=dark; %s=%064d\r\n", cookie, i)
		}
	case oldPassport, newPassports:
		n := 1
		if s == newPassports {
			n = manyPassports
		}
		for i := range n {
			text, err := b.credentials.passport(fmt.Sprintf("%s#robot-%d", issuer, i))
			if err != nil {
				return nil, err
			}
			add("X-Postern-Passport: %s\r\n", text)
		}
	}
	return out, nil
}
