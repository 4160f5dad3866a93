package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// serveLogin is the login that is there: it knows everybody who shows its cookie.
func (b *bench) serveLogin() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	b.login = "http://" + l.Addr().String()
	b.serve(l, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" { // of the tokens' issuer, for oauth2-proxy
			_, _ = w.Write([]byte(b.credentials.jwks)) // it went away: the run ends
			return
		}
		if _, err := r.Cookie(cookie); err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Kubeflow-Userid", person)
	})
	return nil
}

func (b *bench) serve(l net.Listener, handler http.HandlerFunc) {
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: handler}
	b.servers = append(b.servers, s)
	go func() { _ = s.Serve(l) }() // ends with close
}

// oauth2Proxy starts it with the configuration of Kubeflow 26.03 (ConfigMap
// oauth2-proxy and the environment of its Deployment), as far as a check with a
// token gets to see it; and with logs, which are on there, or without.
func (b *bench) oauth2Proxy(ctx context.Context, name string, logs bool) (*process, error) {
	port, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`provider = "oidc"
oidc_issuer_url = %q
scope = "profile email groups openid"
email_domains = [ "*" ]
upstreams = [ "static://200" ]
skip_auth_routes = [ "^/dex/" ]
api_routes = [ "/api/", "/apis/", "^/ml_metadata" ]
skip_oidc_discovery = true
login_url = "/dex/auth"
redeem_url = "%[2]s/token"
oidc_jwks_url = "%[2]s/keys"
skip_provider_button = false
set_authorization_header = true
set_xauthrequest = true
cookie_name = "oauth2_proxy_kubeflow"
cookie_expire = "24h"
cookie_refresh = 0
cookie_secret = %[3]q
cookie_secure = false
code_challenge_method = "S256"
redirect_url = "/oauth2/callback"
relative_redirect_url = true
client_id = "postern"
client_secret = "none"
skip_jwt_bearer_tokens = true
http_address = "127.0.0.1:%[4]d"
request_logging = %[5]t
auth_logging = %[5]t
standard_logging = %[5]t
`, issuer, b.login, base64.URLEncoding.EncodeToString(secret), port[0], logs)
	file := filepath.Join(b.dir, name+".cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	p, err := b.start(name, log, nil, b.settings.oauth2Proxy, "--config="+file)
	if err != nil {
		return nil, fmt.Errorf("%w (make bench builds oauth2-proxy)", err)
	}
	p.at = port[0]
	for range 200 {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ping", p.at))
		if err == nil {
			resp.Body.Close()
			return p, nil
		}
		select {
		case <-p.exited:
			return nil, fmt.Errorf("%s ended: %s", name, p.said.String())
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil, fmt.Errorf("%s does not answer: %s", name, p.said.String())
}
