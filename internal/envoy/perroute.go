package envoy

import (
	"errors"
	"fmt"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// perFilter is one level's typed_per_filter_config: compiled configuration by the
// filter's name.
type perFilter map[string]any

// disabled is a filter switched off by a route, a virtual host or the route
// configuration (FilterConfig.disabled), enabled one that is switched on and gets no
// configuration there. Any configuration switches its filter on too
// (source/common/router/per_filter_config.cc).
type (
	disabled struct{}
	enabled  struct{}
)

// scriptless is a Lua filter without a script for the route, ownScript one with the
// listener's.
type (
	scriptless struct{}
	ownScript  struct{}
)

// foreign is per-route configuration that is not modelled.
type foreign struct{ what string }

func compilePerFilter(in map[string]*anypb.Any) (perFilter, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := perFilter{}
	for name, a := range in {
		c, err := compileSwitch(a)
		if err != nil {
			return nil, fmt.Errorf("configuration of filter %s: %w", name, err)
		}
		out[name] = c
	}
	return out, nil
}

// compileSwitch reads a FilterConfig, or configuration as it is.
func compileSwitch(a *anypb.Any) (any, error) {
	msg, err := unpack(a)
	if err != nil {
		return nil, err
	}
	switch c, is := msg.(*routev3.FilterConfig); {
	case !is:
		return compilePerRoute(a)
	case c.Disabled:
		return disabled{}, nil
	case c.Config == nil:
		return nil, errors.New("neither disabled nor any config")
	case c.Config.TypeUrl == "":
		return enabled{}, nil
	default:
		return compilePerRoute(c.Config)
	}
}

func compilePerRoute(a *anypb.Any) (any, error) {
	msg, err := unpack(a)
	if err != nil {
		return nil, err
	}
	switch c := msg.(type) {
	case *corsv3.CorsPolicy:
		return compileCors(c)
	case *faultv3.HTTPFault:
		return compileFault(c)
	case *mutationv3.HeaderMutationPerRoute:
		return compileMutations(c.GetMutations())
	case *extauthzv3.ExtAuthzPerRoute:
		return c, nil
	case *luav3.LuaPerRoute:
		switch {
		case c.GetDisabled():
			return scriptless{}, nil
		case len(fieldsBut(c)) == 0:
			return ownScript{}, nil
		}
	case *jwtv3.PerRouteConfig:
		return c, nil
	case *rbacv3.RBACPerRoute:
		if c.Rbac == nil {
			return (*rbacFilter)(nil), nil
		}
		return compileRBAC("", c.Rbac)
	}
	return foreign{"route configuration " + typeName(a, msg)}, nil
}

// each yields the levels of the route in force, the most specific first: the
// weighted cluster, the route, the virtual host, the route configuration.
func (s *stream) each(yield func(perFilter) bool) {
	if s.route == nil || s.branch != nil && !yield(s.branch.perFilter) {
		return
	}
	_ = yield(s.route.perFilter) && yield(s.route.host.perFilter) && yield(s.routes.perFilter)
}

// object is what made the route in force, "" without a route.
func (s *stream) object() string {
	if s.route == nil {
		return ""
	}
	return s.route.info.Object()
}

// config is what one level has for a filter, beside switching it on or off.
func (p perFilter) config(filter string) any {
	if c := p[filter]; c != (disabled{}) && c != (enabled{}) {
		return c
	}
	return nil
}

// perRoute is the most specific configuration that the route in force has for a
// filter.
func (s *stream) perRoute(filter string) any {
	for level := range s.each {
		if c := level.config(filter); c != nil {
			return c
		}
	}
	return nil
}

// switchedOff is whether a filter is left out of the chain: the most specific level
// that speaks of it says so, else the filter itself. The route that was chosen first
// decides, when the chain is made, whatever is chosen later
// (source/common/http/filter_chain_helper.cc).
func (s *stream) switchedOff(filter string, itself bool) bool {
	for level := range s.each {
		if c := level[filter]; c != nil {
			return c == (disabled{})
		}
	}
	return itself
}

// anySwitch is whether some level switches a filter off.
func (t *routeTable) anySwitch() bool {
	if t.perFilter.switches() {
		return true
	}
	for _, vh := range t.hosts() {
		if vh.perFilter.switches() {
			return true
		}
		for _, r := range vh.routes {
			if r.perFilter.switches() || r.action != nil && slices.ContainsFunc(r.action.clusters, func(b branch) bool { return b.perFilter.switches() }) {
				return true
			}
		}
	}
	return false
}

func (p perFilter) switches() bool {
	for _, c := range p {
		if c == (disabled{}) {
			return true
		}
	}
	return false
}
