//go:build e2e

package kubeflow

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// front is what resolves the models' names for a program: an HTTP proxy that leads
// every host to the ingress gateway, and changes nothing.
func (c *cluster) front() *httptest.Server {
	gateway := netip.AddrPortFrom(c.gateway("kubeflow/kubeflow-gateway"), 8080).String()
	var d net.Dialer
	s := httptest.NewServer(&httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.Out.Host = r.In.Host },
		Transport: &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp", gateway) }}})
	c.atEnd(s.Close)
	return s
}

// python runs a script in one of the environments of make tools.
func (c *cluster) python(environment string, env []string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command(tool(c.t, environment, "bin", "python"), args...)
	cmd.Env = append(os.Environ(), env...)
	said := &buffer{}
	cmd.Stderr = said
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("%s: %v: %s %s", args[0], err, out, said.String())
	}
	return string(out)
}

// TestOpenAIClient: the unmodified openai client with a base URL and a key, streaming
// included, and what it makes of refusals.
func TestOpenAIClient(t *testing.T) {
	oldAndNew(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		front := c.front()
		for _, tt := range []struct{ name, key, want string }{
			{"its key", c.keys["kserve-test/robot"], "whole: side door\npieces: 3 side door\n"},
			{"another tenant's", c.keys["team-b/robot"], "refused: 403 PermissionDeniedError not_allowed\n"},
			{"not one of Postern's", "sk-1234567890", "refused: 401 AuthenticationError "},
		} {
			got := c.python("openai", []string{"OPENAI_BASE_URL=http://" + llmOut + "/openai/v1", "OPENAI_API_KEY=" + tt.key, "HTTP_PROXY=" + front.URL, "http_proxy=" + front.URL, "NO_PROXY=", "no_proxy="}, "openai_client.py")
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
			}
		}
	})
}

// TestKServeClient: KServe's own Python client over REST (V1, V2) and gRPC.
func TestKServeClient(t *testing.T) {
	oldAndNew(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		front := c.front()
		gateway := netip.AddrPortFrom(c.gateway("kubeflow/kubeflow-gateway"), 8080).String()
		for _, tt := range []struct{ name, key, want string }{
			{"its key", c.keys["kserve-test/robot"], "v1: {'predictions': [1, 1]}\nv2: [1, 1]\ngrpc ready: "},
			{"another tenant's", c.keys["team-b/robot"], "refused: 403\ngrpc refused: StatusCode.PERMISSION_DENIED\n"},
			{"none", "", "refused: 401\ngrpc refused: StatusCode.UNAUTHENTICATED\n"},
		} {
			got := c.python("kserve", []string{"HTTP_PROXY=" + front.URL, "http_proxy=" + front.URL, "NO_PROXY=", "no_proxy="}, "kserve_client.py", "http://"+irisOut, tt.key, gateway, rpcOut)
			if !strings.Contains(got, tt.want) {
				t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
			}
		}
	})
}
