package lab

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sort"
	"strings"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/lab/authservice"
	"postern.dev/postern/internal/lab/dashboard"
	"postern.dev/postern/internal/lab/idp"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
)

// quiet drops what net/http says of clients that went away.
var quiet = log.New(io.Discard, "", 0)

// program is what runs in a workload's pods.
type program struct {
	// fingerprint is everything the program was made from: with the same one it
	// goes on through a reload, with its sessions.
	fingerprint string
	handler     http.Handler
	authorizer  *authorizer.Authorizer
	config      authorizer.Config // of the authorizer
	close       func() error
}

// server serves the program on one more listener; h is its handler, perhaps
// wrapped.
func (p *program) server(h http.Handler) server {
	if p.authorizer != nil {
		return grpcServer{authorizer.NewServer(p.authorizer), p.authorizer}
	}
	return newHTTPServer(h)
}

// grpcServer is posternd's port. It believes what is said there of a caller's
// address, so only the gateways' own pods may speak: what the program posternd asks
// of mutual TLS or a port that only its own proxy reaches.
type grpcServer struct {
	*grpc.Server
	authorizer *authorizer.Authorizer
}

func (s grpcServer) Serve(l net.Listener) error {
	return s.Server.Serve(gatewaysOnly{l, s.authorizer})
}

type gatewaysOnly struct {
	net.Listener
	authorizer *authorizer.Authorizer
}

// Accept closes the connections of everybody else.
func (l gatewaysOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err == nil && l.authorizer.FromGateway(from.Addr()) {
			return c, nil
		}
		_ = c.Close()
	}
}

func (s grpcServer) stop(ctx context.Context) error {
	done := make(chan struct{})
	go func() { s.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		s.Stop()
		<-done
	}
	return nil
}

// loginSecrets are what Kubeflow keeps in Secrets: Dex's client of authservice.
type loginSecrets struct{ id, secret string }

func newLoginSecrets(secret string) loginSecrets {
	if secret == "" {
		var b [32]byte
		_, _ = rand.Read(b[:]) // never fails
		secret = hex.EncodeToString(b[:])
	}
	return loginSecrets{id: LoginClient, secret: secret}
}

// LoginClient is the name of the login's client at Dex (Secret dex-oidc-client).
const LoginClient = "kubeflow-oidc-authservice"

// password is the hash of 12341234 that Kubeflow's Secret dex-passwords holds, as the
// releases before had it in Dex's configuration.
const password = "$2y$12$4K/VkmDd1q1Orb3xAt82zu8gk7Ad6ReFR4LCP9UeYE90NLiN9Df72"

// maker makes the program of a workload, and says what it is made from.
type maker struct {
	from []any
	make func(ctx context.Context) (*program, error)
}

// programFor is the program of a workload: what its image names. A workload
// without ports runs nothing that anybody could call.
func (s *System) programFor(ctx context.Context, r *running, wl *topology.Workload, old *running) (*program, error) {
	if r.world.IsGateway(wl) || len(wl.Pods) == 0 {
		return nil, nil
	}
	if len(portsOf(wl.Pods[0])) == 0 || s.config.Elsewhere != nil && s.config.Elsewhere(wl) {
		return nil, nil
	}
	m, err := s.maker(r, wl)
	if err != nil {
		return nil, err
	}
	fingerprint, err := fingerprintOf(m.from)
	if err != nil {
		return nil, err
	}
	if old != nil {
		if p := old.programs[wl.String()]; p != nil && p.fingerprint == fingerprint {
			return p, nil
		}
	}
	p, err := m.make(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", wl, err)
	}
	p.fingerprint = fingerprint
	return p, nil
}

func fingerprintOf(from []any) (string, error) {
	data, err := json.Marshal(from)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), err
}

// maker chooses by the image, as a kubelet does.
func (s *System) maker(r *running, wl *topology.Workload) (maker, error) {
	pod := wl.Pods[0]
	image := pod.Containers[0].Image
	if _, isModel := wl.Labels["serving.kserve.io/inferenceservice"]; isModel {
		return s.modelMaker(r, wl)
	}
	switch {
	case strings.Contains(image, "dexidp/dex"):
		return s.dexMaker(r, wl)
	case strings.Contains(image, "oidc-authservice"):
		return s.authserviceMaker(r, wl)
	case strings.Contains(image, "posternd"):
		return s.posterndMaker(r, wl)
	case strings.Contains(image, "central-dashboard"), strings.Contains(image, "centraldashboard"):
		return maker{from: []any{"dashboard"}, make: func(context.Context) (*program, error) {
			return &program{handler: dashboard.New(s.dashboardConfig())}, nil
		}}, nil
	case strings.Contains(image, "traefik/whoami"):
		return maker{from: []any{"whoami"}, make: func(context.Context) (*program, error) { return &program{handler: whoami(wl.Name)}, nil }}, nil
	}
	return maker{from: []any{"absent", wl.Name}, make: func(context.Context) (*program, error) {
		return &program{handler: dashboard.Absent(wl.Name)}, nil
	}}, nil
}

// configMap is the data of a workload's ConfigMap.
func (r *running) configMap(wl *topology.Workload, name string) (*manifest.Object, map[string]string, error) {
	obj, cm, ok := manifest.Find[*corev1.ConfigMap](r.world.Set, wl.Namespace, name)
	if !ok {
		return nil, nil, fmt.Errorf("%s: ConfigMap %s/%s is not in the manifests", wl, wl.Namespace, name)
	}
	return obj, cm.Data, nil
}

func (s *System) dexMaker(r *running, wl *topology.Workload) (maker, error) {
	obj, data, err := r.configMap(wl, "dex")
	if err != nil {
		return maker{}, err
	}
	return maker{from: []any{"dex", data, s.secrets.id}, make: func(context.Context) (*program, error) {
		server, err := idp.New(context.Background(), idp.Config{YAML: []byte(data["config.yaml"]), Env: func(name string) string {
			return map[string]string{"OIDC_CLIENT_ID": s.secrets.id, "OIDC_CLIENT_SECRET": s.secrets.secret, "DEX_USER_PASSWORD": password}[name]
		}})
		if err != nil {
			return nil, obj.Errorf("data.config.yaml", "%v", err)
		}
		return &program{handler: server, close: server.Close}, nil
	}}, nil
}

func (s *System) authserviceMaker(r *running, wl *topology.Workload) (maker, error) {
	name := "oidc-authservice-parameters"
	for _, from := range wl.Pods[0].Containers[0].EnvFrom {
		if from.ConfigMapRef != nil {
			name = from.ConfigMapRef.Name
		}
	}
	obj, data, err := r.configMap(wl, name)
	if err != nil {
		return maker{}, err
	}
	return maker{from: []any{"authservice", data, s.secrets.id}, make: func(context.Context) (*program, error) {
		service, err := authservice.New(authservice.Config{Settings: data, ClientID: s.secrets.id, ClientSecret: s.secrets.secret,
			HTTPClient: s.clientFor(wl.Pods[0]), Logger: s.config.Log})
		if err != nil {
			return nil, obj.Errorf("data", "%v", err)
		}
		return &program{handler: service}, nil
	}}, nil
}

func (s *System) posterndMaker(r *running, wl *topology.Workload) (maker, error) {
	obj, data, err := r.configMap(wl, "posternd")
	if err != nil {
		return maker{}, err
	}
	return maker{from: []any{"posternd", data}, make: func(context.Context) (*program, error) {
		cfg, err := authorizer.ParsePart("config.yaml", []byte(data["config.yaml"]))
		if err != nil {
			return nil, obj.Errorf("data", "%v", err)
		}
		a, err := authorizer.New(cfg, authorizer.Options{HTTPClient: s.clientFor(wl.Pods[0]), Log: s.config.Log})
		if err != nil {
			return nil, obj.Errorf("data.config.yaml", "%v", err)
		}
		return &program{authorizer: a, config: cfg, close: func() error { a.Close(); return nil }}, nil
	}}, nil
}

// prepareJudge finds the world's posternd and works out what it is to know. An
// error in an RBAC object or a door refuses the manifests.
func (r *running) prepareJudge() error {
	for _, wl := range r.world.Topology.Workloads() {
		p := r.programs[wl.String()]
		if p == nil || p.authorizer == nil {
			continue
		}
		if r.judge != nil {
			return fmt.Errorf("%s: a second posternd; one Deployment is enough, with replicas", wl)
		}
		var err error
		r.judge = p.authorizer
		if r.snapshot, err = r.world.Snapshot(p.config); err != nil {
			return fmt.Errorf("%s: %w", wl, err)
		}
	}
	return nil
}

// whoami answers as docker.io/traefik/whoami does: the request as it arrived.
func whoami(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "Hostname: %s\nRemoteAddr: %s\n%s %s %s\nHost: %s\n", name, r.RemoteAddr, r.Method, r.RequestURI, r.Proto, r.Host)
		keys := make([]string, 0, len(r.Header))
		for k := range r.Header {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			for _, v := range r.Header[k] {
				fmt.Fprintf(w, "%s: %s\n", k, v)
			}
		}
	})
}
