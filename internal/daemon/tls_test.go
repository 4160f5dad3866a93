package daemon

import (
	"crypto/tls"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

func TestMutualTLS(t *testing.T) {
	const gateway = "spiffe://cluster.local/ns/istio-system/sa/gateway"
	ca, other := newCA(t), newCA(t)
	dir := t.TempDir()
	files := TLS{CertFile: filepath.Join(dir, "crt"), KeyFile: filepath.Join(dir, "key"), ClientCAFile: filepath.Join(dir, "ca"), Clients: []string{gateway}}
	ca.writeServer(t, files)
	r := start(t, storyDirs(t), func(c *Config) { c.TLS = files })
	r.ready(t)
	call := check(podAddress(t), inside, modelHost, modelPath)
	client := func(certs ...tls.Certificate) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{RootCAs: ca.pool(), ServerName: "posternd.test", Certificates: certs})
	}
	good := client(ca.issue(t, gateway))
	if got := ask(t, r.dial(t, good), call); got != "allow" {
		t.Fatalf("the gateway: got %s", got)
	}
	for name, creds := range map[string]credentials.TransportCredentials{
		"another workload of the mesh": client(ca.issue(t, "spiffe://cluster.local/ns/default/sa/gateway")),
		"two names":                    client(ca.issue(t, gateway, "spiffe://cluster.local/ns/default/sa/x")),
		"no name":                      client(ca.issue(t)),
		"no certificate":               client(),
		"another CA's gateway":         client(other.issue(t, gateway)),
		"plaintext":                    insecure.NewCredentials(),
	} {
		if got := ask(t, r.dial(t, creds), call); !strings.HasPrefix(got, "error: rpc error: code = Unavailable") {
			t.Errorf("%s: got %s", name, got)
		}
	}
	if _, text := r.get(t, "/metrics"); !strings.Contains(text, `postern_credential_expiry_days{credential="server-certificate"} 0.99`) {
		t.Error("no expiry of the certificate in the metrics")
	}
	// The other CA takes over, with nothing restarted.
	other.writeServer(t, files)
	creds := credentials.NewTLS(&tls.Config{RootCAs: other.pool(), ServerName: "posternd.test", Certificates: []tls.Certificate{other.issue(t, gateway)}})
	eventually(t, "the new certificate is used", func() bool { return ask(t, r.dial(t, creds), call) == "allow" })
	write(t, files.ClientCAFile, "no certificate")
	eventually(t, "the error is said", func() bool { return strings.Contains(r.said.String(), "the certificates have errors") })
	if got := ask(t, r.dial(t, creds), call); got != "allow" {
		t.Errorf("after a bad CA file: got %s", got)
	}
}
