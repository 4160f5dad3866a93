package envoy

import (
	"fmt"
	"strings"

	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	statsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// filter is one HTTP filter on the way of a request. A nil Outcome passes the
// request on.
type filter interface {
	decode(s *stream) *Outcome
}

// named is a filter with the name the configuration gives it: per-route
// configuration is looked up by that name and by nothing else.
type named struct {
	name string
	filter
}

// compileFilter turns one HTTP filter into the engine's: nil for one that changes no
// answer. A filter that is not modelled becomes one that answers unknown with its name.
func compileFilter(f *hcmv3.HttpFilter, clusters map[string]bool) (filter, error) {
	if extra := fieldsBut(f, "name", "typed_config", "disabled", "is_optional"); len(extra) > 0 {
		return notModelled{"filter " + f.Name + ": " + strings.Join(extra, ", ")}, nil
	}
	if f.GetTypedConfig().GetTypeUrl() == "" { // for which nobody has a filter
		if f.IsOptional {
			return nil, nil
		}
		return nil, fmt.Errorf("filter %s: no typed_config", f.Name)
	}
	msg, err := unpack(f.GetTypedConfig())
	if err != nil {
		return nil, fmt.Errorf("filter %s: %w", f.Name, err)
	}
	if inert(f.GetTypedConfig(), msg) || typeName(f.GetTypedConfig(), msg) == httpAuthnType && istioAuthnPasses(msg) {
		return nil, nil
	}
	switch c := msg.(type) {
	case *statsv3.FilterConfig:
		return nil, nil
	case *routerv3.Router:
		return router{clusters: clusters, unmodelled: fieldsBut(c, "dynamic_stats", "start_child_span", "upstream_log")}, nil
	case *extauthzv3.ExtAuthz:
		return compileExtAuthz(f.Name, c)
	case *rbacv3.RBAC:
		return compileRBAC(f.Name, c)
	case *jwtv3.JwtAuthentication:
		return compileJWT(f.Name, c)
	case *luav3.Lua:
		return compileLua(f.Name, c), nil
	case *corsv3.Cors:
		return cors{f.Name}, nil
	case *faultv3.HTTPFault:
		config, err := compileFault(c)
		if err != nil {
			return nil, fmt.Errorf("filter %s: %w", f.Name, err)
		}
		return fault{f.Name, config}, nil
	case *mutationv3.HeaderMutation:
		return compileHeaderMutation(f.Name, c)
	}
	return notModelled{"filter " + f.Name + " (" + typeName(f.GetTypedConfig(), msg) + ")"}, nil
}

// typeName is the configuration's type, also when it came as a TypedStruct.
func typeName(a *anypb.Any, m proto.Message) string {
	if t, ok := m.(interface{ GetTypeUrl() string }); ok {
		return strings.TrimPrefix(t.GetTypeUrl(), "type.googleapis.com/")
	}
	return strings.TrimPrefix(a.GetTypeUrl(), "type.googleapis.com/")
}

// notModelled answers unknown.
type notModelled struct{ what string }

// modelled tells whether the engine knows what a filter does.
func modelled(f filter) bool {
	_, not := f.(notModelled)
	return !not
}

func (f notModelled) decode(*stream) *Outcome { return unknown(f.what) }

// luaHost is the script Kubeflow puts before the router since 1.3
// (common/istio-*/istio-install/base/x-forwarded-host.yaml).
const luaHost = `function envoy_on_request(request_handle)
  local host = request_handle:headers():get(":authority")
  request_handle:headers():add("x-forwarded-host", host)
end
`

// forwardedHost is the Lua filter with that script. Changing a header from Lua
// clears the cached route (Envoy's Lua filter, HeaderMapWrapper).
type forwardedHost struct{ name string }

// KnownLua tells whether a script is the one that the engine follows.
func KnownLua(code string) bool { return strings.TrimSpace(code) == strings.TrimSpace(luaHost) }

func compileLua(name string, c *luav3.Lua) filter {
	code := c.GetDefaultSourceCode().GetInlineString()
	if code == "" {
		code = c.GetInlineCode() //nolint:staticcheck // what Kubeflow ships
	}
	if extra := fieldsBut(c, "inline_code", "default_source_code"); len(extra) > 0 {
		return notModelled{strings.Join(extra, ", ")}
	}
	if !KnownLua(code) {
		return notModelled{"script of Lua filter " + name}
	}
	return forwardedHost{name}
}

func (f forwardedHost) decode(s *stream) *Outcome {
	if !s.choose() {
		return unknown(s.unknown)
	}
	switch s.perRoute(f.name).(type) {
	case nil, ownScript:
	case scriptless:
		return nil
	default:
		return unknown("route configuration of filter " + f.name)
	}
	s.headers.Add("x-forwarded-host", s.authority)
	s.reach("header added")
	if s.trace != nil {
		s.trace.add(Step{Stage: f.name, Text: "adds x-forwarded-host: " + s.authority + " and clears the chosen route"})
	}
	s.clearRoute()
	return nil
}
