// Package idp runs a real Dex inside this process: the identity provider of
// the lab, configured by the config.yaml of Kubeflow's ConfigMap auth/dex.
//
// It is the only package that imports Dex (github.com/dexidp/dex/server links
// every connector Dex has). Dex keeps its state in memory; its users are the
// static passwords of the file; its pages are the ones it ships. Dex's device flow,
// which nothing of Kubeflow's uses and which keeps what anybody sends, is not served.
package idp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"time"

	gosundheit "github.com/AppsFlyer/go-sundheit"
	"github.com/dexidp/dex/server"
	"github.com/dexidp/dex/server/signer"
	"github.com/dexidp/dex/storage"
	"github.com/dexidp/dex/storage/memory"
)

// Dex's own defaults (dex/cmd/dex/serve.go), which its library leaves to the caller.
const (
	keyRotation = "6h"
	tokenLife   = 24 * time.Hour
)

// Config says what to run.
type Config struct {
	// YAML is Dex's configuration file. Read are issuer,
	// oauth2.skipApprovalScreen, enablePasswordDB, staticPasswords (email,
	// hash or hashFromEnv, username, userID) and staticClients (id or idEnv, secret or
	// secretEnv, redirectURIs, name). storage, web, logger and expiry say how
	// a Dex of its own process runs: accepted and not used. Any other field is
	// an error.
	YAML []byte
	// Env answers idEnv, secretEnv and hashFromEnv; "" means not set. If nil, nothing is set.
	Env func(name string) string
	// Logger gets Dex's log, which names users. If nil, it is dropped.
	Logger *slog.Logger
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
}

// Server is a running Dex: an http.Handler that answers under the path of its
// issuer (http://dex.auth.svc.cluster.local:5556/dex in Kubeflow: under /dex).
type Server struct {
	dex    http.Handler
	device string // where the device flow would be
	store  storage.Storage
	ctx    context.Context // ends with Close: Dex's two background tasks and ServeHTTP watch it
	cancel context.CancelFunc
}

// New starts Dex. It makes a signing key first, so it takes a moment (RSA 2048).
// Dex stops when ctx ends or Close is called.
func New(ctx context.Context, c Config) (*Server, error) {
	env := c.Env
	if env == nil {
		env = func(string) string { return "" }
	}
	conf, err := parse(c.YAML, env)
	if err != nil {
		return nil, fmt.Errorf("dex config.yaml: %w", err)
	}
	logger := c.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	clock := c.Now
	if clock == nil {
		clock = time.Now
	}
	now := func() time.Time { return clock().UTC() } // as dex/cmd/dex/serve.go: its storage expects UTC

	ctx, cancel := context.WithCancel(ctx)
	store := newStore(conf, logger)
	dex, err := start(ctx, conf, store, logger, now)
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("dex: %w", err), store.Close())
	}
	return &Server{dex: dex, device: conf.path() + "/device", store: store, ctx: ctx, cancel: cancel}, nil
}

// newStore stacks the file's static objects on an empty memory, as dex/cmd/dex/serve.go does.
func newStore(conf settings, logger *slog.Logger) storage.Storage {
	var s storage.Storage = &bounded{Storage: memory.New(logger)}
	s = storage.WithStaticClients(s, conf.clients)
	s = storage.WithStaticPasswords(s, conf.passwords, logger)
	return storage.WithStaticConnectors(s, []storage.Connector{
		{ID: server.LocalConnector, Name: "Email", Type: server.LocalConnector},
	})
}

func start(ctx context.Context, conf settings, store storage.Storage, logger *slog.Logger, now func() time.Time) (http.Handler, error) {
	local := signer.LocalConfig{KeysRotationPeriod: keyRotation}
	keys, err := local.Open(ctx, store, tokenLife, now, logger)
	if err != nil {
		return nil, err
	}
	// All that expire stay at Dex's defaults; the policy must not be nil.
	refresh, err := server.NewRefreshTokenPolicy(logger, false, "", "", "")
	if err != nil {
		return nil, err
	}
	dex, err := server.NewServer(ctx, server.Config{
		Issuer:             conf.issuer,
		Storage:            store,
		SkipApprovalScreen: conf.skipApproval,
		IDTokensValidFor:   tokenLife,
		RefreshTokenPolicy: refresh,
		Now:                now,

		AuthRequestsValidFor: loginLife,
		GCFrequency:          time.Minute,
		Logger:               logger,
		Signer:               keys,
		HealthChecker:        gosundheit.New(),   // without checks: always healthy, no goroutine
		PrometheusRegistry:   nil,                // no metrics: nothing reaches a global registry
		Web:                  server.WebConfig{}, // the pages embedded in dex/web
	})
	if err != nil {
		return nil, err
	}
	// Dex only logs a failure to make its first key.
	if _, err := keys.Algorithm(ctx); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return dex, nil
}

// ServeHTTP answers one request to Dex; after Close, with 503.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.ctx.Err() != nil {
		http.Error(w, "dex is shut down", http.StatusServiceUnavailable)
		return
	}
	switch {
	case len(r.RequestURI) > maxTarget:
		http.Error(w, fmt.Sprintf("the path and query are longer than %d bytes", maxTarget), http.StatusRequestURITooLong)
	case strings.HasPrefix(path.Clean(r.URL.Path)+"/", s.device+"/"):
		http.Error(w, "the device flow is not served here", http.StatusNotFound)
	default:
		s.dex.ServeHTTP(w, r)
	}
}

// Close stops Dex's background tasks and releases its storage. It may be called again.
func (s *Server) Close() error {
	s.cancel()
	return s.store.Close()
}
