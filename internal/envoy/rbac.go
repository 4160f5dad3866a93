package envoy

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"

	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// metadata is the stream's dynamic metadata by filter namespace.
type metadata map[string]*structpb.Struct

func (m *metadata) set(namespace, key string, value *structpb.Value) {
	if *m == nil {
		*m = metadata{}
	}
	if (*m)[namespace] == nil {
		(*m)[namespace] = &structpb.Struct{Fields: map[string]*structpb.Value{}}
	}
	(*m)[namespace].Fields[key] = value
}

// at follows a path of keys; nil when there is no such value.
func (m metadata) at(namespace string, path []string) *structpb.Value {
	st := m[namespace]
	for i, key := range path {
		v := st.GetFields()[key]
		if i == len(path)-1 {
			return v
		}
		st = v.GetStructValue()
	}
	return nil
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
	permissions, principals []predicate
	matches                 truth // no, yes: whatever comes
}

// rbacFilter is envoy.filters.http.rbac.
type rbacFilter struct {
	name          string
	rules, shadow *policySet
	shadowPrefix  string
}

func compileRBAC(name string, c *rbacv3.RBAC) (filter, error) {
	if extra := fieldsBut(c, "rules", "shadow_rules", "shadow_rules_stat_prefix", "rules_stat_prefix", "track_per_rule_stats"); len(extra) > 0 {
		return notModelled{strings.Join(extra, ", ")}, nil
	}
	f := &rbacFilter{name: name, shadowPrefix: c.ShadowRulesStatPrefix}
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
		c := policy{name: name, matches: always(p)}
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

// match finds the first policy, by name, that matches.
func (set *policySet) match(s *stream) (name string, t truth) {
	for _, p := range set.policies {
		switch min(anyOf(p.permissions)(s), anyOf(p.principals)(s)) {
		case yes:
			return p.name, yes
		case maybe:
			return p.name, maybe
		}
	}
	return "", no
}

func (f *rbacFilter) decode(s *stream) *Outcome {
	if !s.choose() {
		return unknown(s.unknown)
	}
	if s.perRoute(f.name) != nil {
		return unknown("route configuration of filter " + f.name)
	}
	if f.shadow != nil {
		name, t := f.shadow.match(s)
		if t == maybe {
			return unknown(fmt.Sprintf("RBAC policy %s: %s", name, s.unknown))
		}
		f.shadow.reach(s, "shadow ", name, t)
		f.record(s, name, t)
	}
	if f.rules == nil {
		return nil
	}
	name, t := f.rules.match(s)
	if t == maybe {
		return unknown(fmt.Sprintf("RBAC policy %s: %s", name, s.unknown))
	}
	f.rules.reach(s, "", name, t)
	object, rule := istioPolicy(name)
	if (f.rules.action == rbacconfigv3.RBAC_ALLOW) == (t == yes) {
		s.trace.add(Step{Stage: f.name, Text: "allowed", Object: object, Rule: rule})
		return nil
	}
	detail := name
	if detail == "" {
		detail = "none"
		f.rules.misses(s, f.name)
	}
	s.trace.add(Step{Stage: f.name, Text: "refused: RBAC: access denied", Object: object, Rule: rule})
	return s.local(403, "RBAC: access denied", "rbac_access_denied_matched_policy["+detail+"]")
}

// record leaves the shadow engine's result as dynamic metadata, where ext_authz
// finds it (RoleBasedAccessControlFilter::evaluateShadowEngine).
func (f *rbacFilter) record(s *stream, name string, t truth) {
	result := "denied"
	if (f.shadow.action == rbacconfigv3.RBAC_ALLOW) == (t == yes) {
		result = "allowed"
	}
	if name != "" {
		s.metadata.set("envoy.filters.http.rbac", f.shadowPrefix+"shadow_effective_policy_id", structpb.NewStringValue(name))
	}
	s.metadata.set("envoy.filters.http.rbac", f.shadowPrefix+"shadow_engine_result", structpb.NewStringValue(result))
	if t == no {
		f.shadow.misses(s, f.name)
	}
	object, rule := istioPolicy(name)
	text := "no CUSTOM policy matches"
	if t == yes {
		text = "CUSTOM policy matches: the authorizer will be asked"
	}
	s.trace.add(Step{Stage: f.name, Text: text, Object: object, Rule: rule})
}

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
	return "AuthorizationPolicy " + ns + "/" + pol, "rules[" + strings.TrimSuffix(rest, "]") + "]"
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
