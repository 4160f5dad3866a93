//go:build e2e

package conformance

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"postern.dev/postern/internal/envoy"
)

// flips changes what Istio made in ways that Istio itself does not write, or not with
// every version: filters that are off or bear another's name, levels of the routes that
// switch them, other actions of RBAC, few headers. It says what it did.
type flips struct {
	t     *testing.T
	r     *rand.Rand
	names []string // of filters
	said  []string
}

func flip(t *testing.T, r *rand.Rand, res envoy.Resources) string {
	t.Helper()
	f := &flips{t: t, r: r}
	for _, l := range res.Listeners {
		for _, chain := range l.FilterChains {
			for _, nf := range chain.Filters {
				h := &hcmv3.HttpConnectionManager{}
				if nf.GetTypedConfig().MessageIs(h) {
					f.change(nf.GetTypedConfig(), h, func() { f.manager(h) })
				}
			}
		}
	}
	for _, rc := range res.Routes {
		f.level("routes "+rc.Name, &rc.TypedPerFilterConfig, 4)
		for _, v := range rc.VirtualHosts {
			f.level("virtual host "+v.Name, &v.TypedPerFilterConfig, 4)
			for i, rt := range v.Routes {
				f.level(fmt.Sprintf("route %d of %s", i, v.Name), &rt.TypedPerFilterConfig, 6)
				for _, w := range rt.GetRoute().GetWeightedClusters().GetClusters() {
					f.level("cluster "+w.Name, &w.TypedPerFilterConfig, 3)
				}
			}
		}
	}
	return strings.Join(f.said, "; ")
}

func (f *flips) one(in int) bool { return f.r.IntN(in) == 0 }

// change lets a function change what an Any holds.
func (f *flips) change(a *anypb.Any, m proto.Message, by func()) {
	err := a.UnmarshalTo(m)
	if err == nil {
		by()
		err = a.MarshalFrom(m)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *flips) say(format string, args ...any) {
	f.said = append(f.said, fmt.Sprintf(format, args...))
}

func (f *flips) manager(h *hcmv3.HttpConnectionManager) {
	if f.one(4) {
		h.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{MaxHeadersCount: wrapperspb.UInt32(uint32(6 + f.r.IntN(9))),
			HeadersWithUnderscoresAction: pick(f.r, []corev3.HttpProtocolOptions_HeadersWithUnderscoresAction{corev3.HttpProtocolOptions_ALLOW, corev3.HttpProtocolOptions_DROP_HEADER, corev3.HttpProtocolOptions_REJECT_REQUEST})}
		f.say("%v", h.CommonHttpProtocolOptions)
	}
	for i, hf := range h.HttpFilters {
		if i == len(h.HttpFilters)-1 { // the router
			break
		}
		if f.one(12) {
			other := pick(f.r, []string{"istio.stats", "istio.alpn", "istio_authn", "envoy.filters.http.cors"})
			f.say("%s is called %s", hf.Name, other)
			hf.Name = other
		}
		if hf.Disabled = f.one(4); hf.Disabled {
			f.say("%s is off", hf.Name)
		}
		f.names = append(f.names, hf.Name)
		rules := &rbacv3.RBAC{}
		if !hf.GetTypedConfig().MessageIs(rules) {
			continue
		}
		f.change(hf.GetTypedConfig(), rules, func() {
			for _, set := range []*rbacconfigv3.RBAC{rules.Rules, rules.ShadowRules} {
				if set != nil && f.one(4) {
					set.Action = rbacconfigv3.RBAC_Action(f.r.IntN(3))
					f.say("%s does %s", hf.Name, set.Action)
				}
			}
		})
	}
}

// level switches filters on or off at one level of the routes, one time in so many.
func (f *flips) level(what string, at *map[string]*anypb.Any, in int) {
	if len(f.names) == 0 || !f.one(in) {
		return
	}
	for range 1 + f.r.IntN(3) {
		name := pick(f.r, f.names)
		if (*at)[name] != nil {
			continue
		}
		c := &routev3.FilterConfig{Disabled: f.one(2)}
		if !c.Disabled {
			c.Config = &anypb.Any{}
		}
		a, err := anypb.New(c)
		if err != nil {
			f.t.Fatal(err)
		}
		if *at == nil {
			*at = map[string]*anypb.Any{}
		}
		(*at)[name] = a
		f.say("%s: %s off %t", what, name, c.Disabled)
	}
}
