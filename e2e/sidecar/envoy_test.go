//go:build e2e

package sidecar

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/lab/realenvoy"
)

// authority signs certificates as istiod does: a URI and nothing else.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// identity is a certificate for a SPIFFE URI.
type identity struct {
	uri, hash         string
	certPEM, keyPEM   []byte
	clientCertificate tls.Certificate
}

func (a *authority) issue(t *testing.T, uri string) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	id := identity{uri: uri, hash: hex.EncodeToString(sum[:]), certPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		keyPEM: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}
	if id.clientCertificate, err = tls.X509KeyPair(id.certPEM, id.keyPEM); err != nil {
		t.Fatal(err)
	}
	return id
}

// bind makes of virtualInbound one listener a port, as if connections to that
// port had been redirected to it, with certificates in place of istiod's.
func bind(t *testing.T, r envoy.Resources, ports []uint16, a *authority, own identity) envoy.Resources {
	t.Helper()
	out := envoy.Resources{Clusters: r.Clusters}
	for _, port := range ports {
		l := proto.Clone(r.Listeners[0]).(*listenerv3.Listener)
		l.Name = fmt.Sprintf("%s-%d", l.Name, port)
		l.StatPrefix = l.Name
		l.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "0.0.0.0", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}}}
		for _, chain := range l.FilterChains {
			withCertificates(t, chain, a, own)
		}
		out.Listeners = append(out.Listeners, l)
	}
	return out
}

func withCertificates(t *testing.T, chain *listenerv3.FilterChain, a *authority, own identity) {
	t.Helper()
	m := &tlsv3.DownstreamTlsContext{}
	if chain.TransportSocket == nil {
		return
	}
	if err := chain.TransportSocket.GetTypedConfig().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(b)}}
	}
	common := m.CommonTlsContext
	validation := common.GetCombinedValidationContext().GetDefaultValidationContext()
	validation.TrustedCa = inline(a.pem)
	common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: validation}
	common.TlsCertificateSdsSecretConfigs = nil
	common.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: inline(own.certPEM), PrivateKey: inline(own.keyPEM)}}
	packed, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	chain.TransportSocket.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: packed}
}

// application is what stands behind a sidecar: it answers 200 and keeps what it got.
type application struct {
	mu   sync.Mutex
	last string
}

func (a *application) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := a.last
	a.last = ""
	return last
}

func (a *application) serve(t *testing.T, cluster string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					if first, err := r.Peek(1); err != nil || first[0] == 0x16 { // TLS that was passed on
						if err == nil {
							a.mu.Lock()
							a.last = cluster + "\n"
							a.mu.Unlock()
						}
						return
					}
					head, err := readHead(r)
					if err != nil {
						return
					}
					a.mu.Lock()
					a.last = seen(cluster, head)
					a.mu.Unlock()
					if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func readHead(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line == "\r\n" {
			return b.String(), nil
		}
		b.WriteString(line)
	}
}

// seen is a request as text: its cluster, request line, and headers by name. What
// no answer depends on is left out.
func seen(cluster, head string) string {
	lines := strings.Split(strings.TrimRight(head, "\r\n"), "\r\n")
	request := strings.TrimSuffix(lines[0], " HTTP/1.1")
	var headers []string
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		switch name = strings.ToLower(name); name {
		case "content-length", "transfer-encoding":
		default:
			headers = append(headers, name+": "+strings.TrimSpace(value))
		}
	}
	sort.SliceStable(headers, func(i, j int) bool { return nameOf(headers[i]) < nameOf(headers[j]) })
	return cluster + "\n" + request + "\n" + strings.Join(headers, "\n")
}

func nameOf(h string) string { name, _, _ := strings.Cut(h, ":"); return name }

// real is a running Envoy with a sidecar's configuration.
type real struct {
	app       *application
	authority *authority
	own       identity
	addr      netip.Addr
}

func start(t *testing.T, r envoy.Resources, ports []uint16, addr netip.Addr, a *authority, own identity) *real {
	t.Helper()
	program, err := filepath.Abs("../../.tools/envoy/bin/envoy")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v (run make tools)", err)
	}
	app := &application{}
	addrs := map[string][]netip.AddrPort{}
	for _, c := range r.Clusters {
		if c.Name != "BlackHoleCluster" {
			addrs[c.Name] = []netip.AddrPort{app.serve(t, c.Name)}
		}
		c.Http2ProtocolOptions, c.TypedExtensionProtocolOptions = nil, nil //nolint:staticcheck // the application speaks HTTP/1.1
	}
	e, err := realenvoy.Start(context.Background(), realenvoy.Config{Program: program, Address: addr,
		Endpoints: func(cluster string) []netip.AddrPort { return addrs[cluster] }}, bind(t, r, ports, a, own))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return &real{app: app, authority: a, own: own, addr: addr}
}

// got is what Envoy did: a status and body, what the application saw, or neither
// where the connection ended.
type got struct {
	status int
	body   string
	app    string
}

// send makes one request on a connection of its own.
func (e *real) send(t *testing.T, as *identity, alpn []string, port uint16, raw string) got {
	t.Helper()
	conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(e.addr, port).String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if alpn != nil {
		config := &tls.Config{InsecureSkipVerify: true, NextProtos: alpn} // who the server is does not matter here
		if as != nil {
			config.Certificates = []tls.Certificate{as.clientCertificate}
		}
		conn = tls.Client(conn, config)
	}
	e.app.take()
	if _, err := io.WriteString(conn, raw); err != nil {
		return got{app: e.app.take()}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return got{app: e.app.take()} // the connection ended
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got{resp.StatusCode, string(bytes.TrimSpace(body)), e.app.take()}
}
