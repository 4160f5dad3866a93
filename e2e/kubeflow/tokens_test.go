//go:build e2e

package kubeflow

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/manifest"
)

const dexIssuer = "http://dex.auth.svc.cluster.local:5556/dex"

// machines is Dex's configuration of the release with one client more.
func machines(t *testing.T, release string) string {
	t.Helper()
	set, err := manifest.Files([]string{"testdata/" + release}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, cm, ok := manifest.Find[*corev1.ConfigMap](set, "auth", "dex")
	if !ok {
		t.Fatal("no ConfigMap auth/dex")
	}
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]string{"name": "dex", "namespace": "auth"},
		"data": map[string]string{"config.yaml": strings.TrimRight(cm.Data["config.yaml"], "\n") + "\n- {id: machines, secret: s3cret, redirectURIs: [\"http://127.0.0.1/callback\"], name: machines}\n"}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// token logs the person in at Dex, through the gateway, for client machines.
func (c *cluster) token() string {
	c.t.Helper()
	b := c.browser()
	b.send(http.MethodGet, "/dex/auth?client_id=machines&redirect_uri="+url.QueryEscape("http://127.0.0.1/callback")+"&response_type=code&scope=openid+email&state=s", "")
	b.follow()
	b.send(http.MethodPost, b.form(`<form method="post" action="([^"]+)"`), url.Values{"login": {"user@example.com"}, "password": {"12341234"}}.Encode())
	back, err := url.Parse(b.last.header.Get("Location"))
	if err != nil || back.Query().Get("code") == "" {
		c.t.Fatalf("no code:\n%s", b.text())
	}
	got := c.call(call{host: dashboard, path: "/dex/token", body: url.Values{"grant_type": {"authorization_code"}, "code": {back.Query().Get("code")}, "redirect_uri": {"http://127.0.0.1/callback"}}.Encode(),
		header: headers("content-type: application/x-www-form-urlencoded", "authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("machines:s3cret")))})
	var out struct {
		Token string `json:"id_token"`
	}
	if err := json.Unmarshal([]byte(got.body), &out); err != nil || out.Token == "" {
		c.t.Fatalf("no token: %s", got)
	}
	return out.Token
}

// claims are a token's own words, unverified.
func claims(t *testing.T, token string) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// forged is a token of these claims that nobody's key signed.
func forged(claims string) string {
	enc := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return enc(`{"alg":"RS256","typ":"JWT","kid":"x"}`) + "." + enc(claims) + "." + enc(strings.Repeat("x", 256))
}

// TestBearersAtPeoplesPages: a client with a bearer token gets at Kubeflow's pages what
// it gets without Postern, whoever understands the token: the login alone, the gateway's
// own verifier, the backend, or nobody.
func TestBearersAtPeoplesPages(t *testing.T) {
	each(t, func(t *testing.T, release string) {
		var said [2]map[string]string
		for i, without := range []bool{true, false} {
			c := start(t, release, options{without: without, more: machines(t, release)})
			b := c.browser()
			b.login()
			of := map[string]string{
				"nothing":                            "",
				"empty":                              "authorization:",
				"Dex's, for another client":          "authorization: Bearer " + c.token(),
				"nobody's issuer":                    "authorization: Bearer " + forged(`{"iss":"https://issuer.example.com","sub":"x","exp":4102444800}`),
				"Dex's by its own word":              "authorization: Bearer " + forged(`{"iss":"`+dexIssuer+`","sub":"x","email":"admin@example.com","exp":4102444800}`),
				"opaque, which only a backend knows": "authorization: Bearer sk-1234567890",
				"basic":                              "authorization: Basic eDp5",
				"another scheme":                     "authorization: Negotiate abc",
			}
			if shared(release) {
				for _, cookie := range b.jar.Cookies(b.at) {
					if cookie.Name == "authservice_session" {
						of["a session in x-auth-token"] = "x-auth-token: " + cookie.Value
						of["a session as bearer"] = "authorization: Bearer " + cookie.Value
					}
				}
			} else {
				of["Dex's, for oauth2-proxy"] = "authorization: " + c.backends.last("kubeflow/centraldashboard").Get("Authorization")
			}
			said[i] = map[string]string{}
			for name, line := range of {
				for _, target := range []string{"/", "/jupyter/api/namespaces", "/oauth2/auth", "/dex/nothing"} {
					h := headers("accept: application/json", "kubeflow-userid: admin@example.com")
					if line != "" {
						h[http.CanonicalHeaderKey(strings.SplitN(line, ":", 2)[0])] = []string{strings.TrimSpace(strings.SplitN(line, ":", 2)[1])}
					}
					before := c.backends.count("kubeflow/")
					got := c.call(call{host: dashboard, path: target, header: h})
					user := "-"
					if c.backends.count("kubeflow/") > before {
						user = c.backends.last("kubeflow/").Get("Kubeflow-Userid")
					}
					said[i][name+" at "+target] = masked(fmt.Sprintf("%d %s %s as %s", got.status, got.header.Get("Location"), got.body, user))
					if strings.HasSuffix(user, "admin@example.com") {
						t.Errorf("without Postern: %v: %s at %s: the backend took the client's word for %s", without, name, target, user)
					}
				}
			}
			c.stop()
		}
		if len(said[0]) < 32 {
			t.Errorf("only %d answers were compared", len(said[0]))
		}
		people := 0
		for name, want := range said[0] {
			if strings.HasSuffix(want, "as user@example.com") {
				people++
			}
			if xRequest(said[1][name]) != xRequest(want) {
				t.Errorf("%s: got\n%.600s\nwithout Postern\n%.600s", name, said[1][name], want)
			}
		}
		if people == 0 {
			t.Error("no token was taken at all")
		}
	})
}

// xRequest leaves out what a page shows of the gateway's id of the request.
func xRequest(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if !strings.Contains(line, "X-Request-Id") && !strings.Contains(line, "Request ID") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// issuer stands between posternd and Dex's keys: it can be slow, or away.
type issuer struct {
	*httptest.Server
	dex         atomic.Value // its address, a string
	away, stuck atomic.Bool
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i.stuck.Load() && r.Context().Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		if i.away.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		resp, err := http.Get("http://" + i.dex.Load().(string) + "/dex/keys")
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(i.Close)
	return i
}

// config lets tokens of Dex's client machines count at models.
func (i *issuer) config(text string) string {
	return text + fmt.Sprintf("tokens: {issuers: [{issuer: %q, audiences: [machines], jwksURL: %q, insecureHTTP: true, username: {claim: email}}]}\n", dexIssuer, i.URL+"/keys")
}

// TestTokens: a token of Dex's opens the model its holder may call, on both hops; the
// identity provider away or slow stops only who has not been seen before, with 503 and
// in time, and nobody else.
func TestTokens(t *testing.T) {
	oldAndNew(t, func(t *testing.T, release string) {
		keys := newIssuer(t)
		c := start(t, release, options{more: machines(t, release), config: keys.config})
		keys.dex.Store(c.at("dex.auth.svc.cluster.local", 5556).String())
		good := c.token()
		ask := func(token string, more ...string) answer {
			return c.call(call{host: llmOut, path: "/v1/x", header: headers(append(more, "authorization: Bearer "+token)...)})
		}
		want := func(name string, got answer, status int, part string) {
			t.Helper()
			if got.status != status || !strings.Contains(got.body, part) {
				t.Errorf("%s: got %s, want %d %s", name, got, status, part)
			}
		}
		keys.away.Store(true)
		want("the keys away from the first", ask(good), 503, "keys_unavailable")
		keys.away.Store(false)
		eventually(t, "both posternds have the keys, and have seen the token", func() bool {
			for i := range 20 {
				if i%3 == 0 { // one check, not two: the posternds take turns
					c.call(call{host: llmOut, path: "/"})
				}
				if ask(good).status != http.StatusOK {
					return false
				}
			}
			return true
		})
		got := ask(good)
		want("a token of Dex's", got, 200, dexIssuer+"#user@example.com")
		if h := c.backends.last("kserve-test/llm"); h.Get("Authorization") != "" || h.Get("Kubeflow-Userid") != "" {
			t.Errorf("the model got %v", h)
		}
		iss := claims(t, good)
		delete(iss, "aud")
		text, _ := json.Marshal(iss)
		want("forged, the same words", ask(forged(string(text))), 401, "token_")
		want("in the query", c.call(call{host: llmOut, path: "/v1/x?access_token=" + good}), 401, "credential_required")
		want("another scheme", c.call(call{host: llmOut, path: "/v1/x", header: headers("authorization: Token " + good)}), 401, "")
		want("cut", ask(good[:len(good)-20]), 401, "token_")
		want("at another tenant's model", c.call(call{host: "fraud.team-b.example.com", path: "/v1/x", header: headers("authorization: Bearer " + good)}), 403, "not_allowed")
		for name, f := range map[string]func(bool){"away": func(b bool) { keys.away.Store(b) }, "slow": func(b bool) { keys.stuck.Store(b) }} {
			f(true)
			want("the identity provider "+name+", a token seen before", ask(good), 200, "llm-predictor")
			want("the identity provider "+name+", a pod", c.call(call{from: "default/myapp-pod", url: llm + "/v1/x"}), 200, "llm-predictor")
			want("the identity provider "+name+", an API key", c.call(call{host: llmOut, path: "/v1/x", header: headers("x-api-key: " + c.keys["kserve-test/robot"])}), 200, "llm-predictor")
			// Its kid is unknown: the keys are asked for, and the answer is no 504 of the gateway's.
			if got := ask(forged(string(text))); got.status != 401 && got.status != 503 {
				t.Errorf("the identity provider %s, an unknown key: got %s", name, got)
			}
			f(false)
		}
	})
}

// TestClockSkew: a token of an issuer whose clock is a little ahead is taken, and not
// one that is valid later. What has expired by our clock has expired: nothing is lost
// but the seconds before its holder gets the next.
func TestClockSkew(t *testing.T) {
	signer := newSigner(t)
	now := time.Now()
	c := start(t, "26.03", options{config: func(s string) string {
		return s + fmt.Sprintf("tokens: {issuers: [{issuer: %q, audiences: [machines], jwks: %q, username: {claim: sub, prefix: \"skew:\"}}]}\n", "https://issuer.example.com", signer.jwks)
	}, more: `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: skew, namespace: kserve-test}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-model-caller}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "skew:robot"}]
`})
	for _, tt := range []struct {
		name          string
		begins, lasts time.Duration
		status        int
		part          string
	}{
		{"now", -time.Minute, time.Hour, 200, "skew:robot"},
		{"expired a little ago", -time.Hour, -5 * time.Second, 401, "token_expired"},
		{"expired", -time.Hour, -10 * time.Minute, 401, "token_expired"},
		{"valid in a moment", 5 * time.Second, time.Hour, 200, "skew:robot"},
		{"valid later", 10 * time.Minute, time.Hour, 401, "token_"},
	} {
		token := signer.sign(t, map[string]any{"iss": "https://issuer.example.com", "aud": "machines", "sub": "robot", "jti": tt.name,
			"nbf": now.Add(tt.begins).Unix(), "iat": now.Add(min(tt.begins, 0)).Unix(), "exp": now.Add(tt.lasts).Unix()})
		got := c.call(call{host: llmOut, path: "/v1/x", header: headers("authorization: Bearer " + token)})
		if got.status != tt.status || !strings.Contains(got.body, tt.part) {
			t.Errorf("%s: got %s, want %d %s", tt.name, got, tt.status, tt.part)
		}
	}
}

// TestReservedNames: no issuer may make Kubernetes' or Postern's own users and groups.
// The model is one that its owner opened to all of these names.
func TestReservedNames(t *testing.T) {
	signer := newSigner(t)
	c := start(t, "26.03", options{config: func(s string) string {
		return s + fmt.Sprintf("tokens: {issuers: [{issuer: %q, audiences: [machines], jwks: %q, username: {claim: sub, skipPrefix: true}, groups: {claim: groups, skipPrefix: true}}]}\n", "https://issuer.example.com", signer.jwks)
	}, more: `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reserved, namespace: team-b}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-model-caller}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:masters"}
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: "postern:pods"}
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: ops}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:masters"}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: "postern:pod:default:default"}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:serviceaccount:team-b:default"}
`})
	for _, tt := range []struct {
		name   string
		more   map[string]any
		status int
	}{
		{"an ordinary group", map[string]any{"groups": []string{"ops"}}, 200},
		{"no group", nil, 403},
		{"groups claim system:masters", map[string]any{"groups": []string{"ops", "system:masters"}}, 401},
		{"groups claim postern:pods", map[string]any{"groups": []string{"postern:pods"}}, 401},
		{"user system:masters", map[string]any{"sub": "system:masters"}, 401},
		{"user postern:pod", map[string]any{"sub": "postern:pod:default:default"}, 401},
		{"a ServiceAccount's name", map[string]any{"sub": "system:serviceaccount:team-b:default"}, 401},
	} {
		words := map[string]any{"iss": "https://issuer.example.com", "aud": "machines", "sub": "robot", "exp": time.Now().Add(time.Hour).Unix()}
		for k, v := range tt.more {
			words[k] = v
		}
		got := c.call(call{host: "fraud.team-b.example.com", path: "/v1/x", header: headers("authorization: Bearer " + signer.sign(t, words))})
		if got.status != tt.status {
			t.Errorf("%s: got %s, want %d", tt.name, got, tt.status)
		}
	}
}

// signer is an issuer of tokens whose keys posternd is given as a text.
type signer struct {
	key  *ecdsa.PrivateKey
	jwks string
}

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, string(set)}
}

func (s signer) sign(t *testing.T, words map[string]any) string {
	t.Helper()
	sig, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.key, KeyID: "1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(words)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := sig.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}
