//go:build e2e

package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/envoy/envoytest"
	"postern.dev/postern/internal/lab/realenvoy"
)

const realEnvoy = "../../.tools/envoy/bin/envoy"

// refusals compares what the engine and Envoy say of a configuration: an error on one
// side and none on the other is a difference. True: both take it.
func refusals(t *testing.T, what string, r envoy.Resources) (taken bool) {
	t.Helper()
	_, ours := envoy.Compile(r)
	theirs := realenvoy.Check(context.Background(), realenvoy.Config{Program: realEnvoy, Address: netip.MustParseAddr("127.0.0.1")}, r)
	if theirs != nil && !errors.Is(theirs, realenvoy.ErrRefused) {
		if strings.Contains(theirs.Error(), "reach beyond") {
			return false
		}
		t.Fatalf("%s: %v", what, theirs)
	}
	if ours != nil && strings.Contains(ours.Error(), "HttpFilter.Name:") {
		return false // of a filter of Istio's, which is left out for Envoy
	}
	if ours != nil && strings.Contains(ours.Error(), "route configuration \"") && strings.Contains(ours.Error(), "is missing") {
		return false // Envoy would wait for it
	}
	if theirs != nil && (strings.Contains(theirs.Error(), "Unable to parse JSON") || strings.Contains(theirs.Error(), "'envoy.retry_host_predicates.")) {
		return false // nobody could send it; Istio 1.9 writes these without a configuration, and no answer depends on them
	}
	if (ours == nil) != (theirs == nil) {
		t.Errorf("%s:\n  the engine: %v\n  Envoy: %s", what, ours, ends(fmt.Sprint(theirs)))
	}
	return ours == nil && theirs == nil
}

// ends are the beginning and the end of a long text: Envoy prints the configuration in
// between.
func ends(s string) string {
	if len(s) < 600 {
		return s
	}
	return s[:200] + " ... " + s[len(s)-350:]
}

// TestBroken breaks one field after the other of real configurations, and compares
// answers of some that are taken all the same. POSTERN_BROKEN says how many.
func TestBroken(t *testing.T) {
	n := 60
	if text := os.Getenv("POSTERN_BROKEN"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("POSTERN_BROKEN: %v", err)
		}
	}
	seed := uint64(1)
	if text := os.Getenv("POSTERN_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("POSTERN_SEED: %v", err)
		}
	}
	everything := parse(t, []json.RawMessage{json.RawMessage(envoytest.Everything)}, nil, []json.RawMessage{json.RawMessage(`{"name":"up"}`), json.RawMessage(`{"name":"other"}`)})
	all := append([]configuration{{name: "everything", resources: everything}}, configurations(t)...)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range n {
		c := all[0]
		if i%2 == 1 {
			c = pick(r, all)
		}
		broken, what := broken(t, c.resources, r)
		if what == "" {
			continue
		}
		if taken := refusals(t, c.name+" "+what, broken); taken && i%10 < 2 {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				answersOf(t, configuration{c.name + " " + what, broken, c.tokens}, byte(1+i/5%200))
			})
		}
	}
}

// answersOf compares some answers of a configuration that is broken and taken. What the
// engine cannot tell is no difference: much of what is broken is not modelled.
func answersOf(t *testing.T, c configuration, host byte) {
	p, err := start(t, c, host)
	if err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	v := read(c.resources, p.proxy.Ports())
	if len(v.ports) == 0 {
		return
	}
	conns := p.clients()
	defer conns.close()
	r := rand.New(rand.NewPCG(1, uint64(host)))
	for i := range 60 {
		q := v.generate(r, i, c.tokens)
		if diff := p.compare(conns.of(q), q, strconv.Itoa(i)); diff != "" && !strings.HasPrefix(diff, cannotTell) {
			t.Errorf("%s:\n%q\n%s", c.name, q, diff)
			return
		}
	}
}

// broken is a configuration with one change in a listener or its routes.
func broken(t *testing.T, from envoy.Resources, r *rand.Rand) (envoy.Resources, string) {
	t.Helper()
	list := func(in []proto.Message) []any {
		var out []any
		for _, m := range in {
			data, err := protojson.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			var v any
			if err := json.Unmarshal(data, &v); err != nil {
				t.Fatal(err)
			}
			out = append(out, v)
		}
		return out
	}
	messages := [2][]proto.Message{}
	for _, l := range from.Listeners {
		messages[0] = append(messages[0], l)
	}
	for _, rc := range from.Routes {
		messages[1] = append(messages[1], rc)
	}
	v := any(map[string]any{"listeners": list(messages[0]), "routes": list(messages[1])})
	what := envoytest.Break(v, r.IntN(envoytest.Places(v)), r.IntN(envoytest.Ways))
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var raw struct{ Listeners, Routes []json.RawMessage }
	if err := json.Unmarshal(data, &raw); err != nil {
		return from, "" // one of the two lists is no list any more
	}
	out, err := envoy.ParseResources(raw.Listeners, raw.Routes, nil)
	if err != nil {
		return from, "" // no protobuf JSON: nobody could send it
	}
	for _, ours := range []string{"].address", "].accessLog", ".rds.", ".typeUrl"} { // changed on the way to Envoy
		if strings.Contains(what, ours) {
			return from, ""
		}
	}
	if strings.Contains(what, ".listeners twice") { // for Envoy the same listener again, unless it comes from a control plane
		return from, ""
	}
	out.Clusters = from.Clusters
	return out, what
}

// TestRefused: what a review found to end the engine, each refused by Envoy, and by the
// engine with a text that says where.
func TestRefused(t *testing.T) {
	const types = `"@type":"type.googleapis.com/envoy.extensions.filters.`
	rbac := func(permission string) string {
		return `{"name":"rbac","typedConfig":{` + types + `http.rbac.v3.RBAC","rules":{"policies":{"p":{"permissions":[` + permission + `],"principals":[{"any":true}]}}}}}`
	}
	jwt := func(providers, requires string) string {
		return `{"name":"jwt","typedConfig":{` + types + `http.jwt_authn.v3.JwtAuthentication","providers":{` + providers + `},"rules":[{"match":{"prefix":"/"},"requires":` + requires + `}]}}`
	}
	route := func(fields string) string { return `{"match":{"prefix":"/"},` + fields + `}` }
	chain := func(filters string) string {
		return `{"name":"l","address":{"socketAddress":{"address":"0.0.0.0","portValue":8080}},"filterChains":[` + filters + `]}`
	}
	router := `{"name":"another","typedConfig":{` + types + `http.router.v3.Router"}}`
	for name, tt := range map[string]struct{ listener, want string }{
		"a route without match":               {listenerOf("l", "0.0.0.0", "", `{"route":{"cluster":"up"}}`), "Routes[0]: Route.Match: value is required"},
		"a match without a path":              {listenerOf("l", "0.0.0.0", "", `{"match":{},"route":{"cluster":"up"}}`), "RouteMatch.PathSpecifier"},
		"url_path without a path":             {listenerOf("l", "0.0.0.0", "", everyPath, rbac(`{"urlPath":{}}`)), "PathMatcher.Rule"},
		"sourced_metadata without a matcher":  {listenerOf("l", "0.0.0.0", "", everyPath, rbac(`{"sourcedMetadata":{}}`)), "SourcedMetadata.MetadataMatcher"},
		"a header matcher without a name":     {listenerOf("l", "0.0.0.0", "", everyPath, rbac(`{"header":{}}`)), "HeaderMatcher.Name"},
		"a permission without a rule":         {listenerOf("l", "0.0.0.0", "", everyPath, rbac(`{}`)), "Permission.Rule"},
		"a range of ports that is none":       {listenerOf("l", "0.0.0.0", "", everyPath, rbac(`{"destinationPortRange":{"start":9,"end":9}}`)), "destination_port_range"},
		"a requirement without its provider":  {listenerOf("l", "0.0.0.0", "", everyPath, jwt("", `{"providerName":"p"}`)), `requires provider "p"`},
		"and in a list of several":            {listenerOf("l", "0.0.0.0", "", everyPath, jwt("", `{"requiresAny":{"requirements":[{"allowMissing":{}},{"requiresAll":{"requirements":[{"providerName":"p"},{"providerName":"p"}]}}]}}`)), `requires provider "p"`},
		"keys of which none is one":           {listenerOf("l", "0.0.0.0", "", everyPath, jwt(`"p":{"issuer":"i","localJwks":{"inlineString":"{\"keys\":[]}"}}`, `{"providerName":"p"}`)), "local_jwks: no key"},
		"a filter without configuration":      {listenerOf("l", "0.0.0.0", "", everyPath, `{"name":"envoy.filters.http.rbac"}`), "no typed_config"},
		"a router before the end":             {listenerOf("l", "0.0.0.0", "", everyPath, router), "router must be the last"},
		"a weight that is missing":            {listenerOf("l", "0.0.0.0", "", route(`"route":{"weightedClusters":{"clusters":[{"name":"up"}]}}`)), "want a weight"},
		"a mirror to nowhere":                 {listenerOf("l", "0.0.0.0", "", route(`"route":{"cluster":"up","requestMirrorPolicies":[{}]}`)), "a mirror without a cluster"},
		"a cluster that is not there":         {strings.Replace(listenerOf("l", "0.0.0.0", "", route(`"route":{"cluster":"nowhere"}`)), `"validateClusters":false,`, "", 1), `"nowhere" is missing`},
		"a filter switched on without config": {listenerOf("l", "0.0.0.0", "", route(`"route":{"cluster":"up"},"typedPerFilterConfig":{"rbac":{"@type":"type.googleapis.com/envoy.config.route.v3.FilterConfig"}}`)), "neither disabled nor any config"},
		"an upgrade twice":                    {listenerOf("l", "0.0.0.0", `"upgradeConfigs":[{"upgradeType":"a"},{"upgradeType":"A"}],`, everyPath), "one type twice"},
		"no filter chain":                     {chain(""), "no filter chains"},
		"two that match the same":             {chain(`{"filters":[]},{"filters":[]}`), "match the same"},
		"a network filter of no type":         {chain(`{"filters":[{"name":"envoy.filters.network.http_connection_manager"}]}`), "no typed_config"},
	} {
		t.Run(name, func(t *testing.T) {
			r := small(t, tt.listener)
			refusals(t, name, r)
			if _, err := envoy.Compile(r); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the engine says %v, want a text with %q", err, tt.want)
			}
		})
	}
}
