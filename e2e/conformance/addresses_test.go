//go:build e2e

package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"postern.dev/postern/internal/envoy"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// TestListenersByAddress: of several listeners on one port the one of the connection's
// own address answers, else the one of every address.
func TestListenersByAddress(t *testing.T) {
	free, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	var listeners []json.RawMessage
	var parsed []any
	for _, l := range []struct{ name, addr string }{{"every", "0.0.0.0"}, {"two", ours + ".240.2"}, {"three", ours + ".240.3"}} {
		text := listenerOf(l.name, l.addr, "", `{"match":{"prefix":"/"},"directResponse":{"status":200,"body":{"inlineString":"`+l.name+`"}}}`)
		var v map[string]any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		v["address"].(map[string]any)["socketAddress"].(map[string]any)["portValue"] = port
		parsed = append(parsed, v)
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, data)
	}
	p, err := envoy.Compile(parse(t, listeners, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := json.Marshal(map[string]any{"static_resources": map[string]any{"listeners": parsed}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(realEnvoy, "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "--disable-hot-restart", "--log-level", "error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for _, host := range []string{"2", "3", "4"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(ours+".240."+host), uint16(port))
		got := ""
		for range 200 { // until Envoy is up
			resp, err := http.Get("http://" + to.String() + "/")
			if err != nil {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			got = string(body)
			break
		}
		o := p.Evaluate(request{proto: "HTTP/1.1", method: "GET", host: "a", target: "/"}.engine(addrPort("127.0.0.1:1"), to), envoy.Env{}, nil)
		if got == "" || o.Body != got {
			t.Errorf("%s: Envoy answers as %q, the engine as %q (%s)", to, got, o.Body, fmt.Sprint(o.Kind, " ", o.Reason))
		}
	}
}
