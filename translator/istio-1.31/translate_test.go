package main

import (
	"encoding/json"
	"reflect"
	"testing"

	"istio.io/istio/pilot/pkg/model"
	"sigs.k8s.io/yaml"

	"postern.dev/postern/translator/contract/contracttest"
)

func TestContract(t *testing.T) { contracttest.Suite(t, line, yaml.YAMLToJSON) }

// TestFilters holds the facts of reference/TRANSLATOR.md about this line. There are no goldens of it.
func TestFilters(t *testing.T) {
	for _, tt := range []struct {
		name, release string
		want          []string
	}{
		// The EnvoyFilters use deprecated filter names, which no longer match: neither ext_authz nor Lua, no login at all.
		{"login is gone", "v1.8.1-shared", []string{"rbac"}},
		// The login is an AuthorizationPolicy and stays; Lua is gone.
		{"only Lua is gone", "v1.8.1-shared-blogfix", []string{"rbac", "ext_authz", "rbac"}},
		// CUSTOM is rbac (shadow) and ext_authz; then jwt_authn, DENY and ALLOW, as in the goldens of 1.28.
		{"the release made for it", "26.03", []string{"rbac", "ext_authz", "jwt_authn", "rbac", "rbac"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objects := withKeys(t, contracttest.Release(t, yaml.YAMLToJSON, tt.release))
			out := contracttest.Translate(t, line, objects, contracttest.IngressGateway())
			got := deciding(contracttest.Filters(t, out.Proxies[0], 8080))
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got filters %q, want %q", got, tt.want)
			}
		})
	}
}

// TestWithoutKeys: 26.03's RequestAuthentication names no keys and is left out, said so.
func TestWithoutKeys(t *testing.T) {
	out := contracttest.Translate(t, line, contracttest.Release(t, yaml.YAMLToJSON, "26.03"), contracttest.IngressGateway())
	got := deciding(contracttest.Filters(t, out.Proxies[0], 8080))
	if want := []string{"rbac", "ext_authz", "rbac", "rbac"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got filters %q, want %q", got, want)
	}
	found := false
	for _, r := range out.Rejected {
		found = found || r.Kind == "RequestAuthentication" && r.Name == "dex-jwt"
	}
	if !found {
		t.Errorf("got rejected %+v, want RequestAuthentication dex-jwt among them", out.Rejected)
	}
}

// withKeys puts keys nobody can sign with into every rule that has none.
func withKeys(t *testing.T, objects []json.RawMessage) []json.RawMessage {
	var out []json.RawMessage
	for _, raw := range objects {
		var o map[string]any
		if err := json.Unmarshal(raw, &o); err != nil {
			t.Fatal(err)
		}
		if o["kind"] == "RequestAuthentication" {
			for _, rule := range o["spec"].(map[string]any)["jwtRules"].([]any) {
				rule.(map[string]any)["jwks"] = model.PublicOnlyJwks
			}
			var err error
			if raw, err = json.Marshal(o); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, raw)
	}
	return out
}

// deciding keeps the filters that decide, by their short names.
func deciding(filters []string) []string {
	short := map[string]string{
		"envoy.filters.http.ext_authz": "ext_authz",
		"envoy.filters.http.jwt_authn": "jwt_authn",
		"envoy.filters.http.rbac":      "rbac",
		"envoy.filters.http.lua":       "lua",
	}
	var out []string
	for _, f := range filters {
		if s, ok := short[f]; ok {
			out = append(out, s)
		}
	}
	return out
}
