package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/envoy"
)

// requestID is the x-request-id of every explanation.
const requestID = "00000000-0000-4000-8000-000000000000"

// visit is one request at one gateway.
type visit struct {
	walk  *walk
	at    place
	hop   Hop
	trace envoy.Trace
	tls   *envoy.TLS // to a sidecar; nil: plaintext
	from  string     // who connects, and
	place string     // where to, for a reader

	undetermined string              // an authorizer's answer that cannot be told
	asked        bool                // an authorizer was asked
	policy       *By                 // the CUSTOM policy that made the gateway ask
	missed       []Step              // policies that did not match, of the last filter that says so
	routeText    string              // the last route's match
	refusal      *authorizer.Verdict // posternd's
}

func newVisit(w *walk, at place) *visit {
	v := &visit{walk: w, at: at, hop: Hop{Kind: "proxy", Name: at.pod.String(), Address: at.addr.String()}}
	v.from, v.place = at.source.String(), "this gateway"
	return v
}

func (v *visit) system() *System { return v.walk.system }

// evaluate asks the engine and turns its trace into steps.
func (v *visit) evaluate() envoy.Outcome {
	v.hop.Text = fmt.Sprintf("from %s: %s http://%s%s", v.from, v.at.request.Method, v.at.request.Authority, v.at.request.Path)
	req := envoy.Request{
		Source: netip.AddrPortFrom(v.at.source, sourcePort), Destination: v.at.addr, Protocol: "HTTP/1.1",
		Method: v.at.request.Method, Authority: v.at.request.Authority, Path: v.at.request.Path, Headers: slices.Clone(v.at.request.Headers), TLS: v.tls,
	}
	dice := v.walk.dice[len(v.walk.answer.Hops)]
	env := envoy.Env{RequestID: requestID, Random: dice, Now: v.system().now(), Authorize: v.authorize}
	o := v.at.gateway.Proxy.Evaluate(req, env, &v.trace)
	v.hop.Shares = shares(o.Shares, dice)
	v.steps()
	if o.Kind == envoy.Local {
		v.hop.Steps = append(v.hop.Steps, Step{Stage: "answer", Text: fmt.Sprintf("%d %s", o.Status, o.Reason)})
	}
	return o
}

// steps turns the trace into steps with the objects' places.
func (v *visit) steps() {
	var route *By
	routes := 0
	for _, t := range v.trace.Steps {
		step := Step{Stage: t.Stage, Text: t.Text, By: v.system().by(t.Object, t.Rule)}
		// A live gateway has its istiod's keys.
		if text, ok := v.system().world.Placeholders[t.Issuer]; ok && (!v.system().dump || v.sidecar()) {
			v.walk.answer.Warnings = appendNew(v.walk.answer.Warnings, text)
		}
		switch {
		case t.Stage == "route":
			v.routeText = t.Rule
			if t.Object != "" {
				step.By = v.system().route(&envoy.RouteInfo{Config: configOf(t.Object)}, t.Rule)
			}
			if routes++; routes > 1 {
				step.Text = "chosen again, " + again(route, step.By) + ": " + t.Text
			}
			route = step.By
		case t.Stage == "router":
			step.By = route
		case strings.HasPrefix(t.Text, "does not match"):
			step.Text += v.ruleText(step.By)
			v.missed = append(v.missed, step)
		case strings.HasPrefix(t.Text, "CUSTOM policy matches"):
			v.policy, v.missed = step.By, nil
		case t.Text == "allowed" && t.Object == "":
			step.Text = "no DENY policy matches"
		case t.Issuer != "" || strings.Contains(t.Stage, "jwt_authn"):
			step.By = v.tokenRule(t.Issuer)
		case step.By == nil && t.Stage != "authorizer":
			step.By = v.filterOf(t)
		}
		v.hop.Steps = append(v.hop.Steps, step)
	}
}

// filterOf is what put the filter of a step there: the CUSTOM policy that made
// the gateway ask, or an EnvoyFilter.
func (v *visit) filterOf(t envoy.Step) *By {
	asks := strings.HasPrefix(t.Text, "allowed by") || strings.HasPrefix(t.Text, "refused by") || strings.HasPrefix(t.Text, "the authorizer")
	if asks && v.policy != nil {
		return v.policy
	}
	return v.system().insertedBy(t.Stage, v.at.gateway.Workload.Labels)
}

// configOf is the path that Istio writes into a route for a VirtualService.
func configOf(object string) string {
	namespace, name, _ := strings.Cut(strings.TrimPrefix(object, "VirtualService "), "/")
	return "/apis/networking.istio.io/v1alpha3/namespaces/" + namespace + "/virtual-service/" + name
}

func again(before, now *By) string {
	if before == now || before != nil && now != nil && *before == *now {
		return "the same"
	}
	return "another"
}

// local ends the walk with the gateway's own answer.
func (v *visit) local(o envoy.Outcome) {
	w, a := v.walk, v.walk.answer
	a.Status, a.Headers = o.Status, shown(o.Headers)
	switch {
	case o.Status >= 400:
		a.Outcome = Refused
	case o.Status >= 300:
		a.Outcome = Redirected
	default:
		a.Outcome = Answered
	}
	detail, _, _ := strings.Cut(o.Reason, "[")
	switch detail {
	case "rbac_access_denied_matched_policy":
		v.denied(o)
	case "ext_authz_denied":
		v.refusedByAuthorizer(o)
	case "ext_authz_error":
		a.By = v.decider("the authorizer")
		w.why(v.textOf("the authorizer"))
		w.nearest("an authorizer that answers: the filter fails closed")
	case "route_not_found":
		v.noRoute()
	case "cluster_not_found":
		v.noEndpoint(fmt.Errorf("the gateway has no cluster for the route's destination"))
	case "direct_response":
		a.By = w.route
		w.why(w.route.String() + " has the gateway answer by itself")
		if a.Outcome == Refused {
			w.nearest("a request that another route takes, or a change of " + w.route.String())
		}
	default:
		w.why("Envoy answers by itself: " + o.Reason)
		if last := v.lastBy(); last != nil && strings.HasPrefix(o.Reason, "jwt_authn") {
			a.By = last
			w.nearest("a token that " + last.String() + " takes, or none")
		} else if a.Outcome == Refused {
			w.nearest("another request: Envoy refuses this one by itself (" + detail + "), whatever the objects say")
		}
	}
	if detail != "route_not_found" && !v.sidecar() {
		v.notAsked()
	}
}

// decider is the object of the last step whose text begins so.
func (v *visit) decider(prefix string) *By {
	for i := len(v.hop.Steps) - 1; i >= 0; i-- {
		if s := v.hop.Steps[i]; strings.HasPrefix(s.Text, prefix) {
			return s.By
		}
	}
	return nil
}

func (v *visit) textOf(prefix string) string {
	for i := len(v.hop.Steps) - 1; i >= 0; i-- {
		if s := v.hop.Steps[i]; strings.HasPrefix(s.Text, prefix) {
			return s.Text
		}
	}
	return prefix
}

func (v *visit) lastBy() *By {
	for i := len(v.hop.Steps) - 1; i >= 0; i-- {
		if b := v.hop.Steps[i].By; b != nil {
			return b
		}
	}
	return nil
}

// denied is a refusal by an AuthorizationPolicy: one that denies, or none that
// allows.
func (v *visit) denied(o envoy.Outcome) {
	w := v.walk
	if strings.Contains(o.Reason, envoy.BadCustomAction) {
		v.badProvider()
		return
	}
	if by := v.decider("refused: RBAC"); by != nil {
		w.answer.By = by
		w.why(by.String() + " denies the call")
		w.nearest("a call that " + by.String() + " does not match, or a change of that rule")
		return
	}
	w.why("no ALLOW policy at " + v.place + " matches the call")
	var without *By // a policy without rules: it allows nothing and nothing can meet it
	for _, s := range v.missed {
		if s.By == nil {
			continue
		}
		object := &By{Kind: s.By.Kind, Namespace: s.By.Namespace, Name: s.By.Name, File: s.By.File, Line: s.By.Line}
		if v.system().withoutRules(s.By) {
			without = object
			continue
		}
		if w.answer.By == nil {
			w.answer.By = object
		}
		w.nearest(s.By.String() + " allows, and " + s.Text)
	}
	if w.answer.By == nil {
		w.answer.By = without
		w.nearest("an AuthorizationPolicy that allows the call there: there is none with rules")
	}
}

// notAsked says that nobody was asked who calls, and why.
func (v *visit) notAsked() {
	w := v.walk
	if v.asked || v.undetermined != "" {
		return
	}
	port := fmt.Sprintf("at port %d of %s ", v.at.addr.Port(), v.at.gateway.Workload)
	for _, s := range v.hop.Steps {
		if !strings.HasPrefix(s.Text, "not asked: ") {
			continue
		}
		text := port + "ext_authz was not asked"
		switch {
		case strings.HasSuffix(s.Text, "no CUSTOM policy matched") && len(v.missed) > 0:
			for _, m := range v.missed {
				text += fmt.Sprintf(": %s %s", m.By, m.Text)
			}
		case s.By != nil:
			text += ": " + strings.TrimPrefix(s.Text, "not asked: ") + " (" + s.By.String() + ")"
		default:
			text += ": " + strings.TrimPrefix(s.Text, "not asked: ")
		}
		w.why(text)
		return
	}
	if !v.judgedByToken() {
		w.why(port + "nobody is asked who calls: the gateway has no ext_authz and no jwt_authn filter there")
		v.notInForce()
	}
}

// notInForce says which filters the manifests want here and Istio did not put
// there.
func (v *visit) notInForce() {
	for _, f := range v.system().withoutEffect {
		if strings.Contains(f, "is not in force") {
			if strings.Contains(f, "ext_authz") {
				f = "login is gone: " + f
			}
			v.walk.why(f)
		}
	}
}

// judgedByToken tells whether a filter of the port looks at credentials.
func (v *visit) judgedByToken() bool {
	return v.at.gateway.Proxy.LooksAtCallers(v.at.addr.Port())
}
