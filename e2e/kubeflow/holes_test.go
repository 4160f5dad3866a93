//go:build e2e

package kubeflow

import (
	"net/http"
	"strings"
	"testing"
)

// TestHolesOfOthers: what let people past other authorizers (oauth2-proxy's advisories,
// oidc-authservice, authservice of istio-ecosystem, Authorino, odh-model-controller,
// Kubeflow's own policies and their workarounds) reaches neither a model nor a page.
func TestHolesOfOthers(t *testing.T) {
	each(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		for _, host := range []string{irisOut, llmOut, "unbound.backend.example.com", "orders.example.com", dashboard, "sklearn-iris.kserve-test.svc.cluster.local"} {
			for name, k := range map[string]call{
				// oauth2-proxy: its own pages answer 200, which is a yes; rules match the query, the fragment, a header.
				"health":                  {path: "/ping"},
				"readiness":               {path: "/ready"},
				"robots":                  {path: "/robots.txt"},
				"a health checker":        {path: "/", header: headers("user-agent: GoogleHC/1.0")},
				"a skipped path as query": {path: "/v1/x?/dex/"},
				"as fragment":             {path: "/v1/x#/dex/"},
				"by X-Forwarded-Uri":      {path: "/v1/x", header: headers("x-forwarded-uri: /dex/", "x-original-url: /dex/", "x-rewrite-url: /dex/")},
				"underscores":             {path: "/v1/x", header: headers("kubeflow_userid: user@example.com", "x_forwarded_user: a", "x_auth_request_email: user@example.com", "x_postern_caller: a")},
				"a forged name":           {path: "/v1/x", header: headers("kubeflow-userid: user@example.com", "x-auth-request-email: user@example.com", "x-forwarded-email: user@example.com", "x-postern-caller: a")},
				// oidc-authservice answers every OPTIONS with 200.
				"OPTIONS":         {method: "OPTIONS", path: "/v1/x"},
				"a preflight":     {method: "OPTIONS", path: "/v1/x", header: headers("origin: https://evil.example.net", "access-control-request-method: POST")},
				"a forged method": {method: "OPTIONS", path: "/v1/x", header: headers("x-http-method-override: POST", "x-forwarded-method: POST")},
				// authservice of istio-ecosystem: rules match the path with its query.
				"a suffix in the query": {path: "/v1/x?x=.css"},
				"a public prefix":       {path: "/publicity/secret"},
				// Authorino takes an error in a condition for no condition; JWTs of any issuer and audience.
				"a header in pieces":  {path: "/v1/x", header: http.Header{"Authorization": {"Bearer a", "Bearer b"}}},
				"a token of nobody's": {path: "/v1/x", header: headers("authorization: Bearer " + forged(`{"iss":"`+dexIssuer+`","aud":"machines","sub":"x","exp":4102444800}`))},
				"alg none":            {path: "/v1/x", header: headers("authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.")},
				"a half scheme":       {path: "/v1/x", header: headers("authorization: Bea INVALID_TOKEN")},
				"an empty bearer":     {path: "/v1/x", header: headers("authorization: Bearer")},
				"x-auth-token":        {path: "/v1/x", header: headers("x-auth-token: x")},
				// odh-model-controller judges the text of the path.
				"another model's path": {path: "/serving/team-b/fraud/v1"},
				"two slashes":          {path: "//v1/x"},
				"an escaped slash":     {path: "/dex%2f..%2fv1/x"},
				"dots":                 {path: "/dex/../v1/x"},
				"escaped dots":         {path: "/dex/%2e%2e/v1/x"},
				"a parameter":          {path: "/dex;/../v1/x"},
				// Kubeflow's policies and their workarounds.
				"V1":                {path: "/v1/models/sklearn-iris:predict", body: instances},
				"metrics":           {path: "/metrics"},
				"Knative's probe":   {path: "/", header: headers("k-network-probe: probe", "user-agent: kube-probe/1.30")},
				"the oauth2 prefix": {path: "/oauth2/auth"},
				"an upgrade":        {path: "/v1/x", header: headers("connection: Upgrade", "upgrade: h2c")},
			} {
				before := c.backends.count("kserve-test/") + c.backends.count("backend/") + c.backends.count("kubeflow/")
				k.host = host
				got := c.call(k)
				if n := c.backends.count("kserve-test/") + c.backends.count("backend/") + c.backends.count("kubeflow/") - before; n > 0 {
					t.Errorf("%s at %s: %s: a backend was reached", name, host, got)
				}
				if strings.Contains(got.body, `"predictions"`) {
					t.Errorf("%s at %s: got %s", name, host, got)
				}
			}
		}
		if got := c.call(call{from: "default/myapp-pod", url: llm + "/v1"}); got.status != http.StatusOK {
			t.Errorf("a pod, which may: got %s", got)
		}
	})
}

// TestHosts: other spellings of a model's host are its own, or nobody's.
func TestHosts(t *testing.T) {
	each(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		for _, host := range []string{"SKLEARN-IRIS.kserve-test.example.com", irisOut + ":80", irisOut + ":8080", irisOut + ":443", irisOut + ".", irisOut + "..", "x." + irisOut, "evil.example.net",
			"sklearn-iris.kserve-test.svc.cluster.local.", "sklearn-iris.kserve-test", "sklearn-iris.kserve-test.svc", "localhost", "kubeflow.example.com:80"} {
			for _, from := range []string{"", "ingress/ingress-nginx-controller"} {
				k := call{host: host, path: predict, body: instances, header: headers("content-type: application/json")}
				if from != "" {
					k = call{from: from, url: iris + predict, host: host, body: instances, header: k.header}
				}
				if got := c.call(k); got.status == http.StatusOK || strings.Contains(got.body, "predictions") {
					t.Errorf("%s from %q: got %s", host, from, got)
				}
			}
		}
	})
}
