package passport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
)

func pemKey(t *testing.T, curve elliptic.Curve) []byte {
	t.Helper()
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// TestRotationByFiles: through the three steps both replicas take each other's
// passports, whichever of them is a step ahead.
func TestRotationByFiles(t *testing.T) {
	old, next := pemKey(t, elliptic.P256()), pemKey(t, elliptic.P256())
	caller := access.Caller{User: "u", Proven: true}
	object := Audience{Resource: access.Resource{Namespace: "n", Resource: "inferenceservices", Name: "m"}}
	now := time.Now()
	steps := [][2][]byte{{old, nil}, {old, next}, {next, old}, {next, nil}}
	for i := range len(steps) - 1 {
		a, err := FromPEM(steps[i][0], steps[i][1])
		if err != nil {
			t.Fatal(err)
		}
		b, err := FromPEM(steps[i+1][0], steps[i+1][1])
		if err != nil {
			t.Fatal(err)
		}
		for _, pair := range [][2]*Keys{{a, b}, {b, a}} {
			token, err := pair[0].Mint(caller, object, now)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pair[1].Check(token, object, now); err != nil {
				t.Errorf("from step %d: %v", i, err)
			}
		}
	}
	a, err := FromPEM(old, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := a.Mint(caller, object, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Use(next, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Check(token, object, now); err == nil {
		t.Error("a passport of a key that is gone is taken")
	}
	if again, err := a.Mint(caller, object, now); err != nil || again == token {
		t.Errorf("a passport of the old key is handed out after the change: %v", err)
	}
}

func TestFromPEMRefuses(t *testing.T) {
	good := pemKey(t, elliptic.P256())
	for name, files := range map[string][2][]byte{
		"no PEM": {[]byte("x"), nil}, "empty": {nil, nil}, "another curve": {pemKey(t, elliptic.P384()), nil},
		"two in one file": {bytes.Join([][]byte{good, pemKey(t, elliptic.P256())}, nil), nil}, "the same twice": {good, good},
		"a certificate": {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), nil}, "a bad second": {good, []byte("x")},
		"broken": {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), nil},
	} {
		if _, err := FromPEM(files[0], files[1]); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
