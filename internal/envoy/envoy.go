// Package envoy is Postern's engine: it compiles the listeners and routes that
// Istio makes for a proxy into an immutable Proxy and says what Envoy does with
// a request. The gateway of `postern up` executes that answer, `explain` shows
// its steps. The package is pure: no clock, no network, no logger.
//
// Exactness is the point. Every field of the configuration is either modelled,
// or listed as having no influence on the answer, or makes the answer unknown
// with the field's name; nothing is skipped silently. Where a rule is not
// written in Envoy's documentation, a test beside a real Envoy holds it
// (e2e/conformance).
package envoy

import (
	"net/netip"
	"strings"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// Request is what arrives on a connection of a listener. Path holds the query.
type Request struct {
	Source      netip.AddrPort // the TCP peer
	Destination netip.AddrPort // the local address; its port chooses the listener
	Protocol    string         // "HTTP/1.0", "HTTP/1.1" or "HTTP/2"
	Scheme      string         // HTTP/2's :scheme
	Method      string
	Authority   string
	Path        string
	Headers     Headers // lower-case names, all that came but for pseudo headers and Host
	TLS         *TLS    // nil: plaintext
}

// Kind says what becomes of a request. The zero value is Unknown: an answer
// nobody worked out is not an answer.
type Kind int

const (
	// Unknown: something in the way is not modelled; Outcome.Reason names it.
	Unknown Kind = iota
	// Local: Envoy answers by itself.
	Local
	// Forward: Envoy sends the request to a cluster.
	Forward
	// Closed: Envoy ends the connection without an answer. Only a sidecar does.
	Closed
)

func (k Kind) String() string { return [...]string{"unknown", "local", "forward", "closed"}[k] }

// Outcome is what Envoy does with a request.
type Outcome struct {
	Kind   Kind
	Reason string // Unknown: what is not modelled. Local and Closed: Envoy's details.

	// Local reply. No status: an HTTP/2 stream is reset without an answer.
	Status  int
	Headers Headers
	Body    string

	// Forward.
	Cluster string
	Mirrors []string // clusters that get a copy, with "-shadow" behind the host
	Request Upstream
	Timeout time.Duration // of the route; zero is none
	Upgrade string        // the upgrade the route allows and the request asks for, such as "websocket"
	// Response is applied to the upstream's answer.
	Response ResponseChange

	// Shares are those of a route that leads to several clusters: Env.Random chose
	// among them, and another choice may be another answer.
	Shares []Share
	// Route is the one in force at the end, nil when none matched.
	Route *RouteInfo
}

// Upstream is the request as the upstream gets it.
type Upstream struct {
	Method, Authority, Path string
	Headers                 Headers
}

// RouteInfo names a route.
type RouteInfo struct {
	VirtualHost string
	Name        string
	// Config is metadata istio.config: the path of the VirtualService, such as
	// "/apis/networking.istio.io/v1alpha3/namespaces/auth/virtual-service/dex".
	Config string
}

// Object is the route's VirtualService as "VirtualService namespace/name", or
// "" for a route that no VirtualService made.
func (r *RouteInfo) Object() string {
	if r == nil {
		return ""
	}
	_, rest, ok := strings.Cut(r.Config, "/namespaces/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 || parts[1] != "virtual-service" {
		return ""
	}
	return "VirtualService " + parts[0] + "/" + parts[2]
}

// Check is what an ext_authz filter asks of its authorizer: exactly one of HTTP
// and GRPC is set. It is to be read only: checks share what they have in common.
type Check struct {
	Cluster string
	Timeout time.Duration
	HTTP    *Upstream
	GRPC    *authv3.CheckRequest
}

// Answer is what came back: for an HTTP service Status, Headers and Body, for a
// gRPC one GRPC. Err is a failed call, a time-out included.
type Answer struct {
	Status  int
	Headers Headers
	Body    string
	GRPC    *authv3.CheckResponse
	Err     error
}

// Env is what evaluation needs from outside.
type Env struct {
	// Authorize asks an authorizer. If nil, a request that needs one is Unknown.
	Authorize func(Check) Answer
	// Keys fetches a provider's remote key set. If nil, a request whose token needs
	// one is Unknown.
	Keys func(KeySource) (jwks string, err error)
	// RequestID is the x-request-id Envoy makes up for this request.
	RequestID string
	// Random decides among weighted clusters.
	Random uint64
	// Now is the time of the request.
	Now time.Time
}

// Step is one thing that happened on the way, for a reader.
type Step struct {
	Stage  string // "connection", "route", or the filter's name
	Text   string
	Object string // the object that caused it, when known
	Rule   string // the rule inside the object, when known
	Issuer string // whose keys a token was held against, in jwt_authn
}

// Trace collects the steps of an evaluation. A nil *Trace collects nothing.
type Trace struct {
	Steps  []Step
	Points []Point
}

func (t *Trace) add(s Step) {
	if t != nil {
		t.Steps = append(t.Steps, s)
	}
}
