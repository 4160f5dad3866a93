package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	security "istio.io/api/security/v1beta1"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/world"
)

// maxKeys bounds what is read of an issuer's answer.
const maxKeys = 1 << 20

// fetchKeys does istiod's part for RequestAuthentications without inline keys: it
// fetches them (pilot/pkg/model/jwks_resolver.go) and puts them where Istio left a
// placeholder. Keys that cannot be fetched stay the placeholder, which is a note.
func (r *running) fetchKeys(ctx context.Context) error {
	keys := map[string]string{}
	for o, ra := range manifest.Of[*security.RequestAuthentication](r.world.Set) {
		for _, rule := range ra.JwtRules {
			if rule.Jwks != "" || keys[rule.Issuer] != "" || r.config.JWKS[rule.Issuer] != "" {
				continue
			}
			text, err := r.keysOf(ctx, rule)
			if err != nil {
				r.notes = append(r.notes, fmt.Sprintf("%s: the keys of issuer %s cannot be fetched, its tokens are refused as by an istiod that cannot: %v", o, rule.Issuer, err))
				continue
			}
			keys[rule.Issuer] = text
		}
	}
	if len(keys) == 0 {
		return nil
	}
	w := *r.world
	w.Gateways = nil
	for _, g := range r.world.Gateways {
		with, err := withKeys(g, keys)
		if err != nil {
			return fmt.Errorf("keys for %s: %w", g.Workload, err)
		}
		w.Gateways = append(w.Gateways, with)
	}
	r.world = &w
	return nil
}

// keysOf asks the issuer for its keys, as a pod of the mesh's root namespace.
func (r *running) keysOf(ctx context.Context, rule *security.JWTRule) (string, error) {
	var from *topology.Pod
	for _, g := range r.world.Gateways {
		from = g.Workload.Pods[0]
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return r.dialFrom(ctx, from, addr) }}}
	place := rule.JwksUri
	if place == "" {
		var found struct {
			Keys string `json:"jwks_uri"`
		}
		text, err := get(ctx, client, strings.TrimSuffix(rule.Issuer, "/")+"/.well-known/openid-configuration")
		if err == nil {
			err = json.Unmarshal(text, &found)
		}
		if err != nil {
			return "", err
		}
		place = found.Keys
	}
	text, err := get(ctx, client, place)
	return string(text), err
}

func get(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: got %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxKeys))
}

// withKeys is a gateway whose verifiers of tokens have the issuers' keys.
func withKeys(g *world.Gateway, keys map[string]string) (*world.Gateway, error) {
	out := &world.Gateway{Workload: g.Workload, Resources: g.Resources}
	out.Resources.Listeners = nil
	for _, l := range g.Resources.Listeners {
		l = proto.CloneOf(l)
		for _, chain := range l.FilterChains {
			for _, f := range chain.Filters {
				if err := keysIntoFilter(f, keys); err != nil {
					return nil, err
				}
			}
		}
		out.Resources.Listeners = append(out.Resources.Listeners, l)
	}
	var err error
	out.Proxy, err = envoy.Compile(out.Resources)
	return out, err
}

func keysIntoFilter(f *listenerv3.Filter, keys map[string]string) error {
	h := &hcmv3.HttpConnectionManager{}
	if !f.GetTypedConfig().MessageIs(h) {
		return nil
	}
	if err := f.GetTypedConfig().UnmarshalTo(h); err != nil {
		return err
	}
	for _, hf := range h.HttpFilters {
		j := &jwtv3.JwtAuthentication{}
		if !hf.GetTypedConfig().MessageIs(j) {
			continue
		}
		if err := hf.GetTypedConfig().UnmarshalTo(j); err != nil {
			return err
		}
		for _, p := range j.Providers {
			if text, ok := keys[p.Issuer]; ok {
				p.JwksSourceSpecifier = &jwtv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: text}}}
			}
		}
		packed, err := anypb.New(j)
		if err != nil {
			return err
		}
		hf.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed}
	}
	packed, err := anypb.New(h)
	if err != nil {
		return err
	}
	f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
	return nil
}
