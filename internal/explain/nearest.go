package explain

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	rbacv1 "k8s.io/api/rbac/v1"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
)

// refusedByAuthorizer is a refusal by whoever the gateway asks.
func (v *visit) refusedByAuthorizer(o envoy.Outcome) {
	w := v.walk
	w.answer.By = v.decider("refused by")
	asks := "the gateway asks an authorizer about this call"
	if w.answer.By != nil {
		asks = w.answer.By.String() + " makes the gateway ask an authorizer about this call"
	}
	w.why(asks)
	w.why(v.textOf("refused by"))
	for _, f := range v.system().withoutEffect {
		if !strings.Contains(f, "is not in force") { // an attempt to change this for a route
			w.why("without effect: " + f)
		}
	}
	if r := v.refusal; r != nil && r.Reason != authorizer.LoginRefused {
		w.why(fmt.Sprintf("posternd: %s: %s", r.Reason, r.Message))
		v.nearestBinding(*r)
		return
	}
	if w.call.Session == "" && w.call.Authz == nil {
		w.nearest("log in (--session USER shows the answer then)")
	}
	if location, _ := o.Headers.Get("location"); o.Status/100 == 3 && location != "" {
		w.nearest("a program cannot follow a redirect to " + location + ": it needs a rule of its own")
	}
}

// nearestBinding says which rule would let a refused caller in.
func (v *visit) nearestBinding(d authorizer.Verdict) {
	w := v.walk
	if d.Resource.IsZero() {
		return
	}
	if d.Reason == authorizer.LoginRequired {
		w.nearest("log in (--session USER): nobody has a rule for " + d.Resource.String() + ", so it is behind login")
	}
	verb := d.Caller.Verb(d.Resource)
	roles := v.system().rolesWith(verb, d.Resource)
	if len(roles) == 0 {
		w.nearest(fmt.Sprintf("a Role with the verb %s on %s, and a RoleBinding for the caller", verb, d.Resource))
	}
	for _, role := range roles {
		w.nearest(fmt.Sprintf("a RoleBinding in namespace %s to %s, for %s: kubectl create rolebinding NAME -n %s --%s=%s %s", d.Resource.Namespace, role, subject(d.Caller),
			d.Resource.Namespace, strings.ToLower(role.Kind), role.Name, subjectFlag(d.Caller)))
	}
	if d.Caller.Kind == access.Nobody && w.call.Session == "" {
		w.nearest("a caller who is somebody: a session (--session USER), or a pod at a door in the cluster (--from pod:NAMESPACE/NAME)")
	}
}

func subject(c access.Caller) string {
	if c.Kind == access.Nobody {
		return "everybody, who proves nothing (group " + access.UnauthenticatedGroup + ")"
	}
	return c.User
}

func subjectFlag(c access.Caller) string {
	switch c.Kind {
	case access.Person:
		return "--user=" + c.User
	case access.Pod:
		if len(c.Groups) > 0 {
			return "--group=" + c.Groups[0]
		}
	}
	return "--group=" + access.UnauthenticatedGroup
}

// rolesWith are the roles that grant a verb on a resource: ClusterRoles and the
// namespace's own Roles.
func (s *System) rolesWith(verb string, r access.Resource) []*By {
	grants := func(rules []rbacv1.PolicyRule) int {
		return slices.IndexFunc(rules, func(p rbacv1.PolicyRule) bool {
			return slices.Contains(p.Verbs, verb) && slices.Contains(p.APIGroups, r.Group) && slices.Contains(p.Resources, r.Resource) &&
				(len(p.ResourceNames) == 0 || slices.Contains(p.ResourceNames, r.Name))
		})
	}
	var out []*By
	for o, role := range manifest.Of[*rbacv1.ClusterRole](s.world.Set) {
		if i := grants(role.Rules); i >= 0 {
			out = append(out, byObject(o, fmt.Sprintf("rules[%d]", i)))
		}
	}
	for o, role := range manifest.Of[*rbacv1.Role](s.world.Set) {
		if i := grants(role.Rules); i >= 0 && o.Meta.Namespace == r.Namespace {
			out = append(out, byObject(o, fmt.Sprintf("rules[%d]", i)))
		}
	}
	return out
}

// noRoute is a request that no VirtualService takes.
func (v *visit) noRoute() {
	w := v.walk
	host, path := v.at.request.Authority, v.at.request.Path
	gateways := v.gatewayObjects()
	for _, g := range gateways {
		if w.answer.By == nil {
			w.answer.By = byObject(g, "")
		}
	}
	w.why(fmt.Sprintf("no VirtualService at port %d takes host %s and path %s", v.at.addr.Port(), host, path))
	type candidate struct {
		distance int
		text     string
	}
	var near []candidate
	add := func(hostPattern, text string) {
		near = append(near, candidate{distance(hostOnly(host), hostPattern), text})
	}
	for o, vs := range manifest.Of[*networking.VirtualService](v.system().world.Set) {
		if !bindsAny(vs, o.Meta.Namespace, gateways) {
			continue
		}
		for _, h := range vs.Hosts {
			add(h, fmt.Sprintf("host %s, %s: %s", h, paths(vs), byObject(o, "")))
		}
	}
	if v.system().alone {
		seen := map[string]bool{}
		for _, r := range v.at.gateway.Proxy.Routes() {
			if seen[r.VirtualHost] || strings.HasPrefix(r.VirtualHost, "*:") {
				continue
			}
			seen[r.VirtualHost] = true
			add(hostOnly(r.VirtualHost), strings.TrimSpace(fmt.Sprintf("virtual host %s %s", r.VirtualHost, r.Object())))
		}
	}
	sort.SliceStable(near, func(i, j int) bool { return near[i].distance < near[j].distance })
	for _, c := range near[:min(len(near), 3)] {
		w.nearest(c.text)
	}
}

// gatewayObjects are the Gateways whose servers this port could be of.
func (v *visit) gatewayObjects() []*manifest.Object {
	var out []*manifest.Object
	for o, gw := range manifest.Of[*networking.Gateway](v.system().world.Set) {
		port, ok := v.system().world.ListenerOf(o.Meta.Namespace, o.Meta.Name)
		if ok && port == v.at.addr.Port() && len(gw.Selector) > 0 && selects(gw.Selector, v.at.gateway.Workload.Labels) {
			out = append(out, o)
		}
	}
	return out
}

func bindsAny(vs *networking.VirtualService, namespace string, gateways []*manifest.Object) bool {
	for _, name := range vs.Gateways {
		if !strings.Contains(name, "/") {
			name = namespace + "/" + name
		}
		for _, g := range gateways {
			if g.Meta.Namespace+"/"+g.Meta.Name == name {
				return true
			}
		}
	}
	return false
}

// paths are the URI matches of a VirtualService, for a reader.
func paths(vs *networking.VirtualService) string {
	var out []string
	for _, h := range vs.Http {
		if len(h.Match) == 0 {
			out = appendNew(out, "prefix /")
		}
		for _, m := range h.Match {
			out = appendNew(out, uriText(m.Uri))
		}
	}
	if len(out) > 4 {
		out = append(out[:4], "...")
	}
	return strings.Join(out, ", ")
}

func hostOnly(authority string) string {
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.Contains(authority[i:], "]") {
		authority = authority[:i]
	}
	return strings.ToLower(authority)
}

// distance is Levenshtein's, 0 for a pattern that the host matches.
func distance(host, pattern string) int {
	if pattern == "*" || strings.HasPrefix(pattern, "*") && strings.HasSuffix(host, pattern[1:]) {
		return 0
	}
	row := make([]int, len(pattern)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(host) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(pattern) {
			cost := previous
			if host[i] != pattern[j] {
				cost++
			}
			previous = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(pattern)]
}

// noEndpoint is a route whose destination is not there.
func (v *visit) noEndpoint(err error) {
	w := v.walk
	w.answer.Outcome, w.answer.Status, w.answer.By = Refused, 503, w.route
	w.answer.Headers = [][2]string{}
	if vs := w.route; vs != nil {
		if _, spec, ok := manifest.Find[*networking.VirtualService](v.system().world.Set, vs.Namespace, vs.Name); ok && vs.Kind == "VirtualService" {
			for _, why := range v.missing(spec, vs.Namespace) {
				err = fmt.Errorf("%s", why)
			}
		}
		w.why(fmt.Sprintf("%s leads nowhere: %v", vs, err))
	} else {
		w.why("the route leads nowhere: " + err.Error())
	}
	w.nearest("that Service, with a ready pod, or another destination")
}

// missing are the destinations of the route in force that no Service stands
// behind.
func (v *visit) missing(vs *networking.VirtualService, namespace string) []string {
	var out []string
	for i, h := range vs.Http {
		if rule := fmt.Sprintf("http[%d]", i); strings.HasPrefix(v.walk.route.Rule, "http[") && rule != v.walk.route.Rule {
			continue
		}
		for _, d := range h.Route {
			if _, err := v.system().world.Topology.Lookup(namespace, d.GetDestination().GetHost()); err != nil {
				out = append(out, fmt.Sprintf("destination %s: %v", d.GetDestination().GetHost(), err))
			}
		}
	}
	return out
}
