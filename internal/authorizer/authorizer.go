// Package authorizer judges every request at the gateways: what is asked for
// (territory), who asks (credential), may they (access). People are judged by
// the login that is there, whose answer passes as it is. It is behind Envoy's
// ext_authz by gRPC (Check); Decide is the same without gRPC.
//
// There is one function that allows (Authorizer.allow); whatever goes wrong on
// the way there, a panic and a missing field included, refuses.
package authorizer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/passport"
	"postern.dev/postern/internal/territory"
)

// Options are what an Authorizer needs from outside. The zero value works.
type Options struct {
	// HTTPClient reaches the login by its name in the cluster. If nil, a new one.
	// Redirects are not followed whatever it says.
	HTTPClient *http.Client
	// Keys sign and check passports. If nil, new ones.
	Keys *passport.Keys
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// Log gets one line per decision and no secret. If nil, nothing is logged.
	Log *slog.Logger
	// Lines gets the same in JSON.
	Lines Lines
	// PodsKnown says when the pods were last known to be as the Snapshot has them. If
	// nil, they always are. Longer than PodsBelieved ago, no pod is recognised by its
	// address: another may hold it by now.
	PodsKnown func() time.Time
	// Trace, if set, is told of every decision, when it began and when it ended.
	Trace func(ctx context.Context, req Request, v Verdict, begin, end time.Time)
	// Observe, if set, is told of every verdict and how long it took.
	Observe func(Verdict, time.Duration)
}

// PodsBelieved is how long after they were last known to be so pods' addresses are
// believed.
const PodsBelieved = 10 * time.Second

// Snapshot is what is known of the cluster. It does not change; a new state is
// a new Snapshot.
type Snapshot struct {
	Rules *access.Rules
	Map   *territory.Map
	Pods  *credential.Pods
	// APIKeys and Accounts may be nil: then no API key is known, and of no
	// ServiceAccount whether it is there.
	APIKeys  *credential.APIKeys
	Accounts *credential.Accounts
}

// Authorizer judges requests. It is safe for use by several goroutines.
type Authorizer struct {
	cfg      Config
	doors    map[uint16]bool // by port: whether in the cluster
	login    *login
	sessions *credential.Sessions
	bearers  *credential.Sessions // the same, Authorization included; nil where the login does not see it
	tokens   *credential.Tokens
	taken    []accept // whose tokens, for refusals
	strip    stripper
	keys     *passport.Keys
	now      func() time.Time
	log      *slog.Logger
	lines    Lines
	observe  func(Verdict, time.Duration)
	podsAt   func() time.Time // Options.PodsKnown
	buffers  sync.Pool        // of lines
	trace    func(ctx context.Context, req Request, v Verdict, begin, end time.Time)
	snapshot atomic.Pointer[Snapshot]
}

// New makes an Authorizer that knows nothing of the cluster yet: until the first
// Swap it refuses all but what is people's for certain.
func New(cfg Config, opts Options) (*Authorizer, error) {
	var errs []error
	for _, p := range cfg.problems() {
		errs = append(errs, fmt.Errorf("%s: %s", p.field, p.msg))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	a := &Authorizer{cfg: cfg, doors: map[uint16]bool{}, keys: opts.Keys, now: opts.Now, log: opts.Log, lines: opts.Lines, observe: opts.Observe, trace: opts.Trace, podsAt: opts.PodsKnown}
	for _, d := range cfg.Doors {
		a.doors[d.Port] = d.InCluster
	}
	if a.now == nil {
		a.now = time.Now
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.keys == nil {
		keys, err := passport.New(rand.Reader)
		if err != nil {
			return nil, err
		}
		a.keys = keys
	}
	var err error
	if a.login, err = newLogin(cfg.Login.Delegate, opts.HTTPClient); err != nil {
		return nil, err
	}
	rules := a.login.sessionRules()
	rules.Others = cfg.Tokens.prefixes()
	a.sessions = credential.NewSessions(rules, a.login.session, a.now)
	if slices.Contains(a.login.rules.RequestHeaders, "authorization") {
		rules.Cookies, rules.Tokens = nil, []string{"authorization"}
		a.bearers = credential.NewSessions(rules, a.login.session, a.now)
	}
	opts.Now, a.taken = a.now, taken(cfg.Tokens)
	if a.tokens, err = newTokens(cfg.Tokens, opts); err != nil {
		return nil, err
	}
	a.strip = newStripper(cfg)
	return a, nil
}

// Close ends what is done in the background: fetching issuers' keys. Requests may
// still be judged.
func (a *Authorizer) Close() { a.tokens.Close() }

// Swap gives the Authorizer a new state of the cluster. A Snapshot that lacks a
// part counts as none.
func (a *Authorizer) Swap(s *Snapshot) {
	if s != nil && (s.Rules == nil || s.Map == nil || s.Pods == nil) {
		s = nil
	}
	a.snapshot.Store(s)
}

// Caches are how often the authorizer's caches knew the answer, by the cache's name.
func (a *Authorizer) Caches() map[string][]*credential.Count {
	out := map[string][]*credential.Count{"sessions": {a.sessions.Count()}, "tokens": {a.tokens.Count()}}
	mints, checks := a.keys.Counts()
	out["passports-made"], out["passports-checked"] = []*credential.Count{mints}, []*credential.Count{checks}
	if a.bearers != nil {
		out["sessions"] = append(out["sessions"], a.bearers.Count())
	}
	return out
}

// FromGateway tells whether an address is one of the gateways' own pods': who asks
// from any other must not be answered.
func (a *Authorizer) FromGateway(addr netip.Addr) bool {
	snap := a.snapshot.Load()
	return snap != nil && snap.Pods.Gateway(addr)
}

// podsFresh tells whether pods' addresses are believed now.
func (a *Authorizer) podsFresh() bool {
	return a.podsAt == nil || a.now().Sub(a.podsAt()) < PodsBelieved
}

// Keys are those that sign passports.
func (a *Authorizer) Keys() *passport.Keys { return a.keys }

// Decide judges one request. It never panics, and what it does not know refuses.
func (a *Authorizer) Decide(ctx context.Context, req Request) (v Verdict) {
	begin := a.now()
	defer func() {
		if p := recover(); p != nil {
			v = a.refuse(req, http.StatusServiceUnavailable, Internal, "internal error")
			v.cause = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		end := a.now()
		a.record(ctx, req, v, end, end.Sub(begin))
	}()
	return a.decide(ctx, req)
}

func (a *Authorizer) decide(ctx context.Context, req Request) Verdict {
	if v, bad := a.malformed(req); bad {
		return v
	}
	inCluster, known := a.doors[req.Door]
	if !known {
		return a.refuse(req, http.StatusServiceUnavailable, territory.UnknownDoor, fmt.Sprintf("no door is configured for port %d", req.Door))
	}
	if a.cfg.Routing == Metadata && req.RouteVirtualService == "" {
		return a.refuse(req, http.StatusServiceUnavailable, NoRouteMetadata, "the gateway did not say which route it chose")
	}
	snap := a.snapshot.Load()
	if snap == nil {
		if a.peopleForCertain(req) {
			return a.people(ctx, req, territory.Territory{Kind: territory.People})
		}
		return a.refuse(req, http.StatusServiceUnavailable, NotSynced, "the authorizer does not know the cluster yet, try again")
	}
	t := snap.Map.At(req.Door, req.Host, req.Path, req.Method)
	var v Verdict
	switch {
	case t.Kind == territory.Refused:
		v = a.refuse(req, http.StatusForbidden, t.Reason, "it cannot be told what this host leads to; the authorizer's log names the objects")
	case !agrees(req.RouteVirtualService, t, snap.Map):
		v = a.refuse(req, http.StatusServiceUnavailable, RouteDisagrees, "the gateway's route and the cluster's objects disagree, try again")
	case t.Kind == territory.People:
		v = a.people(ctx, req, t)
	default:
		v = a.called(ctx, req, snap, t, inCluster)
	}
	v.Territory = t
	if v.Resource.IsZero() {
		v.Resource = t.Resource
	}
	return v
}

// malformed refuses a check that lacks what every request has.
func (a *Authorizer) malformed(req Request) (Verdict, bool) {
	switch {
	case req.Method == "" || req.Host == "" || req.Path == "" || !req.Source.IsValid():
		return a.refuse(req, http.StatusServiceUnavailable, MalformedCheck, "the check lacks the method, the host, the path or the caller's address"), true
	case req.Method == http.MethodConnect: // an HTTP/2 websocket is a GET with Upgrade by now
		return a.refuse(req, http.StatusBadRequest, Unrepresentable, "CONNECT is not served here"), true
	case req.Path[0] != '/' && req.Path != "*":
		return a.refuse(req, http.StatusBadRequest, Unrepresentable, "want a path"), true
	case a.strip.nominated(req.Headers["connection"]):
		return a.refuse(req, http.StatusBadRequest, Unrepresentable, "Connection may not name a header that says who calls"), true
	}
	return Verdict{}, false
}

// agrees tells whether the route that Envoy chose is one that the territory is
// made of. A people's route need not be known: a new object of Kubeflow's must
// not wait for us, and the login judges it either way. But it must not be one of
// a model or an application.
func agrees(config string, t territory.Territory, m *territory.Map) bool {
	if config == "" {
		return true // routing: derived
	}
	vs, ok := territory.Route(config)
	switch {
	case !ok:
		return false
	case slices.Contains(t.VirtualServices, vs):
		return true
	}
	return t.Kind == territory.People && !m.Owned(vs)
}

// peopleForCertain tells, knowing no object of the cluster, whether a request is
// people's: Envoy chose a VirtualService of a namespace of Kubeflow's, or without
// that knowledge, the host is Kubeflow's.
func (a *Authorizer) peopleForCertain(req Request) bool {
	if req.RouteVirtualService != "" {
		vs, ok := territory.Route(req.RouteVirtualService)
		return ok && slices.ContainsFunc(a.cfg.Kubeflow.Namespaces, func(ns string) bool { return len(vs) > len(ns) && vs[:len(ns)+1] == ns+"/" })
	}
	return slices.Contains(a.cfg.Kubeflow.Hosts, territory.HostOf(req.Host))
}
