//go:build e2e

package live

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"postern.dev/postern/examples/story"
)

// account is posternd's ServiceAccount, as the API server names it.
const account = "system:serviceaccount:postern-system:posternd"

// posternd is one of the program's processes.
type posternd struct {
	*process
	conn *grpc.ClientConn
	web  string
}

func buildPosternd(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "posternd")
	cmd := exec.Command("go", "build", "-o", file, "postern.dev/postern/cmd/posternd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// storyConfig is posternd's configuration of the story.
func storyConfig(t testing.TB) string {
	t.Helper()
	data, err := fs.ReadFile(story.FS, "4-postern/posternd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "config.yaml: |\n")
	var b strings.Builder
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "    ") {
			break
		}
		b.WriteString(line[4:])
	}
	return b.String()
}

var listening = regexp.MustCompile(`checks at (\S+) .*metrics at http://(\S+)`)

// posternd runs the program with some more flags.
func (c *place) posternd(t testing.TB, program string, args ...string) *posternd {
	t.Helper()
	config := write(t, filepath.Join(t.TempDir(), "config.yaml"), strings.ReplaceAll(storyConfig(t), "http://authservice.istio-system.svc.cluster.local:8080", c.login)+"\nlisten: {grpc: '127.0.0.1:0', http: '127.0.0.1:0', linger: "+c.linger+"}\nmanifests: {pods: "+podRange+"}\n")
	p := &posternd{process: run(t, program, append([]string{"--config", config}, args...)...)}
	t.Cleanup(func() {
		for _, sign := range []string{"panic", "DATA RACE"} {
			if strings.Contains(p.said.String(), sign) {
				t.Errorf("posternd said: %s", p.said.String())
			}
		}
	})
	var at []string
	eventually(t, "posternd listens", func() bool {
		select {
		case <-p.ended:
			t.Fatalf("posternd ended: %s", p.said.String())
		default:
		}
		at = listening.FindStringSubmatch(p.said.String())
		return at != nil
	})
	conn, err := grpc.NewClient(at[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p.conn, p.web = conn, "http://"+at[2]
	return p
}

func (p *posternd) get(t testing.TB, path string) (int, string) {
	t.Helper()
	resp, err := http.Get(p.web + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (p *posternd) ready(t testing.TB) {
	t.Helper()
	eventually(t, "posternd is ready", func() bool { status, _ := p.get(t, "/readyz"); return status == http.StatusOK })
}

// metric is a gauge's or a counter's value, by its name with its labels.
func (p *posternd) metric(t testing.TB, name string) float64 {
	t.Helper()
	_, text := p.get(t, "/metrics")
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func peer(addr string, port uint32) *auth.AttributeContext_Peer {
	return &auth.AttributeContext_Peer{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: addr, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port}}}}}
}

// call is one question: from an address, at a door, for a host, with a key or not.
type call struct {
	from string
	door uint32
	host string
	key  string
}

func (c call) String() string { return fmt.Sprintf("%s at %d for %s", c.from, c.door, c.host) }

// ask gives "allow", or the refusal's status and the word of its body.
func (p *posternd) ask(t testing.TB, c call) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	headers := map[string]string{":method": "POST"}
	if c.key != "" {
		headers["x-api-key"] = c.key
	}
	out, err := auth.NewAuthorizationClient(p.conn).Check(ctx, &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source: peer(c.from, 40000), Destination: peer("10.244.0.1", c.door),
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "POST", Host: c.host, Path: "/v1/models/m:predict", Headers: headers}}}})
	switch {
	case err != nil:
		return "error: " + err.Error()
	case out.GetOkResponse() != nil && out.GetStatus().GetCode() == 0:
		return "allow"
	}
	word := out.GetDeniedResponse().GetBody()
	if _, rest, ok := strings.Cut(word, `"error":"`); ok {
		word, _, _ = strings.Cut(rest, `"`)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", out.GetDeniedResponse().GetStatus().GetCode(), word))
}

func (p *posternd) expect(t testing.TB, c call, want string) {
	t.Helper()
	if got := p.ask(t, c); got != want {
		t.Errorf("%s: got %s, want %s", c, got, want)
	}
}

// until asks until the answer is the one wanted, and says how long that took.
func (p *posternd) until(t testing.TB, c call, want string) time.Duration {
	t.Helper()
	begin, got := time.Now(), ""
	for time.Since(begin) < time.Minute {
		if got = p.ask(t, c); got == want {
			return time.Since(begin)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s: still %s, want %s\nposternd said: %s", c, got, want, p.said.String())
	return 0
}
