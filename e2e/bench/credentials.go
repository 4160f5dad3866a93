package main

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"postern.dev/postern/internal/apikey"
)

const issuer = "https://bench.test"

// objects are added to the story's manifests: who calls, and what they may.
const objects = `apiVersion: v1
kind: Pod
metadata: {name: bench-caller, namespace: default}
spec: {containers: [{name: c, image: bench}]}
status: {podIP: ` + podAddress + `, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: bench-gateway, namespace: istio-system, labels: {istio: ingressgateway}}
spec: {containers: [{name: c, image: bench}]}
status: {podIP: ` + gatewayAddress + `, phase: Running}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bench, namespace: kserve-test}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-model-caller}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: "postern:key:kserve-test:bench"}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: "` + issuer + `#robot"}
`

// credentials are made anew for every run.
type credentials struct {
	key, keyObject string // an API key, and its object in YAML
	token, jwks    string // a token, and its issuer's keys
}

func newCredentials() (credentials, error) {
	var c credentials
	text, spec, err := apikey.New(rand.Reader, "kserve-test", "bench")
	if err != nil {
		return c, err
	}
	c.key = text
	c.keyObject = fmt.Sprintf("---\napiVersion: apikeys.postern.dev/v1alpha1\nkind: ApiKey\nmetadata: {name: bench, namespace: kserve-test}\nspec: {id: %q, hash: %q}\n", spec.ID, spec.Hash)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return c, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: private, KeyID: "bench"}}, nil)
	if err != nil {
		return c, err
	}
	now := time.Now()
	c.token, err = jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: issuer, Subject: "robot", Audience: jwt.Audience{"postern"}, ID: "bench",
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(24 * time.Hour)),
	}).Serialize()
	if err != nil {
		return c, err
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: private.Public(), KeyID: "bench", Algorithm: "RS256", Use: "sig"}}})
	c.jwks = string(set)
	return c, err
}
