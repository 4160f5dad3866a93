package serving

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

// Proxy sends every request to a real model server at target, an http or https URL, whose path is
// put before the request's. Answers are passed on as they come, so that streams stream. When the
// server does not answer, the answer is 502 with a JSON error. log may be nil.
func Proxy(target string, log *slog.Logger) (http.Handler, error) {
	u, err := url.Parse(target)
	if err != nil {
		// Not the whole error: it repeats the URL, which may hold a password.
		return nil, fmt.Errorf("model server: the URL cannot be read: %w", errors.Unwrap(err))
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("model server: got %q, want http://HOST[:PORT][/PATH] or https", u.Redacted())
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(u)
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery // as it came: ReverseProxy drops "a=b;c"
			// What gateways said about the caller stays; this hop adds and removes nothing, a
			// Kubernetes Service would not either. ReverseProxy removes what the client's
			// Connection names, who could so take away what says who the client is.
			for name, values := range pr.In.Header {
				if !hopByHop[name] {
					pr.Out.Header[name] = values
				}
			}
		},
		Transport:     transport(),
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			log.Warn("model server does not answer", "server", u.Redacted(), "path", r.URL.Path, "error", err)
			writeJSON(w, http.StatusBadGateway, message{"the model server " + u.Redacted() + " does not answer"})
		},
	}, nil
}

// hopByHop are the headers of one connection, Upgrade apart, which ReverseProxy keeps.
var hopByHop = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

// transport opens a connection for each request: uvicorn, under MLServer and KServe, closes one
// after an error without announcing it, and the next prediction, a POST that must not be repeated, would
// be lost on it. It takes nothing from the environment: http_proxy names another way into the cluster.
func transport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		DisableKeepAlives:   true,
	}
}
