package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/trace"
)

// Config is posternd's file: the authorizer's own configuration (doors, routing,
// login, ...) and, beside it at the top, what the program needs. The zero value
// listens on loopback only and knows no door, so it refuses everything.
type Config struct {
	Authorizer authorizer.Config `yaml:",inline"`

	Listen Listen `yaml:"listen"`
	// TLS is for an authorizer without a sidecar: its own certificate, and who may
	// connect.
	TLS TLS `yaml:"tls"`
	// InsecurePort lets anybody who reaches listen.grpc ask, and claim any address
	// there. Pods are then not recognised by their address.
	InsecurePort bool `yaml:"insecure"`
	// Passport are the keys that sign passports.
	Passport Passport `yaml:"passport"`
	// Manifests are where the cluster's objects are read from, unless Cluster is set.
	Manifests Manifests `yaml:"manifests"`
	// Cluster, also when it is {}, says that they are watched at an API server.
	Cluster *cluster.Settings `yaml:"cluster"`
	// Tracing sends OpenTelemetry spans to a collector.
	Tracing trace.Config `yaml:"tracing"`
	// LogLevel is one of debug, info, warn and error. Decisions are info, those that
	// failed for want of a login or by a fault of Postern's are error. Default info.
	LogLevel string `yaml:"logLevel"`
}

const defaultPatience = 30 * time.Second

// Listen says where the program listens: addresses, not names.
type Listen struct {
	// GRPC is the port for Envoy's checks, a privileged interface. Default
	// 127.0.0.1:9000, where a sidecar reaches it.
	GRPC string `yaml:"grpc"`
	// HTTP is the port for /healthz, /readyz, /jwks.json and /metrics, which tell no
	// secret. Default 127.0.0.1:9001.
	HTTP string `yaml:"http"`
	// Patience is how long readiness waits for the cluster's objects. After that
	// people's requests are answered without them. Default 30s.
	Patience time.Duration `yaml:"patience"`
	// Linger is how long new checks are still taken after SIGTERM, with readiness off
	// already: the gateways learn of it a little later. Default 3s.
	Linger time.Duration `yaml:"linger"`
	// Drain bounds how long checks under way may go on after that. Default 10s.
	Drain time.Duration `yaml:"drain"`
}

// TLS are PEM files, read again when they change, and the clients that are let in.
type TLS struct {
	CertFile     string `yaml:"certFile"`
	KeyFile      string `yaml:"keyFile"`
	ClientCAFile string `yaml:"clientCAFile"`
	// Clients are SPIFFE IDs, as
	// spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account.
	Clients []string `yaml:"clients"`
}

func (t TLS) on() bool {
	return t.CertFile != "" || t.KeyFile != "" || t.ClientCAFile != "" || len(t.Clients) > 0
}

// Passport names one or two private keys in PEM files (openssl genpkey -algorithm
// EC -pkeyopt ec_paramgen_curve:P-256), read again when they change.
type Passport struct {
	// KeyFiles: the first signs, the second is accepted and published. Default: a
	// new key of this process's own, so that no other posternd takes its passports.
	KeyFiles []string `yaml:"keyFiles"`
}

// Manifests are directories of YAML.
type Manifests struct {
	Dirs []string `yaml:"dirs"`
	// Pods is the range in which pods without status.podIP are taken to live, as
	// `postern up` places them. Default: they have no address.
	Pods netip.Prefix `yaml:"pods"`
}

// ParseConfig reads the file strictly. file is only for errors.
func ParseConfig(file string, data []byte) (Config, error) {
	var c Config
	root, err := authorizer.Decode(file, data, &c)
	if err != nil {
		return Config{}, err
	}
	if err := errors.Join(c.Authorizer.Check(file, root), c.check(file, root)); err != nil {
		return Config{}, err
	}
	c.fill()
	return c, nil
}

func (c *Config) fill() {
	if c.Listen.GRPC == "" {
		c.Listen.GRPC = "127.0.0.1:9000"
	}
	if c.Listen.HTTP == "" {
		c.Listen.HTTP = "127.0.0.1:9001"
	}
	if c.Listen.Linger == 0 {
		c.Listen.Linger = 3 * time.Second
	}
	if c.Listen.Drain == 0 {
		c.Listen.Drain = 10 * time.Second
	}
	c.Authorizer.Insecure = c.InsecurePort
}

func (c Config) check(file string, root *yaml.Node) error {
	var errs []error
	add := func(field, format string, args ...any) {
		errs = append(errs, authorizer.Problem(file, root, field, format, args...))
	}
	open := false
	for _, l := range []struct{ field, addr string }{{"listen.grpc", c.Listen.GRPC}, {"listen.http", c.Listen.HTTP}} {
		if l.addr == "" {
			continue
		}
		loopback, err := address(l.addr)
		if err != nil {
			add(l.field, "%v", err)
		}
		open = open || err == nil && !loopback && l.field == "listen.grpc"
	}
	for field, d := range map[string]time.Duration{"listen.patience": c.Listen.Patience, "listen.linger": c.Listen.Linger, "listen.drain": c.Listen.Drain} {
		if d < 0 || d > time.Minute {
			add(field, "got %s, want at most 1m", d)
		}
	}
	switch {
	case c.TLS.on() && c.InsecurePort:
		add("insecure", "with tls the port is not insecure: want one of the two")
	case open && !c.TLS.on() && !c.InsecurePort:
		add("listen.grpc", "whoever reaches %s could claim any address: want a loopback address behind a sidecar, or tls, or insecure: true", c.Listen.GRPC)
	}
	c.TLS.check(add)
	if _, err := c.level(); err != nil {
		add("logLevel", "got %q, want debug, info, warn or error", c.LogLevel)
	}
	c.Tracing.Check(func(field, format string, args ...any) { add("tracing."+field, format, args...) })
	if c.Tracing.CAFile != "" {
		readable(add, "tracing.caFile", c.Tracing.CAFile)
	}
	if len(c.Passport.KeyFiles) > 2 {
		add("passport.keyFiles", "got %d, want the one that signs and at most one more", len(c.Passport.KeyFiles))
	}
	for i, f := range c.Passport.KeyFiles {
		readable(add, fmt.Sprintf("passport.keyFiles[%d]", i), f)
	}
	if c.Cluster != nil && c.Cluster.Kubeconfig != "" {
		readable(add, "cluster.kubeconfig", c.Cluster.Kubeconfig)
	}
	for i, dir := range c.Manifests.Dirs {
		readable(add, fmt.Sprintf("manifests.dirs[%d]", i), dir)
	}
	return errors.Join(errs...)
}

func (t TLS) check(add func(field, format string, args ...any)) {
	if !t.on() {
		return
	}
	for _, f := range []struct{ field, name string }{{"certFile", t.CertFile}, {"keyFile", t.KeyFile}, {"clientCAFile", t.ClientCAFile}} {
		if f.name == "" {
			add("tls", "%s is missing: want certFile, keyFile, clientCAFile and clients", f.field)
			continue
		}
		readable(add, "tls."+f.field, f.name)
	}
	if len(t.Clients) == 0 {
		add("tls", "clients is missing: a client CA signs for more than gateways")
	}
	for i, id := range t.Clients {
		if rest, ok := strings.CutPrefix(id, "spiffe://"); !ok || !strings.Contains(rest, "/") || strings.ContainsAny(id, "*?# ") {
			add(fmt.Sprintf("tls.clients[%d]", i), "got %q, want a SPIFFE ID: spiffe://cluster.local/ns/NAMESPACE/sa/NAME", id)
		}
	}
}

// address tells whether "host:port" is on loopback. The host is an address: a name
// could come to mean another one.
func address(s string) (loopback bool, err error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return false, fmt.Errorf("got %q, want ADDRESS:PORT", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false, fmt.Errorf("got port %q, want a number", port)
	}
	if host == "" {
		return false, nil // every address
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false, fmt.Errorf("got host %q, want an IP address", host)
	}
	return a.Unmap().IsLoopback(), nil
}

func readable(add func(field, format string, args ...any), field, name string) {
	f, err := os.Open(name)
	if err != nil {
		add(field, "%v", err)
		return
	}
	f.Close()
}

func (c Config) level() (slog.Level, error) {
	var l slog.Level
	if c.LogLevel == "" {
		return slog.LevelInfo, nil
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
		return l, l.UnmarshalText([]byte(c.LogLevel))
	}
	return l, errors.New("unknown level")
}
