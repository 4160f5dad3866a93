package explain

import (
	"fmt"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
)

func byObject(o *manifest.Object, rule string) *By {
	if o == nil {
		return nil
	}
	return &By{Kind: o.Kind, Namespace: o.Meta.Namespace, Name: o.Meta.Name, Rule: rule, File: o.Source.File, Line: o.Source.Line, Derived: o.Derived}
}

// by finds what the engine names as "Kind namespace/name". An object that the
// manifests do not hold has no file.
func (s *System) by(object, rule string) *By {
	kind, full, ok := strings.Cut(object, " ")
	namespace, name, ok2 := strings.Cut(full, "/")
	if !ok || !ok2 {
		return nil
	}
	for o := range s.world.Set.All() {
		if o.Kind == kind && o.Meta.Namespace == namespace && o.Meta.Name == name {
			return byObject(o, rule)
		}
	}
	return &By{Kind: kind, Namespace: namespace, Name: name, Rule: rule}
}

// byRef is an object of RBAC, with the role's rule that it grants.
func byRef(d access.Decision) *By {
	b := &By{Kind: d.Binding.Kind, Namespace: d.Binding.Namespace, Name: d.Binding.Name, Rule: fmt.Sprintf("%s rules[%d]", d.Role, d.Rule)}
	if i := strings.LastIndexByte(d.Binding.Source, ':'); i >= 0 {
		b.File = d.Binding.Source[:i]
		_, _ = fmt.Sscan(d.Binding.Source[i+1:], &b.Line)
	}
	return b
}

func (s *System) serviceNamed(host string) *By {
	name, rest, _ := strings.Cut(host, ".")
	namespace, _, _ := strings.Cut(rest, ".")
	if svc, ok := s.world.Topology.Service(namespace, name); ok {
		return byObject(svc.Object, "")
	}
	return nil
}

// route is the VirtualService of a route, with which of its http routes it is
// where its URI tells, else what the route matches.
func (s *System) route(r *envoy.RouteInfo, text string) *By {
	if r == nil {
		return nil
	}
	b := s.by(r.Object(), text)
	if b == nil {
		return nil
	}
	if _, vs, ok := manifest.Find[*networking.VirtualService](s.world.Set, b.Namespace, b.Name); ok {
		if i, ok := httpRoute(vs, text); ok {
			b.Rule = fmt.Sprintf("http[%d]", i)
		}
	}
	return b
}

// httpRoute finds the one http route with a match of this text.
func httpRoute(vs *networking.VirtualService, text string) (int, bool) {
	if len(vs.Http) == 1 {
		return 0, true
	}
	at, found := -1, 0
	for i, h := range vs.Http {
		matches := h.Match
		if len(matches) == 0 {
			matches = []*networking.HTTPMatchRequest{{}}
		}
		for _, m := range matches {
			if uriText(m.Uri) == text && at != i {
				at, found = i, found+1
			}
		}
	}
	return at, found == 1
}

// uriText is a URI match as the engine writes the route Istio makes of it.
func uriText(m *networking.StringMatch) string {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return "path " + t.Exact
	case *networking.StringMatch_Prefix:
		return "prefix " + t.Prefix
	case *networking.StringMatch_Regex:
		return "regex " + t.Regex
	}
	return "prefix /"
}

// insertedBy finds the EnvoyFilter that puts an HTTP filter of a name into a
// gateway workload.
func (s *System) insertedBy(filter string, labels map[string]string) *By {
	for o, ef := range manifest.Of[*networking.EnvoyFilter](s.world.Set) {
		if !selects(ef.GetWorkloadSelector().GetLabels(), labels) {
			continue
		}
		for i, p := range ef.ConfigPatches {
			name := p.GetPatch().GetValue().GetFields()["name"].GetStringValue()
			if p.GetApplyTo() == networking.EnvoyFilter_HTTP_FILTER && name == filter {
				return byObject(o, fmt.Sprintf("configPatches[%d]", i))
			}
		}
	}
	return nil
}

// selects reports whether labels bear all of a selector; an empty one selects all.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
