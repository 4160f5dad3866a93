package main

import (
	"context"
	"regexp"
)

// variant is one way of asking.
type variant struct {
	Name    string
	Windows []window
	from    string              // the address it calls from
	port    int                 // its listener of Envoy
	asks    *process            // nil: nobody
	filter  func(string) object // Envoy's filter, for a cluster's name; nil: none
	byHTTP  bool
	shows   shows
	browser bool // whether a request has a browser's headers besides
	page    bool // whether it is for a page of Kubeflow's

	requests [][]byte
	next     int64 // which of the requests comes next
}

// shows is what a variant's requests carry.
type shows int

const (
	nothing shows = iota
	oldPassport
	newPassports
	apiKey
	token
	newTokens
	session
	newSessions
)

// Names that others are compared with.
const (
	noneName = "no authorizer"
	noopName = "no-op, grpc-go"
)

// list starts the programs and lists the variants. doors are the ports of Envoy's
// listeners, one for each.
func (b *bench) list(ctx context.Context, doors []int) error {
	noop, err := b.start("noop", nil, nil, mustSelf(), noopCommand)
	if err != nil {
		return err
	}
	loud, err := b.posternd(ctx, "posternd", "info", b.dirs(false), doors)
	if err != nil {
		return err
	}
	silent, err := b.posternd(ctx, "posternd-silent", "error", b.dirs(false), doors)
	if err != nil {
		return err
	}
	double, err := b.posternd(ctx, "posternd-double", "info", b.dirs(false), doors, "GOMAXPROCS=2")
	if err != nil {
		return err
	}
	proxy, err := b.oauth2Proxy(ctx, "oauth2-proxy", true)
	if err != nil {
		return err
	}
	quiet, err := b.oauth2Proxy(ctx, "oauth2-proxy-silent", false)
	if err != nil {
		return err
	}
	own, cached := jwtAuthn(b.credentials.jwks, false), jwtAuthn(b.credentials.jwks, true)
	pod, gateway := b.small.pod, b.small.gateway
	all := []*variant{
		{Name: noneName, from: pod, shows: token},
		{Name: noopName, from: pod, shows: token, asks: noop, filter: byGRPC},
		{Name: "posternd, pod address", from: pod, asks: loud, filter: byGRPC},
		{Name: "posternd, API key", from: pod, asks: loud, filter: byGRPC, shows: apiKey},
		{Name: "posternd, passport seen before", from: gateway, asks: loud, filter: byGRPC, shows: oldPassport},
		{Name: "posternd, passport first time", from: gateway, asks: loud, filter: byGRPC, shows: newPassports},
		{Name: "posternd, RS256 seen before", from: pod, asks: loud, filter: byGRPC, shows: token},
		{Name: "posternd, RS256 first time", from: pod, asks: loud, filter: byGRPC, shows: newTokens},
		{Name: "posternd, session seen before", from: pod, asks: loud, filter: byGRPC, shows: session},
		{Name: "posternd, session first time", from: pod, asks: loud, filter: byGRPC, shows: newSessions},
		{Name: "posternd, a page through the login", from: pod, asks: loud, filter: byGRPC, shows: session, page: true},
		{Name: "posternd, RS256 seen, log off", from: pod, asks: silent, filter: byGRPC, shows: token},
		{Name: "posternd, RS256 seen, two threads", from: pod, asks: double, filter: byGRPC, shows: token},
		{Name: "no-op, a browser's headers", from: pod, asks: noop, filter: byGRPC, shows: token, browser: true},
		{Name: "posternd, RS256 seen, a browser's headers", from: pod, asks: loud, filter: byGRPC, shows: token, browser: true},
		{Name: "the same with allowed_headers", from: pod, asks: loud, filter: byGRPCFew, shows: token, browser: true},
		{Name: "oauth2-proxy, JWT", from: pod, asks: proxy, filter: asKubeflow, byHTTP: true, shows: token},
		{Name: "oauth2-proxy, JWT, log off", from: pod, asks: quiet, filter: asKubeflow, byHTTP: true, shows: token},
		{Name: "Envoy jwt_authn", from: pod, filter: own, shows: token},
		{Name: "Envoy jwt_authn, jwt_cache_config", from: pod, filter: cached, shows: token},
	}
	if b.settings.large() {
		more, err := b.large(ctx, doors)
		if err != nil {
			return err
		}
		all = append(all, more...)
	}
	only, err := regexp.Compile(b.settings.only)
	if err != nil {
		return err
	}
	for i, v := range all {
		if v.port = doors[i]; v.Name == noneName || v.Name == noopName || only.MatchString(v.Name) {
			b.variants = append(b.variants, v)
		}
	}
	return nil
}

// large are the variants of a posternd with a large cluster's objects: each the same as one
// without, in the same rounds.
func (b *bench) large(ctx context.Context, doors []int) ([]*variant, error) {
	p, err := b.posternd(ctx, "posternd-large", "info", b.dirs(true), doors)
	if err != nil {
		return nil, err
	}
	pod, gateway := b.many.pod, b.many.gateway
	return []*variant{
		{Name: "large cluster, pod address", from: pod, asks: p, filter: byGRPC},
		{Name: "large cluster, API key", from: pod, asks: p, filter: byGRPC, shows: apiKey},
		{Name: "large cluster, passport seen before", from: gateway, asks: p, filter: byGRPC, shows: oldPassport},
		{Name: "large cluster, RS256 seen before", from: pod, asks: p, filter: byGRPC, shows: token},
		{Name: "large cluster, session seen before", from: pod, asks: p, filter: byGRPC, shows: session},
	}, nil
}

// variantCount is how many ports list needs at most.
const variantCount = 25
