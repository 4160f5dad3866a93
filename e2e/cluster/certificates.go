package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs the cluster's certificates. It lives as long as the cluster.
type authority struct {
	dir string
	crt *x509.Certificate
	key *ecdsa.PrivateKey
	pem []byte
}

func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	crt := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cluster"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, crt, crt, key.Public(), key)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	if a.crt, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, os.WriteFile(filepath.Join(dir, "ca.crt"), a.pem, 0o644)
}

// issue writes NAME.crt and NAME.key, for a client (user and groups) and for a server of those names.
func (a *authority) issue(name, user string, groups, hosts []string) (crt, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: user, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.crt, private.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	crt = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	if err := os.WriteFile(a.file(name+".crt"), crt, 0o644); err != nil {
		return nil, nil, err
	}
	return crt, key, os.WriteFile(a.file(name+".key"), key, 0o600)
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// kubeconfig writes one for a user of his own certificate.
func (a *authority) kubeconfig(file, server, user string, groups ...string) error {
	crt, key, err := a.issue("client-"+user, user, groups, nil)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `apiVersion: v1
kind: Config
clusters: [{name: cluster, cluster: {server: "%s", certificate-authority-data: %s}}]
users: [{name: "%s", user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: cluster, context: {cluster: cluster, user: "%s"}}]
current-context: cluster
`, server, base64.StdEncoding.EncodeToString(a.pem), user, base64.StdEncoding.EncodeToString(crt), base64.StdEncoding.EncodeToString(key), user)
	return os.WriteFile(file, b.Bytes(), 0o600)
}
