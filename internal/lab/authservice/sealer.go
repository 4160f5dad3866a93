package authservice

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"time"
)

// sealer keeps what a login needs with the one who logs in instead of in memory:
// whoever is nobody yet must not fill it. Its key is this process's own.
type sealer struct {
	aead cipher.AEAD // makes its own nonces; a key may seal 2^32 times
	now  func() time.Time
}

func newSealer(now func() time.Time) (sealer, error) {
	var k [32]byte
	_, _ = rand.Read(k[:]) // never fails
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealer{aead, now}, err
}

// seal is text that fits cookies and URLs. Only open with the same purpose, this
// key, and not after life has it give the content.
func (s sealer) seal(purpose string, life time.Duration, content []byte) string {
	plain := binary.BigEndian.AppendUint64(nil, uint64(s.now().Add(life).UnixMilli()))
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, append(plain, content...), []byte(purpose)))
}

func (s sealer) open(purpose, sealed string) (content []byte, ok bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil {
		return nil, false
	}
	plain, err := s.aead.Open(nil, nil, raw, []byte(purpose))
	if err != nil || len(plain) < 8 || s.now().UnixMilli() >= int64(binary.BigEndian.Uint64(plain)) {
		return nil, false
	}
	return plain[8:], true
}
