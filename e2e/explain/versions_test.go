//go:build e2e

package explain

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/internal/explain"
)

func sorted(list []string) []string { slices.Sort(list); return list }

// TestLoginIsGone: the objects of Kubeflow 1.4 to 1.8 under the last Istio line in
// which deprecated filter names match, and under the newest. Up to
// 1.18 everybody is asked to log in; from 1.19 on the EnvoyFilters of 1.6 and 1.8
// match nothing, and explain says that login is gone and which name no longer
// matches. That of 1.4 goes on: its `listener:` stands beside `match:`, which
// Istio reads as a match of every listener of a gateway; only its Lua filter is lost.
func TestLoginIsGone(t *testing.T) {
	for _, tt := range []struct {
		release, istio string
		redirect       bool
		gone, noLua    bool // what the answer and the findings say
	}{
		{"v1.4.0-shared", "1.17", true, false, false},
		{"v1.4.0-shared", "newest", true, false, true},
		{"v1.6.1", "1.17", true, false, false},
		{"v1.6.1", "newest", false, true, true},
		{"v1.8.1-shared", "1.17", true, false, false},
		{"v1.8.1-shared", "newest", false, true, true},
		{"v1.8.1-shared-blogfix", "newest", true, false, true}, // login by an AuthorizationPolicy does not depend on names
	} {
		t.Run(tt.release+" "+tt.istio, func(t *testing.T) {
			s := release(t, tt.release, "", tt.istio, "")
			a, err := s.Explain(context.Background(), explain.Call{URL: "http://localhost:8080/pipeline"})
			if err != nil {
				t.Fatal(err)
			}
			said := func(lines []string, what string) bool { return strings.Contains(strings.Join(lines, "\n"), what) }
			gone := said(a.Why, `login is gone: `+filepath.Join(directory(tt.release), "envoyfilters.yaml")+`:4: EnvoyFilter istio-system/authn-filter: spec.configPatches[0] is to insert filter "envoy.filters.http.ext_authz" and is not in force: its match names "envoy.http_connection_manager"`)
			noLua := said(s.Findings(), `is to insert filter "envoy.filters.http.lua" and is not in force`) || said(s.Findings(), `is to insert filter "envoy.lua" and is not in force`)
			if redirect := a.Outcome == explain.Redirected; redirect != tt.redirect || gone != tt.gone || noLua != tt.noLua {
				t.Errorf("got %s (login is gone: %v, no Lua: %v), want a redirect: %v, gone: %v, no Lua: %v; why: %q\nfindings: %q", a.Outcome, gone, noLua, tt.redirect, tt.gone, tt.noLua, a.Why, s.Findings())
			}
		})
	}
}

// TestTwoProviders: with a second CUSTOM provider beside the login Istio 1.17 denies
// everything, and from 1.22 on only what the rules of the two match
// (pilot/pkg/security/authz/builder; CompareFacts in translator/contract/contracttest).
func TestTwoProviders(t *testing.T) {
	const second = `---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: second, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  action: CUSTOM
  provider: {name: nobody-knows-it}
  rules: [{to: [{operation: {paths: [/v1/second]}}]}]
`
	for _, tt := range []struct {
		istio, path string
		denied      bool
	}{
		{"1.17", "/pipeline", true}, {"1.17", "/v1/other", true},
		{"newest", "/pipeline", true}, {"newest", "/v1/second", true}, {"newest", "/v1/other", false},
	} {
		s := release(t, "v1.8.1-shared-blogfix", "", tt.istio, second)
		a, err := s.Explain(context.Background(), explain.Call{URL: "http://localhost:8080" + tt.path, Session: owner})
		if err != nil {
			t.Fatal(err)
		}
		denied := a.Outcome == explain.Refused && a.Status == 403
		if said := strings.Contains(strings.Join(a.Why, ""), "cannot be carried out"); denied != tt.denied || said != tt.denied {
			t.Errorf("istio %s, %s: got %s %d by %s, want denied: %v; why: %q", tt.istio, tt.path, a.Outcome, a.Status, a.By, tt.denied, a.Why)
		}
	}
}
