package credential

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/passport"
)

func reasonOf(err error) string {
	if r := (*Refusal)(nil); errors.As(err, &r) {
		return r.Reason
	}
	if err != nil {
		return "another error: " + err.Error()
	}
	return ""
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestPods(t *testing.T) {
	p := NewPods([]Pod{
		{Namespace: "default", Name: "app", Addrs: addrs("10.0.0.1", "fd00::1")},
		{Namespace: "team", Name: "robot", ServiceAccount: "robot", Addrs: addrs("10.0.0.2"), Phase: "Running"},
		{Namespace: "team", Name: "host", Addrs: addrs("10.0.0.3"), HostNetwork: true},
		{Namespace: "team", Name: "one", Addrs: addrs("10.0.0.4")},
		{Namespace: "other", Name: "two", Addrs: addrs("::ffff:10.0.0.4")},
		{Namespace: "team", Name: "done", Addrs: addrs("10.0.0.5"), Phase: "Succeeded"},
		{Namespace: "team", Name: "next", Addrs: addrs("10.0.0.5"), Phase: "Running"},
		{Namespace: "team", Name: "gone", Addrs: addrs("10.0.0.6"), Terminating: true},
		{Namespace: "team", Name: "soon", Addrs: addrs("10.0.0.7"), Phase: "Pending"},
		{Namespace: "istio-system", Name: "gw", Addrs: addrs("10.0.1.1"), Labels: map[string]string{"istio": "ingressgateway"}},
		{Namespace: "team", Name: "fake-gw", Addrs: addrs("10.0.1.2"), Labels: map[string]string{"istio": "ingressgateway"}},
		{Namespace: "istio-system", Name: "host-gw", Addrs: addrs("10.0.1.3"), Labels: map[string]string{"istio": "ingressgateway"}, HostNetwork: true},
		{Namespace: "knative-serving", Name: "activator", Addrs: addrs("10.0.1.4"), Labels: map[string]string{"app": "activator"}},
		{Namespace: "team", Name: "waypoint", Addrs: addrs("10.0.1.5"), Labels: map[string]string{"gateway.networking.k8s.io/gateway-name": "w"}},
		{Namespace: "ingress", Name: "nginx", Addrs: addrs("10.0.1.6"), Labels: map[string]string{"app.kubernetes.io/name": "ingress-nginx"}},
		{Namespace: "team", Name: "own-proxy", Addrs: addrs("10.0.1.7"), Labels: map[string]string{"tier": "edge"}},
		{Namespace: "team", Name: "no-proxy", Addrs: addrs("10.0.1.8"), Labels: map[string]string{"tier": "back"}},
		{Namespace: "edge", Name: "own-gw", Addrs: addrs("10.0.1.9"), Labels: map[string]string{"role": "gw"}},
		{Namespace: "team", Name: "own-gw", Addrs: addrs("10.0.1.10"), Labels: map[string]string{"role": "gw"}},
		{Namespace: "team", Name: "twice", Addrs: addrs("10.0.2.1", "10.0.2.1")},
	}, PodRules{
		Gateways: []Workload{{"istio-system", map[string]string{"istio": "ingressgateway"}}, {"edge", map[string]string{"role": "gw"}}},
		Proxies:  []map[string]string{{"tier": "edge"}},
	})
	for _, tt := range []struct {
		addr, user string
		gateway    bool
	}{
		{"10.0.0.1", "postern:pod:default:default", false},
		{"fd00::1", "postern:pod:default:default", false},
		{"::ffff:10.0.0.1", "postern:pod:default:default", false},
		{"fd00::1%eth0", "", false},
		{"10.0.0.2", "postern:pod:team:robot", false},
		{"10.0.0.3", "", false},
		{"10.0.0.4", "", false},
		{"10.0.0.5", "postern:pod:team:default", false},
		{"10.0.0.6", "", false},
		{"10.0.0.7", "", false},
		{"10.0.1.1", "", true},
		{"10.0.1.2", "", false}, // neither a gateway of ours nor a caller
		{"10.0.1.3", "", false},
		{"10.0.1.4", "", false},
		{"10.0.1.5", "", false},
		{"10.0.1.6", "", false},
		{"10.0.1.7", "", false},
		{"10.0.1.8", "postern:pod:team:default", false},
		{"10.0.1.9", "", true}, // a gateway that bears no label of the known proxies
		{"10.0.1.10", "postern:pod:team:default", false},
		{"10.0.2.1", "postern:pod:team:default", false},
		{"203.0.113.9", "", false},
	} {
		a := netip.MustParseAddr(tt.addr)
		c, ok, why := p.Caller(a)
		if ok != (tt.user != "") || c.User != tt.user || ok == (why != "") {
			t.Errorf("%s: got %q %t %q, want %q", tt.addr, c.User, ok, why, tt.user)
		}
		if ok && (c.Proven || c.Kind != access.Pod || slices.Contains(c.Groups, access.AuthenticatedGroup)) {
			t.Errorf("%s: got %+v, want a pod that proves nothing", tt.addr, c)
		}
		if got := p.Gateway(a); got != tt.gateway {
			t.Errorf("%s: gateway = %t, want %t", tt.addr, got, tt.gateway)
		}
	}
	c, _, _ := p.Caller(netip.MustParseAddr("10.0.0.2"))
	if !slices.Equal(c.Groups, []string{"postern:pods", "postern:pods:team"}) {
		t.Errorf("got groups %v", c.Groups)
	}
	var none *Pods
	if _, ok, _ := none.Caller(netip.MustParseAddr("10.0.0.1")); ok || none.Gateway(netip.MustParseAddr("10.0.1.1")) {
		t.Error("nil Pods know somebody")
	}
	if _, ok, _ := p.Caller(netip.Addr{}); ok {
		t.Error("no address is somebody's")
	}
}

func TestPassport(t *testing.T) {
	keys, err := passport.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	iris := passport.Audience{Resource: access.Model("ns", "iris")}
	token, err := keys.Mint(access.Caller{User: "u"}, iris, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		values []string
		ok     bool
		want   string
	}{
		{nil, false, ""},
		{[]string{token}, true, ""},
		{[]string{token, token}, true, passport.Malformed},
		{[]string{""}, true, passport.Malformed},
		{[]string{"a.b.c"}, true, passport.Malformed},
	} {
		h := Headers{}
		if tt.values != nil {
			h[passport.Header] = tt.values
		}
		c, ok, err := Passport(h, keys, iris, now)
		if ok != tt.ok || reasonOf(err) != tt.want || err != nil && c.Caller.User != "" {
			t.Errorf("%v: got %+v %t %v", tt.values, c, ok, err)
		}
	}
}

func TestCookies(t *testing.T) {
	names := []string{"authservice_session", "_oauth2_proxy*"}
	for _, tt := range []struct {
		in, want string
		removed  bool
	}{
		{"", "", false},
		{"a=1; b=2", "a=1; b=2", false},
		{"a=1;b=2", "a=1; b=2", false},
		{"authservice_session=x", "", true},
		{"a=1; authservice_session=x; b=2", "a=1; b=2", true},
		{" authservice_session = x;a=1", "a=1", true},
		{"_oauth2_proxy_0=x; _oauth2_proxy=y; a=_oauth2_proxy=z", "a=_oauth2_proxy=z", true},
		{"xauthservice_session=1; Authservice_session=2", "xauthservice_session=1; Authservice_session=2", false},
		{"a=1,authservice_session=x", "a=1", true}, // two headers joined
		{"authservice_session=x,y,z; a=1,2", "a=1,2", true},
		{"authservice_session=x,b=2", "b=2", true},
		{`"authservice_session"=x`, "", true},
		{"authservice_session", "", true},
		{"authservice_session2=x", "authservice_session2=x", false}, // only a star stands for a rest
		{";;;", "", false},
	} {
		rest, removed := WithoutCookies([]string{tt.in}, names)
		if rest != tt.want || removed != tt.removed {
			t.Errorf("%q: got %q %t, want %q %t", tt.in, rest, removed, tt.want, tt.removed)
		}
		if _, again := WithoutCookies([]string{rest}, names); again {
			t.Errorf("%q: %q still holds a named cookie", tt.in, rest)
		}
	}
}

func TestSameSite(t *testing.T) {
	for _, tt := range []struct {
		h    Headers
		want string
	}{
		{Headers{}, ""},
		{Headers{"sec-fetch-site": {"same-origin"}}, ""},
		{Headers{"sec-fetch-site": {"same-origin"}, "origin": {"https://x"}}, ""},
		{Headers{"origin": {"https://x"}}, CrossSite},
		{Headers{"origin": {"null"}}, CrossSite},
		{Headers{"origin": {"https://app.example.com"}}, ""},
		{Headers{"origin": {"https://app.example.com"}, "sec-fetch-site": {"cross-site"}}, ""},
		{Headers{"origin": {"https://app.example.com", "https://app.example.com"}}, CrossSite},
		{Headers{"origin": {"https://app.example.com.evil"}}, CrossSite},
		{Headers{"origin": {"http://app.example.com"}}, CrossSite},
		{Headers{"origin": {"https://APP.example.com"}}, CrossSite},
		{Headers{"sec-fetch-site": {"same-site"}}, CrossSite},
		{Headers{"sec-fetch-site": {"cross-site"}}, CrossSite},
		{Headers{"sec-fetch-site": {"none"}}, CrossSite},
		{Headers{"sec-fetch-site": {""}}, CrossSite},
		{Headers{"sec-fetch-site": {"same-origin", "same-origin"}}, CrossSite},
		{Headers{"sec-fetch-site": {"same-origin,same-origin"}}, CrossSite},
		{Headers{"sec-fetch-site": {"Same-Origin"}}, CrossSite},
	} {
		if got := reasonOf(SameSite(tt.h, []string{"https://app.example.com"})); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.h, got, tt.want)
		}
	}
}

// fakeLogin answers by cookie and counts.
type fakeLogin struct {
	asked atomic.Int64
	hold  chan struct{} // when set, each question waits for it
}

func (f *fakeLogin) ask(ctx context.Context, h Headers) (int, http.Header, error) {
	f.asked.Add(1)
	if f.hold != nil {
		<-f.hold
	}
	named := func(values ...string) http.Header {
		out := http.Header{}
		for _, v := range values {
			out.Add("kubeflow-userid", v)
		}
		return out
	}
	cookie, _ := h.Only("cookie")
	token, _ := h.Only("x-auth-token")
	switch {
	case cookie == "s=ada" || token == "ada":
		out := named("ada@example.com")
		out.Set("kubeflow-groups", "team, lab ,")
		return 200, out, nil
	case cookie == "s=skipped":
		return 200, named(), nil
	case cookie == "s=blank":
		return 200, named(" "), nil
	case cookie == "s=latin":
		return 200, named("ad\xe4@example.com"), nil
	case cookie == "s=two":
		return 200, named("a", "b"), nil
	case cookie == "s=system":
		return 200, named("system:admin"), nil
	case cookie == "s=postern":
		return 200, named("postern:pod:a:b"), nil
	case cookie == "s=named302":
		return 302, named("ada@example.com"), nil
	case cookie == "s=down":
		return 0, nil, errors.New("connection refused")
	case cookie == "s=500":
		return 502, nil, nil
	case cookie == "s=masters":
		out := named("eve@example.com")
		out.Set("kubeflow-groups", "team,system:masters")
		return 200, out, nil
	}
	return 302, nil, nil
}

func newTestSessions(f *fakeLogin, now func() time.Time) *Sessions {
	return NewSessions(SessionRules{
		Cookies: []string{"s"}, Tokens: []string{"x-auth-token"}, User: "kubeflow-userid", Groups: "kubeflow-groups", Life: 5 * time.Second,
	}, f.ask, now)
}

func TestSessions(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    Headers
		user string
		want string
	}{
		{"a session", Headers{"cookie": {"s=ada"}}, "ada@example.com", ""},
		{"an old one", Headers{"cookie": {"s=old"}}, "", ""},
		{"another cookie only", Headers{"cookie": {"t=ada"}}, "", ""},
		{"nothing", Headers{}, "", ""},
		{"a token", Headers{"x-auth-token": {"ada"}}, "ada@example.com", ""},
		{"a bad token", Headers{"x-auth-token": {"eve"}}, "", InvalidSession},
		{"a path that the login skips", Headers{"cookie": {"s=skipped"}}, "", ""},
		{"two names", Headers{"cookie": {"s=two"}}, "", ""},
		{"a blank name", Headers{"cookie": {"s=blank"}}, "", ""},
		{"a name that is no text", Headers{"cookie": {"s=latin"}}, "", ""},
		{"a name on a refusal", Headers{"cookie": {"s=named302"}}, "", ""},
		{"a name of Kubernetes'", Headers{"cookie": {"s=system"}}, "", ReservedName},
		{"a name of Postern's", Headers{"cookie": {"s=postern"}}, "", ReservedName},
		{"a group of Kubernetes'", Headers{"cookie": {"s=masters"}}, "", ReservedName},
		{"the login is down", Headers{"cookie": {"s=down"}}, "", LoginUnavailable},
		{"the login fails", Headers{"cookie": {"s=500"}}, "", LoginUnavailable},
		{"too large", Headers{"cookie": {"s=" + strings.Repeat("x", maxCookie)}}, "", InvalidSession},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestSessions(&fakeLogin{}, time.Now)
			c, ok, err := s.Caller(t.Context(), tt.h)
			if c.User != tt.user || ok != (tt.user != "") || reasonOf(err) != tt.want {
				t.Errorf("got %q %t %v, want %q %q", c.User, ok, err, tt.user, tt.want)
			}
			if ok && (!c.Proven || c.Kind != access.Person || !slices.Equal(c.Groups, []string{"team", "lab", access.AuthenticatedGroup})) {
				t.Errorf("got %+v", c)
			}
		})
	}
}

func TestSessionsCache(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	f := &fakeLogin{}
	s := newTestSessions(f, func() time.Time { return now })
	ask := func(cookie string) {
		if _, _, err := s.Caller(t.Context(), Headers{"cookie": {cookie}}); err != nil && cookie != "s=down" {
			t.Error(err)
		}
	}
	for _, step := range []struct {
		cookie string
		after  time.Duration
		asked  int64
	}{
		{"s=ada", 0, 1}, {"s=ada", 4 * time.Second, 1}, {"s=ada", time.Second, 2}, {"s=ada; t=1", 0, 3},
		{"s=down", 0, 4}, {"s=down", 0, 5}, // what could not be answered is not kept
	} {
		now = now.Add(step.after)
		ask(step.cookie)
		if got := f.asked.Load(); got != step.asked {
			t.Errorf("%s: the login was asked %d times, want %d", step.cookie, got, step.asked)
		}
	}
	for i := range maxSessions + 100 {
		ask(fmt.Sprint("s=x", i))
	}
	if got := len(s.known); got > maxSessions {
		t.Errorf("got %d entries, want at most %d", got, maxSessions)
	}
}

func TestSessionsAskOnce(t *testing.T) {
	f := &fakeLogin{hold: make(chan struct{})}
	s := newTestSessions(f, time.Now)
	first, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var found atomic.Int64
	for i := range 20 {
		ctx := t.Context()
		if i == 0 {
			ctx = first
		}
		wg.Go(func() {
			if _, ok, err := s.Caller(ctx, Headers{"cookie": {"s=ada"}}); ok && err == nil {
				found.Add(1)
			}
		})
	}
	for f.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel() // whoever asked first goes away: the others still get the answer
	gone, stop := context.WithCancel(t.Context())
	stop()
	if _, _, err := s.Caller(gone, Headers{"cookie": {"s=ada"}}); reasonOf(err) != LoginUnavailable {
		t.Errorf("a caller who is gone: got %v", err)
	}
	close(f.hold)
	wg.Wait()
	if f.asked.Load() != 1 || found.Load() < 19 {
		t.Errorf("the login was asked %d times and %d callers were found, want 1 and at least 19", f.asked.Load(), found.Load())
	}
}

func FuzzWithoutCookies(f *testing.F) {
	f.Add("a=1; s=2,s=3", "s=1")
	f.Fuzz(func(t *testing.T, a, b string) {
		rest, _ := WithoutCookies([]string{a, b}, []string{"s", "p*"})
		if HasCookie([]string{rest}, []string{"s", "p*"}) {
			t.Errorf("%q %q: %q still holds a named cookie", a, b, rest)
		}
	})
}
