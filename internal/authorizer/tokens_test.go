package authorizer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/apikey"
	"postern.dev/postern/internal/credential"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	dexIssuer     = "https://dex.example.com"
	clusterIssuer = "https://kubernetes.default.svc.cluster.local"
)

// machines are objects for programs: who may call model open of namespace models
// besides pods, and the ServiceAccount.
const machines = `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: machines, namespace: models}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-model-caller}
subjects:
- {kind: User, name: "postern:key:team:robot"}
- {kind: Group, name: "postern:keys:models"}
- {kind: ServiceAccount, name: robot, namespace: team}
- {kind: Group, name: "dex:ops"}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: team, uid: sa-1}
`

// shop is a cluster with credentials of every kind.
type shop struct {
	*fixture
	t      testing.TB
	cfg    Config
	signer jose.Signer
	yaml   []string
}

func newShop(t testing.TB) *shop {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{t: t, cfg: testConfig(), yaml: []string{machines}}
	if s.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil); err != nil {
		t.Fatal(err)
	}
	s.cfg.Tokens = Tokens{
		Issuers: []Issuer{{Issuer: dexIssuer, Audiences: []string{"postern"}, Keys: Keys{JWKS: string(set)}, Username: Name{Claim: "email", SkipPrefix: true}, Groups: Name{Claim: "groups", Prefix: "dex:"}}},
		Cluster: &Cluster{Issuer: clusterIssuer, Audiences: []string{"postern"}, Keys: Keys{JWKS: string(set)}},
	}
	s.fixture = newFixture(t, s.cfg)
	s.swap()
	return s
}

// swap puts the objects in force.
func (s *shop) swap(more ...string) { s.Swap(newSnapshot(s.t, s.cfg, append(s.yaml, more...)...)) }

func (s *shop) key(namespace, name, more string) (text, object string) {
	s.t.Helper()
	text, spec, err := apikey.New(rand.Reader, namespace, name)
	if err != nil {
		s.t.Fatal(err)
	}
	return text, fmt.Sprintf("{apiVersion: apikeys.postern.dev/v1alpha1, kind: ApiKey, metadata: {name: %s, namespace: %s}, spec: {id: %q, hash: %q%s}}", name, namespace, spec.ID, spec.Hash, more)
}

func (s *shop) token(claims map[string]any) string {
	s.t.Helper()
	all := map[string]any{"iss": dexIssuer, "aud": "postern", "exp": noon.Unix() + 600}
	for k, v := range claims {
		all[k] = v
	}
	out, err := jwt.Signed(s.signer).Claims(all).Serialize()
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *shop) person(email string, groups ...string) string {
	return s.token(map[string]any{"email": email, "email_verified": true, "groups": groups})
}

func (s *shop) account(uid, podUID string) string {
	return s.token(map[string]any{"iss": clusterIssuer, "sub": "system:serviceaccount:team:robot", "kubernetes.io": map[string]any{
		"namespace": "team", "serviceaccount": map[string]any{"name": "robot", "uid": uid}, "pod": map[string]any{"name": "robot-1", "uid": podUID},
	}})
}

func TestDecideMachines(t *testing.T) {
	s := newShop(t)
	robot, o1 := s.key("team", "robot", "")
	other, o2 := s.key("team", "other", "")
	old, o3 := s.key("models", "old", `, expires: "2026-11-24T11:59:59Z"`)
	s.yaml = append(s.yaml, o1, o2, o3)
	s.swap()
	bearer := func(text string) string { return "authorization: Bearer " + text }
	person := bearer(s.person("ada@example.com"))
	const from = "10.244.0.60" // a pod's address, which would open the model by itself
	for _, tt := range []struct {
		name   string
		req    Request
		status int
		reason string
		user   string // x-postern-caller
		how    string
	}{
		{"a key", ask(8080, outside, "POST", openOut, predictPath, bearer(robot)), 200, Allowed, "postern:key:team:robot", ByKey},
		{"bearer in lower case", ask(8080, outside, "POST", openOut, predictPath, "authorization: bearer "+robot), 200, Allowed, "postern:key:team:robot", ByKey},
		{"x-api-key", ask(8080, outside, "POST", openOut, predictPath, "x-api-key: "+robot), 200, Allowed, "postern:key:team:robot", ByKey},
		{"both", ask(8080, outside, "POST", openOut, predictPath, "x-api-key: "+robot, bearer(robot)), 200, Allowed, "postern:key:team:robot", ByKey},
		{"both, two keys", ask(8080, outside, "POST", openOut, predictPath, "x-api-key: "+robot, bearer(other)), 401, credential.SeveralCredentials, "", ""},
		{"a key and a token", ask(8080, outside, "POST", openOut, predictPath, "x-api-key: "+robot, person), 401, credential.SeveralCredentials, "", ""},
		{"a key before a session", ask(8080, outside, "POST", ownedOut, predictPath, bearer(robot), aliceCook), 403, NotAllowed, "", ByKey},
		{"another's key", ask(8080, outside, "POST", openOut, predictPath, bearer(other)), 403, NotAllowed, "", ByKey},
		{"on another tenant's model", ask(8080, outside, "POST", ownedOut, predictPath, bearer(robot)), 403, NotAllowed, "", ByKey},
		{"an expired key", ask(8080, outside, "POST", openOut, predictPath, bearer(old)), 401, credential.KeyExpired, "", ByKey},
		{"an expired key from a pod", ask(8081, from, "POST", openIn, predictPath, bearer(old)), 401, credential.KeyExpired, "", ByKey},
		{"a key on a model behind login", ask(8080, outside, "POST", unboundOut, predictPath, bearer(robot)), 401, LoginRequired, "", ByKey},
		{"a key on the dashboard", ask(8080, outside, "GET", dashboard, "/", bearer(robot)), 403, WrongDoor, "", ""},
		{"a key and a session on the dashboard", ask(8080, outside, "GET", dashboard, "/", "x-api-key: "+robot, adaCookie), 403, WrongDoor, "", ""},
		{"a broken key on the dashboard", ask(8080, outside, "GET", dashboard, "/dex", "x-api-key: postern_x"), 403, WrongDoor, "", ""},
		{"a key on an unbound application", ask(8080, outside, "GET", "free.example.com", "/", bearer(robot)), 403, WrongDoor, "", ""},
		{"another's key on the dashboard is the login's", ask(8080, outside, "GET", dashboard, "/", bearer("sk-x")), 302, LoginRefused, "", ByLogin},
		{"a token on the dashboard likewise", ask(8080, outside, "GET", dashboard, "/", person), 302, LoginRefused, "", ByLogin},

		{"a person's token", ask(8080, outside, "POST", openOut, predictPath, person), 200, Allowed, "ada@example.com", ByToken},
		{"by a group", ask(8080, outside, "POST", openOut, predictPath, bearer(s.person("eve@example.com", "ops"))), 200, Allowed, "eve@example.com", ByToken},
		{"by no group", ask(8080, outside, "POST", openOut, predictPath, bearer(s.person("eve@example.com", "dex:ops"))), 403, NotAllowed, "", ByToken},
		{"a group that only Kubernetes has", ask(8080, outside, "POST", openOut, predictPath, bearer(s.person("eve@example.com", "system:masters"))), 401, credential.ReservedName, "", ByToken},
		{"an expired token from a pod", ask(8081, from, "POST", openIn, predictPath, bearer(s.token(map[string]any{"exp": 1}))), 401, credential.TokenExpired, "", ByToken},
		{"a token from another site's page", ask(8080, outside, "POST", openOut, predictPath, person, "origin: https://x", "sec-fetch-site: cross-site"), 200, Allowed, "ada@example.com", ByToken},
		{"a token on a model behind login", ask(8080, outside, "POST", unboundOut, predictPath, person), 401, LoginRequired, "", ByToken},

		{"a ServiceAccount", ask(8080, outside, "POST", openOut, predictPath, bearer(s.account("sa-1", "pod-1"))), 200, Allowed, "system:serviceaccount:team:robot", ByAccount},
		{"its pod is another", ask(8080, outside, "POST", openOut, predictPath, bearer(s.account("sa-1", "pod-2"))), 401, credential.NotLive, "", ByToken},
		{"it is another", ask(8080, outside, "POST", openOut, predictPath, bearer(s.account("sa-2", "pod-1"))), 401, credential.NotLive, "", ByToken},

		{"a key on the second hop", ask(8081, gwAddr, "POST", hop2, predictPath, bearer(robot)), 401, PassportRequired, "", ""},
		{"nothing on the second hop", ask(8081, gwAddr, "POST", hop2, predictPath), 401, CredentialRequired, "", ByAnonymous},

		{"a pod of the model itself", ask(8081, "10.244.0.71", "POST", "unbound.nobody.svc.cluster.local", predictPath), 200, Sibling, "postern:pod:nobody:default", ByPod},
		{"that has a rule anyway", ask(8081, "10.244.0.70", "POST", openIn, predictPath), 200, Allowed, "postern:pod:models:default", ByPod},
		{"at the outer door", ask(8080, "10.244.0.71", "POST", unboundOut, predictPath), 401, LoginRequired, "", ByAnonymous},
		{"of another model", ask(8081, "10.244.0.70", "POST", "unbound.nobody.svc.cluster.local", predictPath), 401, LoginRequired, "", ByPod},
		{"with its label in another namespace", ask(8081, "10.244.0.72", "POST", "owned.alice.svc.cluster.local", predictPath), 401, CredentialRequired, "", ByPod},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := s.decide(t, tt.req)
			if v.Status != tt.status || v.Reason != tt.reason || v.Allow != (tt.status == 200) || v.How != tt.how {
				t.Fatalf("got %t %d %s by %q (%s), want %d %s by %q", v.Allow, v.Status, v.Reason, v.How, v.Message, tt.status, tt.reason, tt.how)
			}
			out := forwarded(tt.req, v)
			if got := strings.Join(out["x-postern-caller"], ","); v.Allow && got != tt.user {
				t.Errorf("the backend gets caller %q, want %q", got, tt.user)
			}
			if !v.Allow {
				checkRefusal(t, tt.req, v)
				return
			}
			person := ""
			if v.Caller.Kind == access.Person {
				person = tt.user
			}
			if got := strings.Join(out["kubeflow-userid"], ","); got != person {
				t.Errorf("the backend gets kubeflow-userid %q, want %q", got, person)
			}
			for _, name := range []string{"authorization", "x-api-key", "x-auth-token"} {
				if len(out[name]) > 0 {
					t.Errorf("%s reaches the backend", name)
				}
			}
		})
	}
	for _, secret := range []string{robot, other, old} {
		if strings.Contains(s.log.String(), secret[30:]) {
			t.Error("the log holds a key")
		}
	}
	if token := strings.TrimPrefix(person, "authorization: Bearer "); strings.Contains(s.log.String(), token[len(token)-20:]) || strings.Contains(s.log.String(), token[20:60]) {
		t.Error("the log holds a token")
	}
	if k, _ := apikey.Parse(robot); !strings.Contains(s.log.String(), "credential="+k.ID) {
		t.Error("the log does not name the key")
	}
}

// TestRevoked: a key and a token end with the snapshot that says so.
func TestRevoked(t *testing.T) {
	s := newShop(t)
	text, object := s.key("team", "robot", "")
	byKey := ask(8080, outside, "POST", openOut, predictPath, "x-api-key: "+text)
	byAccount := ask(8080, outside, "POST", openOut, predictPath, "authorization: Bearer "+s.account("sa-1", "pod-1"))
	step := func(name string, r Request, want string) {
		t.Helper()
		if v := s.decide(t, r); v.Reason != want {
			t.Errorf("%s: got %s, want %s", name, v.Reason, want)
		}
	}
	s.swap(object)
	step("a key", byKey, Allowed)
	s.swap(strings.Replace(object, "spec: {", "spec: {disabled: true, ", 1))
	step("disabled", byKey, credential.KeyRevoked)
	s.swap()
	step("deleted", byKey, credential.KeyUnknown)
	s.swap(object, strings.Replace(object, "name: robot", "name: thief", 1))
	step("its id taken by another", byKey, credential.KeyAmbiguous)
	s.swap(object)
	step("back", byKey, Allowed)

	step("an account", byAccount, Allowed)
	snap := *s.snapshot.Load()
	snap.Accounts = nil
	s.Swap(&snap)
	step("the account is gone", byAccount, credential.NotLive)
	snap.APIKeys = nil
	s.Swap(&snap)
	step("no keys known", byKey, credential.KeyUnknown)
}

// TestPassportOfSiblings: a transformer hands on its caller's passport.
func TestPassportOfSiblings(t *testing.T) {
	s := newShop(t)
	given := func(door, inner string) (hop, model string) { // the passports of a person's call
		first, second := ask(8080, outside, "POST", door, predictPath, adaCookie), ask(8081, gwAddr, "POST", inner, predictPath)
		second.Headers = forwarded(first, s.decide(t, first))
		return second.Headers[passportHeader][0], forwarded(second, s.decide(t, second))[passportHeader][0]
	}
	hop, token := given(openOut, hop2)
	_, foreign := given(unboundOut, "unbound-predictor.nobody.svc.cluster.local")
	for _, tt := range []struct {
		name, from, token string
		door              uint16
		reason, user      string
	}{
		{"a sibling", "10.244.0.70", token, 8081, Allowed, "ada@example.com"},
		{"a sibling with the gateway's own", "10.244.0.70", hop, 8081, "passport_wrong_audience", ""},
		{"the gateway with a sibling's", gwAddr, token, 8081, "passport_wrong_audience", ""},
		{"a sibling with another model's", "10.244.0.70", foreign, 8081, "passport_wrong_audience", ""},
		{"a sibling with a broken one", "10.244.0.70", "x", 8081, "passport_malformed", ""},
		{"any other pod: removed unread", podAddr, token, 8081, Allowed, "postern:pod:default:default"},
		{"one that bears the label elsewhere", "10.244.0.72", token, 8081, Allowed, "postern:pod:alice:default"},
		{"outside", outside, token, 8080, CredentialRequired, ""},
	} {
		host := hop2
		if tt.door == 8080 {
			host = openOut
		}
		v := s.decide(t, ask(tt.door, tt.from, "POST", host, predictPath, "x-postern-passport: "+tt.token))
		if v.Reason != tt.reason || v.Allow && v.Caller.User != tt.user {
			t.Errorf("%s: got %s %s, want %s %s", tt.name, v.Reason, v.Caller.User, tt.reason, tt.user)
		}
	}
	snap := *s.snapshot.Load()
	snap.Rules = &access.Rules{}
	s.Swap(&snap) // the person's rule is gone; the model is nobody's now, and login stays its rule
	if v := s.decide(t, ask(8081, "10.244.0.70", "POST", hop2, predictPath, "x-postern-passport: "+token)); v.Reason != LoginAllowed {
		t.Errorf("got %s", v.Reason)
	}
}

// TestUnboundTokens: where the login takes tokens, a model without a rule goes on
// taking them.
func TestUnboundTokens(t *testing.T) {
	s := newShop(t)
	s.login.reply = func(r *http.Request) *http.Response {
		if r.Header.Get("Authorization") == "Bearer known" && r.Header.Get("Cookie") == "" {
			return response(200, http.Header{"Kubeflow-Userid": {"robot@example.com"}}, "")
		}
		return response(302, nil, "")
	}
	for _, tt := range []struct {
		name   string
		req    Request
		reason string
	}{
		{"known", ask(8080, outside, "POST", unboundOut, "/", "authorization: Bearer known"), LoginAllowed},
		{"with a cookie, which is not asked about", ask(8080, outside, "POST", unboundOut, "/", "authorization: Bearer known", adaCookie), LoginAllowed},
		{"unknown to both", ask(8080, outside, "POST", unboundOut, "/", "authorization: Bearer x"), credential.TokenMalformed},
		{"known to Postern alone", ask(8080, outside, "POST", unboundOut, "/", "authorization: Bearer "+s.person("ada@example.com")), LoginRequired},
		{"on a model with a rule", ask(8080, outside, "POST", openOut, "/", "authorization: Bearer known"), credential.TokenMalformed},
		{"on the second hop", ask(8081, gwAddr, "POST", "unbound-predictor.nobody.svc.cluster.local", "/", "authorization: Bearer known"), PassportRequired},
	} {
		v := s.decide(t, tt.req)
		if v.Reason != tt.reason || v.Allow && v.Caller.User != "robot@example.com" {
			t.Errorf("%s: got %s, want %s", tt.name, v.Reason, tt.reason)
		}
	}
	s.login.reply = func(*http.Request) *http.Response { return response(503, nil, "") }
	if v := s.decide(t, ask(8080, outside, "POST", unboundOut, "/", "authorization: Bearer other")); v.Reason != LoginUnavailable || v.Status != 503 {
		t.Errorf("the login is down: got %d %s", v.Status, v.Reason)
	}
}

func TestConcurrentMachines(t *testing.T) {
	s := newShop(t)
	s.Authorizer.log = slog.New(slog.DiscardHandler)
	text, object := s.key("team", "robot", "")
	s.swap(object)
	with, without := s.snapshot.Load(), newSnapshot(t, s.cfg, machines)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 100 {
				for _, c := range []string{text, s.person(fmt.Sprintf("u%d@example.com", n)), s.person("ada@example.com"), s.account("sa-1", "pod-1"), "x"} {
					v := s.Decide(t.Context(), ask(8080, outside, "POST", openOut, predictPath, "authorization: Bearer "+c))
					if v.Reason == Internal || c == "x" && v.Allow {
						t.Errorf("got %s", v.Reason)
					}
				}
				if i == 0 {
					s.Swap([]*Snapshot{with, without, nil}[n%3])
				}
			}
		})
	}
	wg.Wait()
}

func TestRefusalNamesWhatIsTaken(t *testing.T) {
	s := newShop(t)
	v := s.decide(t, ask(8080, outside, "POST", openOut+":80", predictPath, "x-forwarded-proto: https"))
	var body refusal
	if err := json.Unmarshal(v.Body, &body); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(body.Accepts, []string{ByKey, ByAccount, ByToken, BySession}) || len(body.Tokens) != 2 || body.Tokens[1].Audiences[0] != "postern" {
		t.Errorf("got %s", v.Body)
	}
	const url = "https://open.models.example.com:80/.well-known/oauth-protected-resource"
	if got := headerOf(v.Headers, "www-authenticate"); len(got) != 1 || !strings.HasSuffix(got[0], `, resource_metadata="`+url+`"`) {
		t.Errorf("got %v", got)
	}
	v = s.decide(t, ask(8080, outside, "GET", openOut, metadataPath+"?x=1"))
	if v.Allow || v.Status != 200 || v.Reason != ResourceMetadata || !strings.Contains(string(v.Body), `"resource":"http://open.models.example.com","authorization_servers":["https://dex.example.com"]`) {
		t.Errorf("got %d %s %s", v.Status, v.Reason, v.Body)
	}
	for _, r := range []Request{
		ask(8080, outside, "POST", openOut, metadataPath), ask(8080, outside, "GET", openOut, metadataPath+"/"),
		ask(8081, gwAddr, "GET", hop2, metadataPath),
	} {
		if v := s.decide(t, r); v.Reason != CredentialRequired {
			t.Errorf("%s %s: got %s", r.Method, r.Path, v.Reason)
		}
	}
	if v := s.decide(t, ask(8080, outside, "GET", dashboard, metadataPath)); v.Reason != LoginRefused {
		t.Errorf("the dashboard: got %s", v.Reason)
	}
	if v := newFixture(t, testConfig()).decide(t, ask(8080, outside, "GET", openOut, metadataPath)); v.Reason != CredentialRequired || strings.Contains(headerOf(v.Headers, "www-authenticate")[0], "resource_metadata") {
		t.Errorf("without issuers: got %s %v", v.Reason, v.Headers)
	}
}

func benchDecide(b *testing.B, s *shop, req Request) {
	b.Helper()
	s.Authorizer.log = slog.New(slog.DiscardHandler)
	b.ReportAllocs()
	for b.Loop() {
		if v := s.Authorizer.Decide(b.Context(), req); !v.Allow {
			b.Fatal(v.Reason)
		}
	}
}

func BenchmarkDecideKey(b *testing.B) {
	s := newShop(b)
	text, object := s.key("team", "robot", "")
	s.swap(object)
	benchDecide(b, s, ask(8080, outside, "POST", openOut, predictPath, "authorization: Bearer "+text, "content-type: application/json", "accept: */*", "user-agent: curl/8"))
}

func BenchmarkDecideToken(b *testing.B) {
	s := newShop(b)
	benchDecide(b, s, ask(8080, outside, "POST", openOut, predictPath, "authorization: Bearer "+s.person("ada@example.com"), "content-type: application/json", "accept: */*", "user-agent: curl/8"))
}

func BenchmarkDecidePassport(b *testing.B) {
	s := newShop(b)
	first := ask(8080, outside, "POST", openOut, predictPath, adaCookie)
	token := forwarded(first, s.decide(b, first))[passportHeader][0]
	benchDecide(b, s, ask(8081, gwAddr, "POST", hop2, predictPath, "x-postern-passport: "+token, "content-type: application/json", "accept: */*", "user-agent: curl/8"))
}
