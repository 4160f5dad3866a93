package passport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// FromPEM makes Keys of private keys on P-256, as `openssl genpkey -algorithm EC
// -pkeyopt ec_paramgen_curve:P-256` writes them: the first signs, the second, which
// may be missing, is only accepted and published. Several posternd take each
// other's passports when they have the same files.
func FromPEM(signing, other []byte) (*Keys, error) {
	k := &Keys{}
	if err := k.Use(signing, other); err != nil {
		return nil, err
	}
	return k, nil
}

// Use puts other keys in force. A rotation has no gap in three steps, each when
// all posternd and sidecars know of the one before: the new key comes second, the
// two change places, the old one goes.
func (k *Keys) Use(signing, other []byte) error {
	first, err := parseKey(signing)
	if err != nil {
		return fmt.Errorf("first key: %w", err)
	}
	var second *key
	if len(other) > 0 {
		if second, err = parseKey(other); err != nil {
			return fmt.Errorf("second key: %w", err)
		}
		if second.id == first.id {
			return errors.New("both keys are the same")
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current, k.previous = first, second
	k.minted, k.checked = map[mintKey]cached{}, map[checkKey]cached{}
	return nil
}

// parseKey never quotes what it reads.
func parseKey(data []byte) (*key, error) {
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, errors.New("got no PEM, want a private key")
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, errors.New("got more than one PEM block, want one private key")
	}
	var private any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		private, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		private, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("got PEM %q, want PRIVATE KEY", block.Type)
	}
	ec, ok := private.(*ecdsa.PrivateKey)
	if err != nil || !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("want an elliptic curve key on P-256")
	}
	return keyOf(ec)
}
