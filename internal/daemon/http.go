package daemon

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// handler answers what probes, sidecars' configuration and Prometheus ask. Nothing
// here is a secret.
func (d *Daemon) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch {
		case d.draining.Load():
			answer(w, http.StatusServiceUnavailable, "stopping")
		case !d.ready.Load() && !d.waited.Load():
			answer(w, http.StatusServiceUnavailable, "the cluster's objects are not read yet")
		case !d.ready.Load():
			answer(w, http.StatusOK, "ready for people; models wait for the cluster's objects")
		default:
			answer(w, http.StatusOK, "ready")
		}
	})
	mux.HandleFunc("GET /jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(d.keys.JWKS()) // a client that went away
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // a client that went away
}
