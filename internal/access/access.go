// Package access answers one question: may this caller do that to this
// object? The rules are Kubernetes' own RBAC objects, evaluated here with no
// call to an API server. The answers equal those of Kubernetes' RBAC authorizer
// (k8s.io/kubernetes pkg/registry/rbac/validation and
// pkg/apis/rbac/v1/evaluation_helpers.go), so `kubectl auth can-i` says the
// same, but for one thing: group system:masters has no meaning here.
//
// The package is pure: no clock, no network, no logger.
package access

import "slices"

// The verbs. Who proves something needs the plain one; a caller known by
// nothing but where it calls from (a pod's address), or not at all, needs the
// -unproven one. No ClusterRole of Kubernetes or Kubeflow aggregates the latter,
// so that the API server's escalation check keeps a profile's owner from opening
// a model to the world.
const (
	Predict         = "predict"          // an InferenceService or InferenceGraph
	Call            = "call"             // a VirtualService: an application
	PredictUnproven = "predict-unproven" // the same without proof
	CallUnproven    = "call-unproven"
)

// Kind is what sort of caller somebody is. It decides nothing in RBAC; it keeps
// identity headers that stand for people to people.
type Kind string

// The kinds of callers. The zero value is nobody.
const (
	Nobody Kind = ""       // system:anonymous
	Person Kind = "person" // a session of the login that is there, or a token whose names are the login's
	Pod    Kind = "pod"    // recognised by its address

	Key     Kind = "key"             // an API key
	Account Kind = "service-account" // a ServiceAccount's token
	Token   Kind = "token"           // a token whose names have a prefix of their own
)

// Names Kubernetes itself reserves.
const (
	AnonymousUser        = "system:anonymous"
	UnauthenticatedGroup = "system:unauthenticated"
	AuthenticatedGroup   = "system:authenticated"
	mastersGroup         = "system:masters"
)

// Caller is who asks. The zero value is a caller with no name and no rights.
type Caller struct {
	User   string
	Groups []string
	// Proven is whether the caller showed something that only it could have.
	// An address is no proof.
	Proven bool
	Kind   Kind
}

// Anonymous is the caller of whom nothing is known.
func Anonymous() Caller {
	return Caller{User: AnonymousUser, Groups: []string{UnauthenticatedGroup}}
}

// Equal compares two callers.
func (c Caller) Equal(d Caller) bool {
	return c.User == d.User && c.Proven == d.Proven && c.Kind == d.Kind && slices.Equal(c.Groups, d.Groups)
}

// Resource is one object of the Kubernetes API.
type Resource struct {
	Group     string // "serving.kserve.io"
	Resource  string // "inferenceservices", lower case and plural; "x/y" for a subresource
	Namespace string
	Name      string
}

// Model is the resource of an InferenceService.
func Model(namespace, name string) Resource {
	return Resource{Group: "serving.kserve.io", Resource: "inferenceservices", Namespace: namespace, Name: name}
}

// Graph is the resource of an InferenceGraph.
func Graph(namespace, name string) Resource {
	return Resource{Group: "serving.kserve.io", Resource: "inferencegraphs", Namespace: namespace, Name: name}
}

// Application is the resource of a VirtualService that is no model's.
func Application(namespace, name string) Resource {
	return Resource{Group: "networking.istio.io", Resource: "virtualservices", Namespace: namespace, Name: name}
}

// IsZero tells whether r names nothing.
func (r Resource) IsZero() bool { return r == Resource{} }

// String is "NAMESPACE/RESOURCE/NAME", which is also the audience of a passport.
func (r Resource) String() string { return r.Namespace + "/" + r.Resource + "/" + r.Name }

// verbs are the verbs of a resource with proof and without, empty for one that
// is neither a model nor an application.
func (r Resource) verbs() (proven, unproven string) {
	switch {
	case r.Group == "serving.kserve.io" && (r.Resource == "inferenceservices" || r.Resource == "inferencegraphs"):
		return Predict, PredictUnproven
	case r.Group == "networking.istio.io" && r.Resource == "virtualservices":
		return Call, CallUnproven
	}
	return "", ""
}

// Verb is the verb that c needs to call r; empty, which no rule grants, when r
// is nothing that can be called.
func (c Caller) Verb(r Resource) string {
	proven, unproven := r.verbs()
	if c.Proven {
		return proven
	}
	return unproven
}

// Decision is an answer and what decided it. The zero value refuses.
type Decision struct {
	Allowed bool
	Binding Ref // the RoleBinding or ClusterRoleBinding
	Role    Ref // the Role or ClusterRole it refers to
	Rule    int // which of the role's rules, counted from 0
}

// Ref names an RBAC object and where it is written.
type Ref struct {
	Kind      string
	Namespace string // empty for a cluster-wide kind
	Name      string
	Source    string // "file:line", empty when it comes from no file
}

// String is "Kind namespace/name", or "Kind name" for a cluster-wide kind.
func (r Ref) String() string {
	switch {
	case r.Kind == "":
		return ""
	case r.Namespace == "":
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}
