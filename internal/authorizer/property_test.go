package authorizer

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/territory"
)

func randomRequest(r *rand.Rand, hosts []string) Request {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	req := ask(uint16([]int{8080, 8081, 8080, 9}[r.IntN(4)]), pick(podAddr, teamAddr, gwAddr, outside, "::1", "10.244.0.50"),
		pick("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "PROPFIND", "get", "X"), hosts[r.IntN(len(hosts))],
		pick("/", "/v1/models/open:predict", "/dex", "/dex/auth?x=1", "//x", "/a/../b", "/healthz", "/robots.txt", "/ping", metadataPath, "/%2e%2e/", "*"))
	all := []string{
		"accept: text/html", "accept: application/json", "content-type: application/grpc", "content-type: application/grpc-web", "cookie: authservice_session=ada",
		"cookie: authservice_session=alice", "cookie: authservice_session=old", "cookie: a=b", "authorization: Bearer x", "authorization: Basic x", "authorization: Bearer postern_x", "authorization: Bearer a.b.c", "x-api-key: x", "x-auth-token: x",
		"x-postern-passport: a.b.c", "kubeflow-userid: eve", "origin: http://x", "origin: null", "sec-fetch-site: same-origin", "sec-fetch-site: cross-site", "sec-fetch-mode: navigate",
		"x-forwarded-host: localhost", "x-forwarded-uri: /ping", "user-agent: kube-probe/1.0", "user-agent: GoogleHC/1.0", "x-original-url: /dex", "upgrade: websocket", "connection: upgrade", "access-control-request-method: POST", "access-control-request-method: X", "origin: https://app.example.com",
		"x-original-method: OPTIONS", "x-http-method-override: OPTIONS", "x-forwarded-method: OPTIONS",
		"x-envoy-original-path: /dex", ":authority: localhost", ":path: /dex", "host: localhost",
	}
	for range r.IntN(6) {
		name, value, _ := strings.Cut(all[r.IntN(len(all))][1:], ":")
		h := all[r.IntN(len(all))]
		if !strings.HasPrefix(h, ":") {
			name, value, _ = strings.Cut(h, ":")
		}
		req.Headers[name] = append(req.Headers[name], strings.TrimSpace(value))
	}
	return req
}

func TestModelsNeverRedirect(t *testing.T) {
	f := newShop(t)
	r := rand.New(rand.NewPCG(3, 4))
	allowed := 0
	for range 20_000 {
		req := randomRequest(r, []string{openIn, openOut, ownedOut, unboundOut, hop2, "OPEN.models.example.com:80"})
		v := f.decide(t, req)
		if v.Territory.Kind == territory.People { // the second hop's name at the outer door, where it is Kubeflow's
			continue
		}
		if v.Status >= 300 && v.Status < 400 || len(headerOf(v.Headers, "location")) > 0 || strings.Contains(strings.Join(headerOf(v.Headers, "content-type"), ""), "html") {
			t.Fatalf("%+v: got %d %v", req, v.Status, v.Headers)
		}
		if v.Allow {
			allowed++
			for _, h := range v.Set {
				if slices.Contains(v.Remove, h.Name) {
					t.Fatalf("%s is set and removed", h.Name)
				}
			}
		}
		if v.Allow != (v.Status == 200) && v.Reason != ResourceMetadata {
			t.Fatalf("%+v: got %t with %d", req, v.Allow, v.Status)
		}
	}
	if allowed < 500 {
		t.Errorf("only %d were allowed: the test sees too little", allowed)
	}
}

func TestNothingAllowsByItself(t *testing.T) {
	f := newShop(t)
	f.login.reply = func(*http.Request) *http.Response { return response(302, http.Header{"Location": {"/dex"}}, "") }
	snap := newSnapshot(t, testConfig())
	snap.Rules = &access.Rules{}
	f.Swap(snap)
	r := rand.New(rand.NewPCG(5, 6))
	for range 20_000 {
		req := randomRequest(r, []string{openIn, openOut, ownedOut, unboundOut, hop2, dashboard, "web.example.com", "free.example.com", "twin.example.com", "*", "x"})
		if v := f.decide(t, req); v.Allow {
			t.Fatalf("%+v: allowed, %s", req, v.Reason)
		}
	}
}

// TestNames compares names with what it means.
func TestNames(t *testing.T) {
	cfg := Config{Identity: Identity{Headers: []string{"X-Who", "x_odd*", "-dash"}, UserHeader: "Kubeflow-Userid", GroupsHeader: "kubeflow-groups"}}.withDefaults()
	s := newStripper(cfg)
	r := rand.New(rand.NewPCG(7, 8))
	all := []string{"kubeflow-userid", "kubeflow_userid", "kubeflow-groups", "x-who", "x_who", "x-odd-1", "x_odd_2", "-dash", "_dash", "authorization", "x-api-key", "x_api_key", "cookie", "accept",
		"x-postern-passport", "x-postern-caller", "x_postern_caller", "x-auth-request-email", "x_auth-request_email", "x-forwarded-for", "x-forwarded-user", "zzz", "x-user-email"}
	for range 5000 {
		h, set := credential.Headers{}, []Header{}
		for range r.IntN(8) {
			h[all[r.IntN(len(all))]] = []string{"v"}
		}
		for _, n := range []string{callerHeader, passportHeader, "Kubeflow-Userid", "kubeflow-userid", "kubeflow-groups", "cookie", "x-who"} {
			if r.IntN(3) > 0 {
				set = append(set, Header{n, "v"})
			}
		}
		for _, p := range []*patterns{s.identity, s.machine} {
			want := map[string]bool{}
			for _, n := range append(slices.Collect(maps.Keys(h)), p.always...) {
				matches := slices.Contains(p.always, n)
				for _, pattern := range append(slices.Clone(p.always), p.prefixes...) {
					matches = matches || dashed(n) == pattern || slices.Contains(p.prefixes, pattern) && strings.HasPrefix(dashed(n), pattern)
				}
				if matches && !slices.ContainsFunc(set, func(h Header) bool { return strings.ToLower(h.Name) == n }) {
					want[n] = true
				}
			}
			if got := p.names(h, set); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
				t.Fatalf("%v, set %v: got %v, want %v", h, set, got, slices.Sorted(maps.Keys(want)))
			}
		}
	}
}

func TestLogHoldsNoSecret(t *testing.T) {
	f := newFixture(t, testConfig())
	first := ask(8080, outside, "POST", openOut, predictPath, adaCookie)
	token := forwarded(first, f.decide(t, first))["x-postern-passport"][0]
	f.decide(t, ask(8081, gwAddr, "POST", hop2, predictPath+"?q=S3CRET", "x-postern-passport: "+token))
	f.decide(t, ask(8081, gwAddr, "POST", hop2, predictPath, "x-postern-passport: S3CRET."+token))
	f.decide(t, ask(8080, outside, "POST", openOut, predictPath, "authorization: Bearer S3CRET"))
	f.decide(t, ask(8080, outside, "GET", dashboard, "/callback?code=S3CRET", "cookie: authservice_session=S3CRETx"))
	f.login.err = errors.New("down")
	f.decide(t, ask(8080, outside, "GET", dashboard, "/callback?code=S3CRET"))
	out := f.log.String()
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if strings.Contains(line, "caller=S3CRETx@example.com") {
			continue // the fake login makes the name of the cookie
		}
		if strings.Contains(line, "S3CRET") || strings.Contains(line, token[:30]) {
			t.Errorf("the log holds a secret: %s", line)
		}
	}
	if n := strings.Count(out, "msg=decision"); n != 6 {
		t.Errorf("got %d lines for 6 decisions:\n%s", n, out)
	}
	if !strings.Contains(out, `binding="RoleBinding models/ada"`) {
		t.Errorf("the log does not say what decided:\n%s", out)
	}
}

func TestConcurrent(t *testing.T) {
	f := newFixture(t, testConfig())
	snap := newSnapshot(t, testConfig())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range 300 {
				f.Decide(context.Background(), randomRequest(r, []string{openIn, openOut, dashboard, "web.example.com"}))
			}
		})
		wg.Go(func() {
			for range 100 {
				f.Swap(nil)
				f.Swap(snap)
			}
		})
	}
	wg.Wait()
}

func BenchmarkDecidePod(b *testing.B) {
	f := newFixture(b, testConfig())
	f.Authorizer.log = slog.New(slog.DiscardHandler)
	req := ask(8081, podAddr, "POST", openIn, predictPath, "content-type: application/json", "accept: */*", "user-agent: curl/8")
	for b.Loop() {
		if v := f.Decide(context.Background(), req); !v.Allow {
			b.Fatal(v.Reason)
		}
	}
}
