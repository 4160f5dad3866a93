// Package explain walks one call through a cluster's manifests, or through a
// live gateway's config_dump, and says what becomes of it and which object
// decided. It adds no rule of its own: names and addresses come from package
// topology, what a gateway does from package envoy with a trace, what Postern
// answers from package authorizer.
//
// An Answer's JSON is stable; fields may be added.
//
//	outcome  "forwarded" (a backend gets the call), "refused", "redirected" or
//	         "answered" (the gateway replies with 4xx/5xx, 3xx or 2xx),
//	         "unknown" (something in the way is not modelled: why names it)
//	status   of the gateway's or a sidecar's reply; 0 where there is none, as when
//	         a backend answers or the client's connection ends
//	backend  "NAMESPACE/SERVICE:PORT" as the last gateway names it; "" when none
//	         is reached. With outcome unknown it is what is known so far.
//	host     of the request as the backend gets it, or as the last gateway saw it
//	path     likewise, with the query
//	headers  [[name, value], ...] of that request; of a gateway's reply, the
//	         reply's. A passport is shown as "(passport)".
//	by       {"kind","namespace","name","rule","file","line"} of the object that
//	         decided: of a refusal the policy, EnvoyFilter or VirtualService that
//	         refused or asked who refused; of a forwarded call the RoleBinding
//	         that allowed it, else the VirtualService of the last route. null
//	         when no object did. "derived" names the InferenceService that KServe
//	         or Knative would write the object for; file and line are its own then.
//	why      lines for a reader
//	nearest  what would change a refusal
//	assumed  what was taken for granted, such as a login's answer
//	warnings why the cluster may answer otherwise: a translation by another Istio
//	         line than its own, or keys of an issuer that are not known here and
//	         that this answer depends on. Absent when there is no such reason.
//	hops     [{"kind","name","address","text","steps"}], kind one of client, name,
//	         proxy (a gateway), sidecar, activator, pod; a step is {"stage","text","by"}
package explain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern.dev/postern/internal/world"
)

// Outcome is what becomes of a call. The zero value is no outcome.
type Outcome string

// The outcomes.
const (
	Forwarded  Outcome = "forwarded"
	Refused    Outcome = "refused"
	Redirected Outcome = "redirected"
	Answered   Outcome = "answered"
	Unknown    Outcome = "unknown"
)

// Call is what is asked about. Only URL is required.
type Call struct {
	From    string      `json:"from"`    // "outside" (default), "pod:NS/NAME", "sa:NS/NAME" or an IP address
	Door    string      `json:"door"`    // a gateway's port, or a Gateway as NS/NAME
	Method  string      `json:"method"`  // default GET
	URL     string      `json:"url"`     // http://HOST[:PORT]/PATH
	Headers [][2]string `json:"headers"` // Host changes the authority
	Session string      `json:"session"` // a logged-in person
	Authz   *Authz      `json:"authz"`   // what the authorizer answers
	// ScaledToZero: no pod of a Knative revision is up, so its calls pass the
	// activator.
	ScaledToZero bool `json:"scaledToZero"`
}

// Authz is a stated answer of an authorizer.
type Authz struct {
	Status  int         `json:"status"`
	Headers [][2]string `json:"headers"`
}

// Answer is what becomes of a call; the package comment describes its JSON.
type Answer struct {
	Outcome Outcome     `json:"outcome"`
	Status  int         `json:"status"`
	Backend string      `json:"backend"`
	Host    string      `json:"host"`
	Path    string      `json:"path"`
	Headers [][2]string `json:"headers"`
	By      *By         `json:"by"`
	Why     []string    `json:"why"`
	Nearest []string    `json:"nearest,omitempty"`
	Assumed []string    `json:"assumed,omitempty"`
	// Warnings say why the cluster may answer otherwise.
	Warnings []string `json:"warnings,omitempty"`
	Hops     []Hop    `json:"hops"`
}

// By is an object and the rule inside it that caused something.
type By struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Rule      string `json:"rule"`
	File      string `json:"file"`
	Line      int    `json:"line"`
	Derived   string `json:"derived,omitempty"`
}

// String is "Kind namespace/name rule (file:line)".
func (b *By) String() string {
	if b == nil {
		return ""
	}
	text := b.object()
	if b.Rule != "" {
		text += " " + b.Rule
	}
	switch {
	case b.File != "" && b.Derived != "":
		text += fmt.Sprintf(" (of %s, %s:%d)", b.Derived, b.File, b.Line)
	case b.File != "":
		text += fmt.Sprintf(" (%s:%d)", b.File, b.Line)
	}
	return text
}

func (b *By) object() string {
	if b.Namespace == "" {
		return b.Kind + " " + b.Name
	}
	return b.Kind + " " + b.Namespace + "/" + b.Name
}

// Hop is one station of the walk.
type Hop struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	Text    string `json:"text,omitempty"`
	Steps   []Step `json:"steps,omitempty"`
	// Shares are the destinations among which the route chooses by weight, none
	// where there is one.
	Shares []Share `json:"shares,omitempty"`
}

// Step is one thing that happened at a station.
type Step struct {
	Stage string `json:"stage"`
	Text  string `json:"text"`
	By    *By    `json:"by,omitempty"`
}

// System is what calls are explained in. It is safe for concurrent use.
type System struct {
	world    *world.World
	posternd *posternd
	// dump: one gateway's configuration came from a config_dump; alone: and
	// there are no manifests beside it.
	dump, alone bool
	// withoutEffect is world.WithoutEffect, worked out once.
	withoutEffect []string
	// Now is the time of the calls, for tokens; nil is time.Now.
	Now func() time.Time
}

// New explains calls in a world that Istio has translated.
func New(w *world.World) (*System, error) {
	s := &System{world: w, withoutEffect: w.WithoutEffect()}
	var err error
	s.posternd, err = findPosternd(w)
	return s, err
}

// Istio is the version whose configuration is in force.
func (s *System) Istio() string { return s.world.Istio }

// Findings are what the manifests say and what nothing comes of, and other
// things their author should know. Destinations without a Service are left out:
// a call that meets one is told so.
func (s *System) Findings() []string {
	out := slices.Clone(s.withoutEffect)
	for _, note := range s.world.Notes {
		if slices.Contains(s.world.Warnings, note) {
			continue // in each answer
		}
		if !strings.HasSuffix(note, ": requests get 503") {
			out = append(out, note)
		}
	}
	return out
}

func (s *System) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// ErrCall marks a call that cannot be asked about: its error says what is wrong.
var ErrCall = errors.New("bad call")

// Explain walks a call. The error is about the call itself (ErrCall).
func (s *System) Explain(ctx context.Context, c Call) (*Answer, error) {
	start, err := s.parse(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCall, err)
	}
	w := s.walk(ctx, c, start)
	w.run()
	w.alternatives()
	return w.answer, nil
}

func (s *System) walk(ctx context.Context, c Call, start *start) *walk {
	return &walk{system: s, ctx: ctx, call: c, start: start, answer: &Answer{Headers: [][2]string{}, Why: []string{}, Warnings: slices.Clone(s.world.Warnings)}}
}
