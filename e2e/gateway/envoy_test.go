//go:build e2e

package gateway

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/lab"
	"postern.dev/postern/internal/lab/serving"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/translate"
)

// program is the Envoy that make tools puts into .tools.
func program(t *testing.T) string {
	t.Helper()
	p, err := filepath.Abs("../../.tools/envoy/bin/envoy")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%v (run make tools)", err)
	}
	return p
}

// system is the bundled story with Postern in a real Envoy, whose files are in
// the folder tmp.
func system(t *testing.T, observe func(*topology.Pod, *http.Request)) (s *lab.System, tmp string) {
	t.Helper()
	tmp = t.TempDir()
	t.Setenv("TMPDIR", tmp)
	translated, err := fs.Sub(story.FS, "translated")
	if err != nil {
		t.Fatal(err)
	}
	models, remove, err := lab.BundledModels(story.FS, "models", "gs://kfserving-examples/models")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	s, err = lab.Start(context.Background(), lab.Config{
		Load:      func() (*manifest.Set, error) { return manifest.FS(story.FS, story.States()[3].Dirs...) },
		Translate: translate.Options{Bundled: translated},
		Storage:   serving.Storage{Mappings: []serving.Mapping{models}},
		Ports:     map[string]int{"kubeflow/kubeflow-gateway": 0, "knative-serving/knative-local-gateway": 0},
		Envoy:     program(t), Observe: observe,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return s, tmp
}

// Envoy's admin interface asks for no password, and ends Envoy for whoever asks:
// it must be this user's alone. When Envoy ends, the system says so.
func TestAdminInterfaceAndTheEndOfEnvoy(t *testing.T) {
	s, tmp := system(t, nil)
	sockets, err := filepath.Glob(filepath.Join(tmp, "postern-envoy-*", "admin.sock"))
	if err != nil || len(sockets) == 0 {
		t.Fatalf("got %v, %v; want Envoy's admin socket below %s", sockets, err, tmp)
	}
	for name, want := range map[string]fs.FileMode{sockets[0]: 0o600, filepath.Dir(sockets[0]): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v; want mode %o", name, info.Mode(), err, want)
		}
	}
	for _, addr := range listening(t, tmp) {
		if !netip.MustParsePrefix("127.66.0.0/16").Contains(addr.Addr()) {
			t.Errorf("Envoy listens at %s, which is no pod's address", addr)
		}
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sockets[0])
	}}}
	defer client.CloseIdleConnections()
	select {
	case err := <-s.Failed():
		t.Fatalf("failed before anything happened: %v", err)
	default:
	}
	resp, err := client.Post("http://envoy/quitquitquit", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := <-s.Failed(); err == nil || !strings.Contains(err.Error(), "envoy ended (exit status 0)") {
		t.Errorf("got %v, want that envoy ended", err)
	}
}

// listening are the IPv4 addresses that processes with mark in their command line
// listen on.
func listening(t *testing.T, mark string) []netip.AddrPort {
	t.Helper()
	sockets := map[string]bool{}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range lines {
		if line, err := os.ReadFile(name); err != nil || !strings.Contains(string(line), mark) {
			continue
		}
		fds, err := filepath.Glob(filepath.Join(filepath.Dir(name), "fd", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil {
				sockets[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
			}
		}
	}
	data, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	var out []netip.AddrPort
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		var a, port uint32
		if len(f) < 10 || f[3] != "0A" || !sockets[f[9]] {
			continue
		}
		if n, err := fmt.Sscanf(f[1], "%X:%X", &a, &port); n == 2 && err == nil {
			out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(a), byte(a >> 8), byte(a >> 16), byte(a >> 24)}), uint16(port)))
		}
	}
	if len(out) == 0 {
		t.Fatal("Envoy's listeners were not found in /proc")
	}
	return out
}

// A server of this machine that listens on every address answers at a pod's
// address too. A pod must not reach it there.
func TestAPodReachesNothingOfThisMachine(t *testing.T) {
	machine, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	port := machine.Addr().(*net.TCPAddr).Port
	var model atomic.Pointer[topology.Pod]
	s, _ := system(t, func(pod *topology.Pod, _ *http.Request) {
		if pod.Labels["serving.kserve.io/inferenceservice"] != "" {
			model.Store(pod)
		}
	})
	proxy, err := s.PodProxy("default", "myapp-pod")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
	resp, err := client.Get("http://sklearn-iris.kserve-test.svc.cluster.local/v1/models")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	pod := model.Load()
	if resp.StatusCode != http.StatusOK || pod == nil {
		t.Fatalf("got %s, and pod %v was called", resp.Status, pod)
	}
	if c, err := net.Dial("tcp", net.JoinHostPort(pod.Addr.String(), fmt.Sprint(port))); err != nil {
		t.Fatalf("it must answer at the pod's address, or this test shows nothing: %v", err)
	} else {
		c.Close()
	}
	for addr, want := range map[string]int{
		net.JoinHostPort(pod.Addr.String(), fmt.Sprint(port)):                                     http.StatusBadGateway,
		net.JoinHostPort("127.0.0.1", fmt.Sprint(port)):                                           http.StatusBadGateway,
		net.JoinHostPort(pod.Addr.String(), fmt.Sprint(pod.Containers[0].Ports[0].ContainerPort)): http.StatusOK,
	} {
		c, err := net.Dial("tcp", proxy.Host)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic %s\r\n\r\n", addr, addr, base64.StdEncoding.EncodeToString([]byte(proxy.User.String())))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%s: got %v, %v; want %d", addr, resp, err, want)
		}
		c.Close()
	}
}
