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

	// How the caller was recognised: by one of the words below, login where the
	// login that is there judged by itself.
	How string
	// Credential is the public id of what was shown: an API key's id, a token's jti.
	Credential string
	Caller     access.Caller
	Resource   access.Resource
	Decision   access.Decision // what in RBAC decided
	Territory  territory.Territory

	// Set and Remove change the request of an allowed call. No name is in both:
	// Envoy removes after it sets (onComplete in ext_authz.cc). Each name of Set
	// takes the place of all values the request had.
	Set    []Header
	Remove []string

	// Response changes the answer to an allowed call: each takes the place of what
	// the backend says, but for those that actionOf lets add to it.
	Response []Header

	// Status, Headers and Body are the answer to a call that is not let through.
	// Without Allow a status of 2xx is Postern's own answer.
	Status  int
	Headers []Header
	Body    []byte

	cause error // for the log
}

// How a caller was recognised.
const (
	ByPassport  = "passport"
	ByKey       = "api-key"
	ByAccount   = "service-account-token"
	ByToken     = "oidc-token"
	BySession   = "session"
	ByPod       = "pod-address"
	ByAnonymous = "anonymous"
	ByLogin     = "login"
)

// Reasons of the authorizer itself. Others come from territory, credential and
// passport.
const (
	Allowed            = "allowed"             // by RBAC
	Sibling            = "sibling"             // a pod of the model itself
	Preflight          = "preflight"           // answered, not let through
	ResourceMetadata   = "resource_metadata"   // likewise
	WrongDoor          = "wrong_door"          // an API key where people are judged
	PassportRequired   = "passport_required"   // another credential on the second hop
	LoginAllowed       = "login_allowed"       // by the login that is there
	LoginRefused       = "login_refused"       // likewise; its answer goes to the client
	LoginSkipped       = "login_skipped"       // people's, and left to the gateway's other policies
	NotAllowed         = "not_allowed"         // known, and no rule allows it
	CredentialRequired = "credential_required" // nothing shown that a rule allows
	LoginRequired      = "login_required"      // bound by nobody: behind login, and there is no session
	NotSynced          = "not_synced"
	PodsStale          = "pods_stale"
	NoRouteMetadata    = "no_route_metadata"
	RouteDisagrees     = "route_disagrees"
	MalformedCheck     = "malformed_check"
	Unrepresentable    = "unrepresentable_request"
	LoginUnavailable   = credential.LoginUnavailable
	Internal           = "internal"
)
