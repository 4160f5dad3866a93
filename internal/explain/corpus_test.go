package explain_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/explain"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/world"
)

// corpus holds Kubeflow's releases; it is not part of the repository.
const corpus = "../../../shared/corpus"

// revision is what the goldens were made without: the Service of the
// predictor's revision, which the VirtualServices lead to.
const revision = `apiVersion: v1
kind: Service
metadata: {name: isvc-sklearn-predictor-00001, namespace: kubeflow-user-example-com}
spec: {selector: {app: isvc-sklearn-predictor-00001}, ports: [{name: http2, port: 80, targetPort: 8012}]}
`

// release is a release with the goldens that Istio itself made of it, so that no
// translator is needed, and a model; with sidecars the profile's namespace has
// injection and the policy that Kubeflow 1.8 writes.
func release(t *testing.T, name string, sidecars bool, change ...func(*world.World)) *explain.System {
	t.Helper()
	if _, err := os.Stat(filepath.Join(corpus, name)); err != nil {
		t.Skipf("no corpus of real objects here: %v", err)
	}
	files := []string{filepath.Join(corpus, name), "-"}
	for _, d := range []string{"isvc-runtime", "knative-vs-external", "kserve-vs-external"} {
		files = append(files, filepath.Join(corpus, "derived", d+".yaml"))
	}
	if sidecars {
		files = append(files, filepath.Join(corpus, "derived", "profile-ns-ge-1.8.yaml"))
	}
	set, err := manifest.Files(files, strings.NewReader(revision))
	if err != nil {
		t.Fatal(err)
	}
	w, err := world.Read(set, world.Options{})
	if err != nil {
		t.Fatal(err)
	}
	workloads, err := w.Topology.GatewayWorkloads()
	if err != nil {
		t.Fatal(err)
	}
	for _, wl := range workloads {
		w.Gateways = append(w.Gateways, golden(t, name, wl))
	}
	for _, c := range change {
		c(w)
	}
	s, err := explain.New(w)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPlaceholderKeys: an answer that depends on keys that are not known here
// says so, and no other does. The goldens hold Istio's placeholder.
func TestPlaceholderKeys(t *testing.T) {
	const issuer, text = "http://dex.auth.svc.cluster.local:5556/dex", "the keys of the issuer are not known"
	s := release(t, "v1.9.1", false, func(w *world.World) { w.Placeholders = map[string]string{issuer: text} })
	token := func(iss, exp string) [2]string {
		part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
		return [2]string{"authorization", "Bearer " + part(`{"alg":"RS256","kid":"k"}`) + "." + part(`{"iss":"`+iss+`","sub":"a","exp":`+exp+`}`) + "." + part("signature")}
	}
	for _, tt := range []struct {
		name    string
		headers [][2]string
		authz   *explain.Authz
		status  int
		warned  bool
	}{
		{"a token of the issuer", [][2]string{token(issuer, "4000000000")}, nil, 401, true},
		{"one that is expired whoever signed it", [][2]string{token(issuer, "1000000000")}, nil, 401, false},
		{"one of another issuer", [][2]string{token("http://other", "4000000000")}, nil, 401, false},
		{"none", nil, &explain.Authz{Status: 200}, 403, false},
	} {
		a := ask(t, s, explain.Call{URL: "http://localhost/pipeline", Headers: tt.headers, Authz: tt.authz})
		if warned := slices.Contains(a.Warnings, text); a.Status != tt.status || warned != tt.warned {
			t.Errorf("%s: got %d, warnings %q, want %d, warned: %v; why: %q", tt.name, a.Status, a.Warnings, tt.status, tt.warned, a.Why)
		}
	}
}

func golden(t *testing.T, release string, wl *topology.Workload) *world.Gateway {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(corpus, release, "translated", "istio-*-"+strings.TrimPrefix(wl.Name, "istio-")+".json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s: got %d goldens (%v), want 1", wl, len(files), err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Listeners, Routes []json.RawMessage
		Clusters          []string
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	g := &world.Gateway{Workload: wl}
	if g.Resources, err = envoy.ParseResources(file.Listeners, file.Routes, nil); err != nil {
		t.Fatal(err)
	}
	g.Resources.RewriteHosts()
	for _, name := range append(file.Clusters, "outbound|80||isvc-sklearn-predictor-00001.kubeflow-user-example-com.svc.cluster.local") {
		g.Resources.Clusters = append(g.Resources.Clusters, &clusterv3.Cluster{Name: name})
	}
	if g.Proxy, err = envoy.Compile(g.Resources); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestWhoGetsThrough is the gateway's part of the table of that name in
// README.md. The goldens hold no sidecars: there
// the walk is unknown, with the headers that the sidecar would judge by. e2e/explain
// has the whole table, sidecars included.
func TestWhoGetsThrough(t *testing.T) {
	const owner = "user@example.com"
	outside := explain.Call{URL: "http://localhost/v1/models/isvc-sklearn:predict", Headers: host("isvc-sklearn.kubeflow-user-example-com.example.com")}
	inside := explain.Call{From: "sa:knative-serving/activator", URL: "http://isvc-sklearn-predictor.kubeflow-user-example-com.svc.cluster.local/v1/models/isvc-sklearn:predict", Door: "8081"}
	with := func(c explain.Call, session string, headers ...[2]string) explain.Call {
		c.Session = session
		c.Headers = append(append([][2]string{}, c.Headers...), headers...)
		return c
	}
	forged := [2]string{"kubeflow-userid", owner}
	inside.From = "" // a pod without a sidecar, of which the corpus has none: any address
	calls := map[string]explain.Call{
		"outside, session": with(outside, owner), "outside, nothing": outside, "outside, forged": with(outside, "", forged),
		"in-cluster, nothing": inside, "in-cluster, forged": with(inside, "", forged),
	}
	const sidecar, login = "sidecar", "login" // past the gateways to the sidecar; sent to log in
	for _, tt := range []struct {
		release string
		want    map[string][2]string // outcome and the kubeflow-userid that arrives
	}{
		{"v1.8.1-shared", map[string][2]string{
			"outside, session": {sidecar, owner}, "outside, nothing": {login}, "outside, forged": {login},
			"in-cluster, nothing": {login}, "in-cluster, forged": {login}}},
		{"v1.8.1-shared-blogfix", map[string][2]string{
			"outside, session": {sidecar, ""}, "outside, nothing": {sidecar, ""}, "outside, forged": {sidecar, owner},
			"in-cluster, nothing": {sidecar, ""}, "in-cluster, forged": {sidecar, owner}}},
		{"v1.6.1", map[string][2]string{ // separate
			"outside, session": {sidecar, owner}, "outside, nothing": {login}, "outside, forged": {login},
			"in-cluster, nothing": {sidecar, ""}, "in-cluster, forged": {sidecar, owner}}},
	} {
		t.Run(tt.release, func(t *testing.T) {
			judged, open := release(t, tt.release, true), release(t, tt.release, false)
			for name, call := range calls {
				a := ask(t, judged, call)
				got := [2]string{string(a.Outcome)}
				for _, h := range a.Headers {
					if h[0] == "kubeflow-userid" {
						got[1] = h[1]
					}
				}
				switch {
				case a.Outcome == explain.Redirected:
					got[0] = login
				case a.Outcome == explain.Unknown && strings.Contains(strings.Join(a.Why, ""), "its sidecar lets it in is not known"):
					got[0] = sidecar
				}
				if want := tt.want[name]; got != want {
					t.Errorf("%s: got %q, want %q; why: %q", name, got, want, a.Why)
				}
				// The last line of the table: with the sidecar off, who passes the gateway is through.
				if got, want := ask(t, open, call).Outcome == explain.Forwarded, tt.want[name][0] == sidecar; got != want {
					t.Errorf("%s, no sidecar: got through: %v, want %v", name, got, want)
				}
			}
		})
	}
}

// TestOwnIstio: what their own Istio made of Kubeflow 1.4, 1.6 and 1.8 (1.9.6, 1.14.1,
// 1.17.5) asks everybody to log in; e2e/explain has the same objects under the newest.
func TestOwnIstio(t *testing.T) {
	for _, name := range []string{"v1.4.0-shared", "v1.6.1", "v1.8.1-shared"} {
		a := ask(t, release(t, name, false), explain.Call{URL: "http://localhost/pipeline"})
		if a.Outcome != explain.Redirected || a.By == nil || a.By.Kind != "EnvoyFilter" || a.By.Name != "authn-filter" {
			t.Errorf("%s: got %s by %s, want the login of authn-filter; why: %q", name, a.Outcome, a.By, a.Why)
		}
	}
}

// TestOldLines holds what the goldens of lines without a translator do otherwise
// (translator/README.md, "How lines differ", C and E).
func TestOldLines(t *testing.T) {
	const name = "isvc-sklearn-predictor.kubeflow-user-example-com.svc.cluster.local"
	for _, tt := range []struct {
		release, host string
		found         bool
	}{
		// C: up to 1.14 a virtual host has domains X and X:*, later ports are ignored. Only the
		// empty port tells them apart.
		{"v1.6.1", name + ":8080", true}, {"v1.8.1-shared", name + ":8080", true},
		{"v1.6.1", name + ":abc", true}, {"v1.8.1-shared", name + ":abc", true},
		{"v1.6.1", name + ":65536", true}, {"v1.8.1-shared", name + ":65536", true},
		{"v1.6.1", name + ":", false}, {"v1.8.1-shared", name + ":", true},
	} {
		a := ask(t, release(t, tt.release, false), explain.Call{URL: "http://localhost/v1/models/m", Door: "8081", Headers: host(tt.host), Authz: &explain.Authz{Status: 200}})
		if found := a.Outcome == explain.Forwarded; found != tt.found || !found && a.Status != 404 {
			t.Errorf("%s, host %s: got %s %d, want a route: %v; why: %q", tt.release, tt.host, a.Outcome, a.Status, tt.found, a.Why)
		}
	}
	// E: up to 1.9 the Host of the second hop is a header to add, not a rewrite. It comes to the same.
	a := ask(t, release(t, "v1.4.0-shared", false), explain.Call{URL: "http://localhost/v1/models/m", Headers: host("isvc-sklearn.kubeflow-user-example-com.example.com"), Authz: &explain.Authz{Status: 200}})
	if a.Outcome != explain.Forwarded || a.Host != name {
		t.Errorf("got %s with host %s, want %s; why: %q", a.Outcome, a.Host, name, a.Why)
	}
}
