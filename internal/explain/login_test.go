package explain_test

import (
	"fmt"
	"slices"
	"testing"

	"postern.dev/postern/internal/explain"
	"postern.dev/postern/internal/manifest"
)

// oauth2-proxy is told by flags too: e2e/cluster's, which has no file of the usual name.
func TestOAuth2ProxyFlags(t *testing.T) {
	login := func(flags string) *explain.System {
		more, err := manifest.Bytes("login.yaml", fmt.Appendf(nil, `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: authservice, namespace: istio-system}
spec:
  serviceName: authservice
  selector: {matchLabels: {app: authservice}}
  template:
    metadata: {labels: {app: authservice}, annotations: {sidecar.istio.io/inject: "false"}}
    spec:
      containers:
      - name: oauth2-proxy
        image: quay.io/oauth2-proxy/oauth2-proxy:v7.15.4
        args: [--alpha-config=/etc/oauth2-proxy/alpha.yaml%s]
        ports: [{name: http-api, containerPort: 8080}]
`, flags))
		if err != nil {
			t.Fatal(err)
		}
		return systemOf(t, more.With(slices.Collect(stateSet(t, "1-login-everywhere").All())...))
	}
	for _, tt := range []struct {
		flags, path string
		outcome     explain.Outcome
		status      int
	}{
		{"", "/", explain.Refused, 403},
		{", --skip-provider-button=true", "/", explain.Redirected, 302},
		{", --skip-provider-button", "/", explain.Redirected, 302},
		{", --skip-provider-button=false", "/", explain.Refused, 403},
		{", --skip-auth-route=^/dex/", "/dex/auth", explain.Forwarded, 0},
		{", --skip-auth-route=^/x/, --skip-auth-route=^/dex/", "/dex/auth", explain.Forwarded, 0},
		{", --skip-auth-route=^/dex/", "/dexter", explain.Refused, 403},
	} {
		a := ask(t, login(tt.flags), explain.Call{URL: "http://localhost" + tt.path})
		if a.Outcome != tt.outcome || a.Status != tt.status {
			t.Errorf("%s %s: got %s %d, want %s %d; assumed %q", tt.flags, tt.path, a.Outcome, a.Status, tt.outcome, tt.status, a.Assumed)
		}
	}
}
