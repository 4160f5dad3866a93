package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// identity is the port's certificate and whom it lets in. What was read last is in
// force for the next connection.
type identity struct {
	files   TLS
	current atomic.Pointer[loadedTLS]
}

type loadedTLS struct {
	config *tls.Config
	server time.Time // when the certificate expires
	ca     time.Time // when the first of the client CA's does
}

func (i *identity) names() []string {
	return []string{i.files.CertFile, i.files.KeyFile, i.files.ClientCAFile}
}

func (i *identity) read() error {
	cert, err := tls.LoadX509KeyPair(i.files.CertFile, i.files.KeyFile)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	data, err := os.ReadFile(i.files.ClientCAFile)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	pool, expires, err := parseCA(data)
	if err != nil {
		return fmt.Errorf("tls: %s: %w", i.files.ClientCAFile, err)
	}
	i.current.Store(&loadedTLS{server: cert.Leaf.NotAfter, ca: expires, config: &tls.Config{
		MinVersion:       tls.VersionTLS12, // what Envoy asks for unless told otherwise
		NextProtos:       []string{"h2"},
		Certificates:     []tls.Certificate{cert},
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        pool,
		VerifyConnection: i.verify,
	}})
	return nil
}

// config is the one of the next connection, whatever is in force then.
func (i *identity) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return i.current.Load().config, nil
		},
	}
}

// verify lets in who the CA vouches for (the handshake has seen to that) and the
// configuration names, by the one URI of an X.509-SVID (SPIFFE's X509-SVID.md, 2).
func (i *identity) verify(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("tls: no client certificate")
	}
	uris := s.PeerCertificates[0].URIs
	if len(uris) != 1 || !slices.Contains(i.files.Clients, uris[0].String()) {
		return errors.New("tls: this client is not among tls.clients")
	}
	return nil
}

// parseCA reads PEM certificates; anything else in the file is an error.
func parseCA(data []byte) (*x509.CertPool, time.Time, error) {
	certs, err := parseCertificates(data)
	if err != nil {
		return nil, time.Time{}, err
	}
	pool := x509.NewCertPool()
	expires := certs[0].NotAfter
	for _, c := range certs {
		if !c.IsCA {
			return nil, time.Time{}, fmt.Errorf("certificate of %s is no CA", c.Subject)
		}
		pool.AddCert(c)
		if c.NotAfter.Before(expires) {
			expires = c.NotAfter
		}
	}
	return pool, expires, nil
}
