package envoy

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"

	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// metadata is the stream's dynamic metadata. There are few values, so they stand
// in a row.
type metadata []metadatum

type metadatum struct {
	namespace, key string
	value          *structpb.Value // nil: not known
}

func (m *metadata) set(namespace, key string, value *structpb.Value) {
	for i := range *m {
		if d := &(*m)[i]; d.namespace == namespace && d.key == key {
			d.value = value
			return
		}
	}
	*m = append(*m, metadatum{namespace, key, value})
}

// namespace is all of a namespace, nil when there is nothing.
func (m metadata) namespace(name string) *structpb.Struct {
	var out *structpb.Struct
	for _, d := range m {
		if d.namespace == name {
			if out == nil {
				out = &structpb.Struct{Fields: map[string]*structpb.Value{}}
			}
			out.Fields[d.key] = d.value
		}
	}
	return out
}

// at follows a path of keys; nil when there is no such value. False: it is not known.
func (m metadata) at(namespace string, path []string) (*structpb.Value, bool) {
	if len(path) == 0 {
		return nil, true
	}
	var v *structpb.Value
	for i := range m {
		if m[i].namespace == namespace && m[i].key == path[0] {
			if v = m[i].value; v == nil {
				return nil, false
			}
		}
	}
	for _, key := range path[1:] {
		v = v.GetStructValue().GetFields()[key]
	}
	return v, true
}

// known tells whether all of a namespace is.
func (m metadata) known(namespace string) bool {
	return !slices.ContainsFunc(m, func(d metadatum) bool { return d.namespace == namespace && d.value == nil })
}

// predicate is one permission or principal.
type predicate func(s *stream) truth

// policySet is an RBAC rules message: policies by name, in the order of names.
type policySet struct {
	action   rbacconfigv3.RBAC_Action
	policies []policy
}

type policy struct {
	name                    string
	value                   *structpb.Value // name
	permissions, principals []predicate
	matches                 truth     // no, yes: whatever comes
	holds                   predicate // a permission and a principal
}

// rbacFilter is envoy.filters.http.rbac.
type rbacFilter struct {
	name          string
	rules, shadow *policySet
	// keys of the results in the metadata
	shadowPolicy, shadowResult, enforcedPolicy, enforcedResult string
}

func compileRBAC(name string, c *rbacv3.RBAC) (filter, error) {
	if extra := fieldsBut(c, "rules", "shadow_rules", "shadow_rules_stat_prefix", "rules_stat_prefix", "track_per_rule_stats"); len(extra) > 0 {
		return notModelled{strings.Join(extra, ", ")}, nil
	}
	f := &rbacFilter{name: name, shadowPolicy: c.ShadowRulesStatPrefix + "shadow_effective_policy_id", shadowResult: c.ShadowRulesStatPrefix + "shadow_engine_result",
		enforcedPolicy: c.RulesStatPrefix + "enforced_effective_policy_id", enforcedResult: c.RulesStatPrefix + "enforced_engine_result"}
	var err error
	if f.rules, err = compilePolicies(c.Rules); err != nil {
		return nil, fmt.Errorf("filter %s: %w", name, err)
	}
	if f.shadow, err = compilePolicies(c.ShadowRules); err != nil {
		return nil, fmt.Errorf("filter %s: shadow rules: %w", name, err)
	}
	return f, nil
}

func compilePolicies(r *rbacconfigv3.RBAC) (*policySet, error) {
	if r == nil {
		return nil, nil
	}
	set := &policySet{action: r.Action}
	for name, p := range r.Policies {
		c := policy{name: name, value: structpb.NewStringValue(name), matches: always(p)}
		for _, x := range p.Permissions {
			pred, err := compilePermission(x)
			if err != nil {
				return nil, fmt.Errorf("policy %s: %w", name, err)
			}
			c.permissions = append(c.permissions, pred)
		}
		for _, x := range p.Principals {
			pred, err := compilePrincipal(x)
			if err != nil {
				return nil, fmt.Errorf("policy %s: %w", name, err)
			}
			c.principals = append(c.principals, pred)
		}
		if extra := fieldsBut(p, "permissions", "principals"); len(extra) > 0 {
			c.permissions = append(c.permissions, cannotTell(strings.Join(extra, ", ")))
		}
		permitted, meant := anyOf(c.permissions), anyOf(c.principals)
		c.holds = func(s *stream) truth { return min(permitted(s), meant(s)) }
		set.policies = append(set.policies, c)
	}
	sort.Slice(set.policies, func(i, j int) bool { return set.policies[i].name < set.policies[j].name })
	return set, nil
}

func cannotTell(what string) predicate {
	return func(s *stream) truth {
		s.unknown = what
		return maybe
	}
}

func constant(b bool) predicate { return func(*stream) truth { return truthOf(b) } }

func anyOf(ps []predicate) predicate {
	return func(s *stream) truth {
		t := no
		for _, p := range ps {
			if t = max(t, p(s)); t == yes {
				break
			}
		}
		return t
	}
}

func allOf(ps []predicate) predicate {
	return func(s *stream) truth {
		t := yes
		for _, p := range ps {
			if t = min(t, p(s)); t == no {
				break
			}
		}
		return t
	}
}

func negated(p predicate) predicate { return func(s *stream) truth { return p(s).not() } }

// nobody stands for no policy.
var nobody policy

// match finds the first policy, by name, that matches.
func (set *policySet) match(s *stream) (*policy, truth) {
	for i := range set.policies {
		if t := set.policies[i].holds(s); t != no {
			return &set.policies[i], t
		}
	}
	return &nobody, no
}

// decide is match where only whether some policy matches counts: one that does
// outweighs one before it that is not known. The text is what was not known.
func (set *policySet) decide(s *stream) (*policy, truth, string) {
	first, why := &nobody, ""
	for i := range set.policies {
		switch set.policies[i].holds(s) {
		case yes:
			return &set.policies[i], yes, why
		case maybe:
			if first == &nobody {
				first, why = &set.policies[i], s.unknown
			}
		}
	}
	if first == &nobody {
		return first, no, ""
	}
	s.unknown = why
	return first, maybe, why
}

// named is the filter under another name.
func (f *rbacFilter) named(name string) *rbacFilter {
	c := *f
	c.name = name
	return &c
}

func (f *rbacFilter) decode(s *stream) *Outcome {
	if !s.choose() {
		return unknown(s.unknown)
	}
	switch per := s.perRoute(f.name).(type) {
	case nil:
	case *rbacFilter: // in the filter's place; without rules it is off
		if per == nil {
			return nil
		}
		name := f.name
		f = per.named(name)
	case notModelled:
		return unknown(per.what)
	default:
		return unknown("route configuration of filter " + f.name)
	}
	if f.shadow != nil {
		p, t := f.shadow.match(s)
		if t == maybe {
			return unknown(fmt.Sprintf("RBAC policy %s: %s", p.name, s.unknown))
		}
		f.shadow.reach(s, "shadow ", p.name, t)
		f.record(s, p, t)
	}
	if f.rules == nil {
		return nil
	}
	p, t, why := f.rules.decide(s)
	left := p
	if why != "" {
		left, s.untold = &policy{name: p.name}, why // another may be the first
	}
	f.leave(s, left, f.rules.lets(t), f.enforcedPolicy, f.enforcedResult)
	if f.rules.action == rbacconfigv3.RBAC_LOG {
		f.log(s, p, t)
		return nil
	}
	if t == maybe {
		return unknown(fmt.Sprintf("RBAC policy %s: %s", p.name, s.unknown))
	}
	f.rules.reach(s, "", p.name, t)
	allowed := f.rules.lets(t)
	if allowed && s.trace == nil {
		return nil
	}
	object, rule := istioPolicy(p.name)
	if allowed {
		s.trace.add(Step{Stage: f.name, Text: "allowed", Object: object, Rule: rule})
		return nil
	}
	detail := p.name
	if detail == "" {
		detail = "none"
		f.rules.misses(s, f.name)
	}
	s.trace.add(Step{Stage: f.name, Text: "refused: RBAC: access denied", Object: object, Rule: rule})
	return s.local(403, "RBAC: access denied", "rbac_access_denied_matched_policy["+detail+"]")
}

// lets is whether a set lets a request through that some policy matches, or none.
// LOG lets everything through (RoleBasedAccessControlEngineImpl::handleAction).
func (set *policySet) lets(t truth) bool {
	return set.action == rbacconfigv3.RBAC_LOG || (set.action == rbacconfigv3.RBAC_ALLOW) == (t == yes)
}

// log leaves whether a policy of action LOG matched (Istio's AUDIT) where access logs
// look for it; ext_authz can be told of it too.
func (f *rbacFilter) log(s *stream, p *policy, t truth) {
	if t == maybe {
		s.metadata.set("envoy.common", "access_log_hint", nil)
		return
	}
	f.rules.reach(s, "", p.name, t)
	s.metadata.set("envoy.common", "access_log_hint", hints[t == yes])
	if s.trace != nil && t == yes {
		object, rule := istioPolicy(p.name)
		s.trace.add(Step{Stage: f.name, Text: "matches and is logged, no more", Object: object, Rule: rule})
	}
}

var (
	results = map[bool]*structpb.Value{true: structpb.NewStringValue("allowed"), false: structpb.NewStringValue("denied")}
	hints   = map[bool]*structpb.Value{true: structpb.NewBoolValue(true), false: structpb.NewBoolValue(false)}
)

// leave puts a set's result and the policy that matched into the dynamic metadata
// (RoleBasedAccessControlFilter::evaluateShadowEngine, evaluateEnforcedEngine).
func (f *rbacFilter) leave(s *stream, p *policy, allowed bool, policyKey, resultKey string) {
	if p.name != "" {
		s.metadata.set("envoy.filters.http.rbac", policyKey, p.value)
	}
	s.metadata.set("envoy.filters.http.rbac", resultKey, results[allowed])
}

// record leaves the shadow rules' result, by which ext_authz knows whether to ask.
func (f *rbacFilter) record(s *stream, p *policy, t truth) {
	f.leave(s, p, f.shadow.lets(t), f.shadowPolicy, f.shadowResult)
	if s.trace == nil {
		return
	}
	if t == no {
		f.shadow.misses(s, f.name)
	}
	object, rule := istioPolicy(p.name)
	text := "no CUSTOM policy matches"
	if t == yes {
		text = "CUSTOM policy matches: the authorizer will be asked"
	}
	s.trace.add(Step{Stage: f.name, Text: text, Object: object, Rule: rule})
}

// BadCustomAction ends the name of a policy by which Istio denies because a CUSTOM
// policy cannot be carried out: its provider is known to nobody, or there are several
// on one workload. Up to 1.17 it denies everything, from 1.22 on what the policy
// matches (pilot/pkg/security/authz/builder).
const BadCustomAction = "due-to-bad-CUSTOM-action"

// istioPolicy splits a policy name Istio makes:
// "istio-ext-authz-ns[istio-system]-policy[dex-auth]-rule[0]"
// (pilot/pkg/security/authz/builder).
func istioPolicy(name string) (object, rule string) {
	_, rest, ok := strings.Cut(name, "ns[")
	ns, rest, ok2 := strings.Cut(rest, "]-policy[")
	pol, rest, ok3 := strings.Cut(rest, "]-rule[")
	if !ok || !ok2 || !ok3 {
		return "", ""
	}
	number, _, _ := strings.Cut(rest, "]") // what follows is BadCustomAction
	return "AuthorizationPolicy " + ns + "/" + pol, "rules[" + number + "]"
}

// ip is the address an IP principal looks at.
func ipPredicate(prefix string, bits uint32, of func(s *stream) netip.Addr) (predicate, error) {
	addr, err := netip.ParseAddr(prefix)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", prefix, err)
	}
	p, err := addr.Prefix(int(bits))
	if err != nil {
		return nil, fmt.Errorf("address %s/%d: %w", prefix, bits, err)
	}
	return func(s *stream) truth { return truthOf(p.Contains(of(s).Unmap())) }, nil
}
