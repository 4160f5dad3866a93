//go:build e2e

package kubeflow

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

const (
	iris      = "http://sklearn-iris.kserve-test.svc.cluster.local"
	irisOut   = "sklearn-iris.kserve-test.example.com"
	llm       = "http://llm.kserve-test.svc.cluster.local"
	llmOut    = "llm.kserve-test.example.com"
	predict   = "/v1/models/sklearn-iris:predict"
	instances = `{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}`
	dashboard = "kubeflow.example.com"
)

// TestDocument is the document's call and its neighbours, in every release.
func TestDocument(t *testing.T) {
	each(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		form := headers("content-type: application/x-www-form-urlencoded", "user-agent: curl/8")
		bearer := func(name string, more ...string) http.Header {
			return headers(append(more, "authorization: Bearer "+c.keys[name])...)
		}
		v2 := `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP64","data":[6.8,2.8,4.8,1.4]}]}`
		chat := `{"model":"llm","messages":[]}`
		browser := headers("accept: text/html,application/xhtml+xml", "user-agent: Mozilla/5.0")
		for _, tt := range []struct {
			name   string
			call   call
			status int
			body   string // a part of it
			caller string // whom the backend was told of
		}{
			{"the document's call", call{from: "default/myapp-pod", url: iris + predict, body: instances, header: form}, 200, `{"predictions":[1,1]}`, ""},
			{"V2", call{from: "default/myapp-pod", url: iris + "/v2/models/sklearn-iris/infer", body: v2, header: headers("content-type: application/json")}, 200, `"data":[1]`, ""},
			{"OpenAI", call{from: "default/myapp-pod", url: llm + "/openai/v1/chat/completions", body: chat}, 200, "side door", "postern:pod:default:default"},
			{"the backend team's application", call{from: "default/myapp-pod", url: "http://orders-api.backend.svc.cluster.local/"}, 200, "backend/orders", "postern:pod:default:default"},
			{"another tenant's model", call{from: "default/myapp-pod", url: "http://fraud.team-b.svc.cluster.local/v1/models"}, 401, `"credential_required"`, ""},
			{"a pod at the predictor's own name", call{from: "default/myapp-pod", url: "http://llm-predictor.kserve-test.svc.cluster.local/v1/models"}, 200, "llm-predictor", "postern:pod:default:default"},
			{"outside, nothing", call{host: irisOut, path: predict, body: instances}, 401, `"credential_required"`, ""},
			{"outside, a browser", call{host: irisOut, path: predict, header: browser}, 401, `"credential_required"`, ""},
			{"outside, forged names", call{host: irisOut, path: predict, body: instances, header: headers("kubeflow-userid: user@example.com", "x-postern-caller: x", "x-postern-passport: x")}, 401, `"credential_required"`, ""},
			{"outside, an address that is a pod's by header", call{host: irisOut, path: predict, body: instances, header: headers("x-forwarded-for: " + c.pod("default/myapp-pod").Addr.String())}, 401, `"credential_required"`, ""},
			{"outside, its key, both hops", call{host: llmOut, path: "/v1/x", body: "{}", header: bearer("kserve-test/robot")}, 200, "llm-predictor", "postern:key:kserve-test:robot"},
			{"outside, its key, OpenAI", call{host: llmOut, path: "/openai/v1/chat/completions", body: chat, header: bearer("kserve-test/robot")}, 200, "side door", "postern:key:kserve-test:robot"},
			{"outside, its key, V2", call{host: irisOut, path: "/v2/models/sklearn-iris/infer", body: v2, header: bearer("kserve-test/robot", "content-type: application/json")}, 200, `"data":[1]`, ""},
			{"outside, its key as x-api-key", call{host: llmOut, path: "/v1/x", body: "{}", header: headers("x-api-key: " + c.keys["kserve-test/robot"])}, 200, "llm-predictor", "postern:key:kserve-test:robot"},
			{"outside, another tenant's key", call{host: llmOut, path: "/v1/x", body: "{}", header: bearer("team-b/robot")}, 403, `"not_allowed"`, ""},
			{"outside, the other tenant's key at his own", call{host: "fraud.team-b.example.com", path: "/v1/x", body: "{}", header: bearer("team-b/robot")}, 200, "fraud-predictor", "postern:key:team-b:robot"},
			{"in the cluster, another tenant's key", call{from: "default/myapp-pod", url: llm + "/v1/x", body: "{}", header: bearer("team-b/robot")}, 403, `"not_allowed"`, ""},
			{"a key at the dashboard", call{host: dashboard, path: "/", header: bearer("kserve-test/robot")}, 403, `"wrong_door"`, ""},
			{"a malformed key", call{host: llmOut, path: "/", header: headers("x-api-key: nonsense")}, 401, "", ""},
			{"outside, the backend team's application", call{host: "orders.example.com", path: "/"}, 401, `"credential_required"`, ""},
			{"nobody's host, in the cluster", call{from: "default/myapp-pod", url: iris + "/", host: "nobody.example.net"}, 404, "", ""},
		} {
			got := c.call(tt.call)
			if got.status != tt.status || !strings.Contains(got.body, tt.body) {
				t.Errorf("%s: got %s, want %d %s", tt.name, got, tt.status, tt.body)
			}
			if tt.status == 401 && (got.header.Get("WWW-Authenticate") == "" || !strings.HasPrefix(got.header.Get("Content-Type"), "application/json")) {
				t.Errorf("%s: got %v, want a challenge in JSON", tt.name, got.header)
			}
			if tt.caller == "" || tt.name == "OpenAI" || strings.HasSuffix(tt.name, "OpenAI") {
				continue
			}
			var told struct{ Header http.Header }
			if err := json.Unmarshal([]byte(got.body), &told); err != nil || told.Header.Get("X-Postern-Caller") != tt.caller {
				t.Errorf("%s: the backend was told of %q, want %q", tt.name, told.Header.Get("X-Postern-Caller"), tt.caller)
			}
			for _, name := range []string{"Authorization", "X-Api-Key", "Kubeflow-Userid", "Cookie"} {
				if v := told.Header.Get(name); v != "" {
					t.Errorf("%s: the backend got %s: %s", tt.name, name, v)
				}
			}
		}
		c.browserIsSentToLogin()
	})
}

// browserIsSentToLogin: a browser at the dashboard meets the login that is there.
func (c *cluster) browserIsSentToLogin() {
	c.t.Helper()
	got := c.call(call{host: dashboard, path: "/", header: headers("accept: text/html", "user-agent: Mozilla/5.0")})
	if shared(c.release) {
		if got.status != 302 || !strings.HasPrefix(got.header.Get("Location"), "/dex/auth?") {
			c.t.Errorf("a browser at the dashboard: got %s to %s, want 302 to Dex", got, got.header.Get("Location"))
		}
		return
	}
	// oauth2-proxy shows its own page first (skip_provider_button = false), whose button leads to /oauth2/start.
	if got.status != 403 || !strings.Contains(got.body, "/oauth2/start") {
		c.t.Errorf("a browser at the dashboard: got %s, want oauth2-proxy's sign-in page", got)
	}
	start := c.call(call{host: dashboard, path: "/oauth2/start?rd=%2F", header: headers("accept: text/html")})
	if start.status != 302 || !strings.HasPrefix(start.header.Get("Location"), "/dex/auth?") {
		c.t.Errorf("the page's button: got %s to %s, want 302 to Dex", start, start.header.Get("Location"))
	}
}

// TestSessions: a person who is logged in calls models as she may: by Kubeflow's own
// roles where the model has a rule, as before where it has none; and the model is told
// of her by the header that Kubeflow's backends read.
func TestSessions(t *testing.T) {
	each(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		cookie := "cookie: " + c.session() + "; mine=1"
		for _, tt := range []struct {
			name   string
			call   call
			status int
			part   string
		}{
			{"the owner", call{host: llmOut, path: "/v1", header: headers(cookie)}, 200, "llm-predictor"},
			{"a model without a rule", call{host: "unbound.backend.example.com", path: "/v1", header: headers(cookie)}, 200, "unbound-predictor"},
			{"another tenant's model", call{host: "fraud.team-b.example.com", path: "/v1", header: headers(cookie)}, 403, "not_allowed"},
			{"an application that she may not call", call{host: "orders.example.com", path: "/", header: headers(cookie)}, 403, "not_allowed"},
			{"from her own page of the model", call{host: llmOut, path: "/v1", header: headers(cookie, "sec-fetch-site: same-origin", "origin: http://"+llmOut)}, 200, "llm-predictor"},
			{"from an allowed page", call{host: llmOut, path: "/v1", header: headers(cookie, "sec-fetch-site: cross-site", "origin: https://app.example.com")}, 200, "llm-predictor"},
			{"from another site's page", call{host: llmOut, path: "/v1", header: headers(cookie, "sec-fetch-site: cross-site", "origin: https://evil.example.net")}, 403, "cross_site"},
			{"no session, a model without a rule", call{host: "unbound.backend.example.com", path: "/v1"}, 401, "login_required"},
			{"no session, with a browser", call{host: "unbound.backend.example.com", path: "/v1", header: headers("accept: text/html")}, 401, "login_required"},
			{"an old session", call{host: llmOut, path: "/v1", header: headers("cookie: authservice_session=old; oauth2_proxy_kubeflow=old")}, 401, "credential_required"},
		} {
			got := c.call(tt.call)
			if got.status != tt.status || !strings.Contains(got.body, tt.part) {
				t.Errorf("%s: got %s, want %d %s", tt.name, got, tt.status, tt.part)
			}
			if got.status != http.StatusOK {
				continue
			}
			var told struct{ Header http.Header }
			if err := json.Unmarshal([]byte(got.body), &told); err != nil {
				t.Fatal(err)
			}
			if h := told.Header; h.Get("Kubeflow-Userid") != "user@example.com" || h.Get("X-Postern-Caller") != "user@example.com" || h.Get("Cookie") != "mine=1" || h.Get("Authorization") != "" || h.Get("X-Auth-Request-Email") != "" {
				t.Errorf("%s: the model got %v", tt.name, h)
			}
		}
	})
}

// TestKilled: without posternd nothing is let in, models, applications and pages alike;
// with it back all is as before.
func TestKilled(t *testing.T) {
	oldAndNew(t, func(t *testing.T, release string) {
		c := start(t, release, options{})
		calls := []call{{from: "default/myapp-pod", url: llm + "/v1"}, {host: llmOut, path: "/v1"}, {host: dashboard, path: "/"}, {host: dashboard, path: "/dex/auth"}, {host: "orders.example.com", path: "/"}}
		var before []int
		for _, k := range calls {
			before = append(before, c.call(k).status)
		}
		for _, p := range c.daemons {
			p.kill(t)
		}
		for _, k := range calls {
			if got := c.call(k); got.status != http.StatusServiceUnavailable {
				t.Errorf("killed: %s%s%s: got %s, want 503", k.url, k.host, k.path, got)
			}
		}
		c.startDaemons(options{})
		for i, k := range calls {
			if got := c.call(k); got.status != before[i] {
				t.Errorf("back: %s%s%s: got %s, want %d", k.url, k.host, k.path, got, before[i])
			}
		}
	})
}
