package authorizer

import (
	"net/netip"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/territory"
)

// Request is what is asked about, whoever asks: Envoy by gRPC, or a test.
type Request struct {
	Door    uint16     // the port of the gateway's pod at which it came in
	Source  netip.Addr // the peer of that connection, never a header
	Method  string
	Path    string // without the query, as the gateway has normalised it
	Query   string // with its "?", empty when there is none: Path+Query is what came
	Host    string // :authority
	Headers credential.Headers
	// RouteVirtualService is what Istio wrote into the chosen route's metadata
	// (filter_metadata.istio.config), empty when the check carries none.
	RouteVirtualService string
}

// Header is one header; a name may occur several times in a list.
type Header struct{ Name, Value string }

// Verdict is the answer. The zero value refuses.
type Verdict struct {
	Allow bool
	// Reason is one word for every way in which a request is allowed or refused.
	Reason string
	// Message is for the caller of a refused request; it names no secret.
	Message string

	// How the caller was recognised: session, pod-address, passport, anonymous,
	// or login where the login that is there judged by itself.
	How       string
	Caller    access.Caller
	Resource  access.Resource
	Decision  access.Decision // what in RBAC decided
	Territory territory.Territory

	// Set and Remove change the request of an allowed call. No name is in both:
	// Envoy removes after it sets (onComplete in ext_authz.cc). Each name of Set
	// takes the place of all values the request had.
	Set    []Header
	Remove []string

	// Status, Headers and Body are the answer to a refused call.
	Status  int
	Headers []Header
	Body    []byte

	cause error // for the log
}

// How a caller was recognised.
const (
	ByPassport  = "passport"
	BySession   = "session"
	ByPod       = "pod-address"
	ByAnonymous = "anonymous"
	ByLogin     = "login"
)

// Reasons of the authorizer itself. Others come from territory, credential and
// passport.
const (
	Allowed            = "allowed"             // by RBAC
	LoginAllowed       = "login_allowed"       // by the login that is there
	LoginRefused       = "login_refused"       // likewise; its answer goes to the client
	NotAllowed         = "not_allowed"         // known, and no rule allows it
	CredentialRequired = "credential_required" // nothing shown that a rule allows
	LoginRequired      = "login_required"      // bound by nobody: behind login, and there is no session
	NotSynced          = "not_synced"
	NoRouteMetadata    = "no_route_metadata"
	RouteDisagrees     = "route_disagrees"
	MalformedCheck     = "malformed_check"
	Unrepresentable    = "unrepresentable_request"
	LoginUnavailable   = credential.LoginUnavailable
	Internal           = "internal"
)
