package explain

import (
	"fmt"
	"strings"

	security "istio.io/api/security/v1beta1"

	"postern.dev/postern/internal/manifest"
)

// withoutRules tells whether an AuthorizationPolicy has no rules: nothing matches it.
func (s *System) withoutRules(by *By) bool {
	_, spec, ok := manifest.Find[*security.AuthorizationPolicy](s.world.Set, by.Namespace, by.Name)
	return ok && by.Kind == "AuthorizationPolicy" && len(spec.Rules) == 0
}

// ruleText is what a rule of an AuthorizationPolicy wants, beside what the call
// has.
func (v *visit) ruleText(by *By) string {
	if by == nil || by.Kind != "AuthorizationPolicy" {
		return ""
	}
	_, spec, ok := manifest.Find[*security.AuthorizationPolicy](v.system().world.Set, by.Namespace, by.Name)
	var i int
	if _, err := fmt.Sscanf(by.Rule, "rules[%d]", &i); !ok || err != nil || i >= len(spec.Rules) {
		return ""
	}
	var parts []string
	add := func(name string, list []string) {
		if len(list) > 0 {
			parts = append(parts, fmt.Sprintf("%s %q", name, list))
		}
	}
	peer := false
	for _, from := range spec.Rules[i].From {
		src := from.GetSource()
		peer = peer || len(src.GetPrincipals())+len(src.GetNotPrincipals())+len(src.GetNamespaces())+len(src.GetNotNamespaces()) > 0
		add("principals", src.GetPrincipals())
		add("notPrincipals", src.GetNotPrincipals())
		add("requestPrincipals", src.GetRequestPrincipals())
		add("notRequestPrincipals", src.GetNotRequestPrincipals())
		add("namespaces", src.GetNamespaces())
		add("notNamespaces", src.GetNotNamespaces())
		add("ipBlocks", src.GetIpBlocks())
		add("notIpBlocks", src.GetNotIpBlocks())
		add("remoteIpBlocks", src.GetRemoteIpBlocks())
		add("notRemoteIpBlocks", src.GetNotRemoteIpBlocks())
	}
	for _, to := range spec.Rules[i].To {
		op := to.GetOperation()
		add("paths", op.GetPaths())
		add("notPaths", op.GetNotPaths())
		add("hosts", op.GetHosts())
		add("notHosts", op.GetNotHosts())
		add("methods", op.GetMethods())
		add("notMethods", op.GetNotMethods())
		add("ports", op.GetPorts())
		add("notPorts", op.GetNotPorts())
	}
	for _, when := range spec.Rules[i].When {
		peer = peer || when.Key == "source.namespace" || when.Key == "source.principal"
		text := "when " + when.Key
		if len(when.Values) > 0 {
			text += fmt.Sprintf(" is one of %q", when.Values)
		}
		if len(when.NotValues) > 0 {
			text += fmt.Sprintf(" is none of %q", when.NotValues)
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return ""
	}
	path, _, _ := strings.Cut(v.at.request.Path, "?")
	has := "the path is " + path
	if peer {
		has += ", the peer is " + v.from
	}
	return fmt.Sprintf(" (it wants %s; %s)", strings.Join(parts, ", "), has)
}

// tokenRule is the RequestAuthentication behind jwt_authn: of an issuer, or the
// only one there is for the workload.
func (v *visit) tokenRule(issuer string) *By {
	var found []*By
	wl, root := v.at.gateway.Workload, v.system().world.RootNamespace()
	for o, ra := range manifest.Of[*security.RequestAuthentication](v.system().world.Set) {
		if o.Meta.Namespace != wl.Namespace && o.Meta.Namespace != root || !selects(ra.GetSelector().GetMatchLabels(), wl.Labels) {
			continue
		}
		for i, r := range ra.JwtRules {
			if issuer == "" || r.Issuer == issuer {
				found = append(found, byObject(o, fmt.Sprintf("jwtRules[%d]", i)))
			}
		}
	}
	if len(found) == 1 || issuer != "" && len(found) > 0 {
		return found[0]
	}
	return nil
}

// badProvider is a refusal that stands for a CUSTOM policy which cannot be carried
// out: of one policy, or, up to Istio 1.17, of whatever comes.
func (v *visit) badProvider() {
	w := v.walk
	w.answer.By = v.decider("refused: RBAC")
	what := "what it matches"
	wl, root := v.at.gateway.Workload, v.system().world.RootNamespace()
	var custom []string
	for o, spec := range manifest.Of[*security.AuthorizationPolicy](v.system().world.Set) {
		if spec.GetAction() != security.AuthorizationPolicy_CUSTOM || o.Meta.Namespace != wl.Namespace && o.Meta.Namespace != root || !selects(spec.GetSelector().GetMatchLabels(), wl.Labels) {
			continue
		}
		if by := byObject(o, ""); w.answer.By == nil {
			w.answer.By, what = by, "everything at "+wl.String()
		}
		custom = append(custom, fmt.Sprintf("%s asks provider %s", byObject(o, ""), spec.GetProvider().GetName()))
	}
	w.why(fmt.Sprintf("Istio %s denies %s: the CUSTOM action of %s cannot be carried out, since the mesh's configuration does not know its provider, or several are on one workload (%s)",
		v.system().world.Istio, what, w.answer.By, strings.Join(custom, "; ")))
	w.nearest("one CUSTOM provider for " + wl.String() + ", which the mesh's configuration knows")
}
