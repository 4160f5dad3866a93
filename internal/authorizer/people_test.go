package authorizer

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/territory"
)

func TestPeopleAsked(t *testing.T) {
	var got []string
	var mu sync.Mutex
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		var names []string
		for name, v := range r.Header {
			names = append(names, name+"="+strings.Join(v, "|"))
		}
		slices.Sort(names)
		got = []string{r.Method, r.RequestURI, r.Host, strings.Join(names, " "), string(body)}
		w.Header().Set("Location", "/dex")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.WriteHeader(302)
	}))
	defer srv.Close()
	cfg := testConfig()
	cfg.Login.Delegate.URL = srv.URL
	a, err := New(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	a.Swap(newSnapshot(t, cfg))
	for _, tt := range []struct{ method, target string }{
		{"GET", "/"}, {"DELETE", "/pipeline/apis/v1?x=%2F&y"}, {"POST", "/a%2fb/%7Ec?"}, {"OPTIONS", "/x;y=1|2"}, {"PATCH", "//double/slash"}, {"GET", "/?next=//evil"}, {"GET", "/a//b"}, {"PROPFIND", "/ü"},
	} {
		req := ask(8080, outside, tt.method, "kf.example.com:8080", tt.target, "cookie: a=1", "cookie: b=2", "authorization: Bearer x", "x-auth-token: t", "user-agent: curl", "accept: text/html", "content-length: 10", "x-forwarded-host: evil", "kubeflow-userid: eve")
		v := a.Decide(t.Context(), req)
		if v.Allow || v.Status != 302 || len(headerOf(v.Headers, "set-cookie")) != 2 {
			t.Errorf("%s %s: got %d %s", tt.method, tt.target, v.Status, v.Reason)
			continue
		}
		want := []string{tt.method, tt.target, "kf.example.com:8080", "Authorization=Bearer x Cookie=a=1|b=2 X-Auth-Token=t", ""}
		if tt.method == "POST" || tt.method == "PATCH" { // no body: Go says so by its length, as Envoy does
			want[3] = "Authorization=Bearer x Content-Length=0 Cookie=a=1|b=2 X-Auth-Token=t"
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s %s: the login got\n%q, want\n%q", tt.method, tt.target, got, want)
		}
	}
	req := ask(8080, outside, "GET", "kf.example.com", "//not|as-it-is")
	if v := a.Decide(t.Context(), req); v.Status != 400 || v.Reason != Unrepresentable {
		t.Errorf("got %d %s", v.Status, v.Reason)
	}
}

func TestPeopleAnswered(t *testing.T) {
	for _, tt := range []struct {
		name    string
		reply   *http.Response
		status  int
		reason  string
		headers []Header
		body    string
	}{
		{"a page", response(403, http.Header{"Content-Type": {"text/html"}, "X-A": {"1", "2"}, "Connection": {"close, x-hop"}, "X-Hop": {"1"}, "Transfer-Encoding": {"chunked"}, "Content-Length": {"4"}, "Keep-Alive": {"1"}, "Proxy-Connection": {"1"}, "Proxy-Authenticate": {"1"}, "Te": {"1"}, "Trailer": {"X"}, "Upgrade": {"h2c"}}, "<p>\n"), 403, LoginRefused, []Header{{"content-type", "text/html"}, {"x-a", "1"}, {"x-a", "2"}}, "<p>\n"},
		{"202 is no yes", response(202, nil, ""), 202, LoginRefused, nil, ""},
		{"204 is no yes", response(204, nil, ""), 204, LoginRefused, nil, ""},
		{"an error of its own", response(500, nil, "oops"), 500, LoginRefused, nil, "oops"},
		{"endless", response(302, nil, strings.Repeat("x", maxAnswer+1)), 503, LoginUnavailable, nil, ""},
		{"a name that is no text", response(200, http.Header{"Kubeflow-Userid": {"\xff"}}, ""), 503, LoginUnavailable, nil, ""},
		{"yes", response(200, http.Header{"Kubeflow-Userid": {"ada"}}, ""), 200, LoginAllowed, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, testConfig())
			f.login.reply = func(*http.Request) *http.Response { return tt.reply }
			v := f.decide(t, ask(8080, outside, "GET", dashboard, "/"))
			if v.Status != tt.status || v.Reason != tt.reason || v.Allow != (tt.status == 200) {
				t.Fatalf("got %d %s, want %d %s", v.Status, v.Reason, tt.status, tt.reason)
			}
			if tt.reason == LoginRefused && (!slices.Equal(v.Headers, tt.headers) || string(v.Body) != tt.body) {
				t.Errorf("got %v %q, want %v %q", v.Headers, v.Body, tt.headers, tt.body)
			}
		})
	}
	f := newFixture(t, testConfig())
	f.login.err = errors.New("connection refused")
	for _, r := range []Request{ask(8080, outside, "GET", dashboard, "/?code=SECRET"), ask(8080, outside, "POST", openOut, "/", adaCookie)} {
		if v := f.decide(t, r); v.Allow || v.Status != 503 || v.Reason != LoginUnavailable {
			t.Errorf("the login is down: got %d %s", v.Status, v.Reason)
		}
	}
	if v := f.decide(t, ask(8081, podAddr, "POST", openIn, "/")); !v.Allow {
		t.Errorf("a pod's call while the login is down: got %s", v.Reason)
	}
}

func TestRouting(t *testing.T) {
	const vs = "/apis/networking.istio.io/v1alpha3/namespaces/%/virtual-service/%"
	route := func(ns, name string) string { return strings.Replace(strings.Replace(vs, "%", ns, 1), "%", name, 1) }
	for _, tt := range []struct {
		name    string
		routing Routing
		req     Request
		route   string
		reason  string
	}{
		{"agrees", Metadata, ask(8081, podAddr, "POST", openIn, "/"), route("models", "open"), Allowed},
		{"lacks", Metadata, ask(8081, podAddr, "POST", openIn, "/"), "", NoRouteMetadata},
		{"lacks, people's", Metadata, ask(8080, outside, "GET", dashboard, "/"), "", NoRouteMetadata},
		{"lacks, derived", Derived, ask(8081, podAddr, "POST", openIn, "/"), "", Allowed},
		{"disagrees", Metadata, ask(8081, podAddr, "POST", openIn, "/"), route("models", "other"), RouteDisagrees},
		{"disagrees, derived", Derived, ask(8081, podAddr, "POST", openIn, "/"), route("kubeflow", "centraldashboard"), RouteDisagrees},
		{"is no VirtualService", Metadata, ask(8081, podAddr, "POST", openIn, "/"), "models/open", RouteDisagrees},
		{"people's", Metadata, ask(8080, outside, "GET", dashboard, "/"), route("kubeflow", "centraldashboard"), LoginRefused},
		{"people's, not known yet", Metadata, ask(8080, outside, "GET", dashboard, "/"), route("kubeflow", "new"), LoginRefused},
		{"people's, but a model's route", Metadata, ask(8080, outside, "GET", dashboard, "/dex/x"), route("models", "open"), RouteDisagrees},
		{"people's, but an application's", Metadata, ask(8080, outside, "GET", dashboard, "/dex/x"), route("backend", "web"), RouteDisagrees},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Routing = tt.routing
			tt.req.RouteVirtualService = tt.route
			if v := newFixture(t, cfg).decide(t, tt.req); v.Reason != tt.reason {
				t.Errorf("got %s, want %s", v.Reason, tt.reason)
			}
		})
	}
}

func TestNotSynced(t *testing.T) {
	cfg := testConfig()
	cfg.Kubeflow.Hosts = []string{"kf.example.com"}
	f := newFixture(t, cfg)
	for _, none := range []*Snapshot{nil, {}, {Rules: &access.Rules{}, Map: &territory.Map{}}} {
		f.Swap(none)
		for _, tt := range []struct {
			host, route string
			reason      string
		}{
			{openOut, "", NotSynced},
			{dashboard, "", NotSynced},
			{"KF.example.com:8080", "", LoginRefused},
			{openOut, "/apis/networking.istio.io/v1/namespaces/models/virtual-service/open", NotSynced},
			{"x", "/apis/networking.istio.io/v1/namespaces/kubeflow/virtual-service/centraldashboard", LoginRefused},
			{"x", "/apis/networking.istio.io/v1/namespaces/kubeflow-user/virtual-service/x", NotSynced},
			{"kf.example.com", "/apis/networking.istio.io/v1/namespaces/models/virtual-service/open", NotSynced},
		} {
			req := ask(8080, outside, "GET", tt.host, "/")
			req.RouteVirtualService = tt.route
			v := f.decide(t, req)
			if v.Reason != tt.reason || v.Reason == NotSynced && v.Status != 503 {
				t.Errorf("%s %s: got %d %s, want %s", tt.host, tt.route, v.Status, v.Reason, tt.reason)
			}
		}
	}
	f.Swap(newSnapshot(t, cfg))
	if v := f.decide(t, ask(8081, podAddr, "POST", openIn, "/")); !v.Allow {
		t.Errorf("after the first whole snapshot: %s", v.Reason)
	}
}
