package kserve

import (
	"fmt"
	"net/url"
	"regexp"
	"sort"
	"strings"
	"text/template"

	"postern.dev/postern/internal/manifest"

	networking "istio.io/api/networking/v1alpha3"
)

const hashHeader = "K-Network-Hash"

// modelRoutes is KServe's VirtualService NAME: from the model's hosts to the
// local gateway, under the host of the component that answers.
func modelRoutes(isvc *manifest.InferenceService, c *config, domain string) *networking.VirtualService {
	own := internalHost(isvc.Name, isvc.Namespace)
	public := publicHost(isvc, domain)
	internal := isvc.Labels[visibilityLabel] == "cluster-local" || public == own

	vs := &networking.VirtualService{Hosts: []string{own}, Gateways: []string{c.localGateway, "mesh"}}
	if !internal {
		vs.Hosts = append(vs.Hosts, public)
		vs.Gateways = append(vs.Gateways, c.ingressGateway)
	}
	match := func(uri string) []*networking.HTTPMatchRequest {
		out := []*networking.HTTPMatchRequest{hostMatch(own, uri, c.localGateway, "mesh")}
		if !internal {
			out = append(out, hostMatch(public, uri, c.ingressGateway))
		}
		return out
	}
	route := func(component, uri string) *networking.HTTPRoute {
		return &networking.HTTPRoute{
			Match:   match(uri),
			Route:   []*networking.HTTPRouteDestination{destination(c.knativeLocalService, 80, nil)},
			Headers: modelHeaders(isvc, component),
		}
	}
	if isvc.Spec.Explainer != nil {
		vs.Http = append(vs.Http, route("explainer", `^/v1/models/[\w-]+:explain$`))
	}
	vs.Http = append(vs.Http, route(backend(isvc), ""))
	return vs
}

// pathRoutes adds the host that several models share and the routes by which they
// are told apart there (pathTemplate). KServe adds the host for a model within the
// cluster too, where no route of its gateways leads to it.
func pathRoutes(vs *networking.VirtualService, isvc *manifest.InferenceService, c *config) error {
	if c.pathTemplate == nil {
		return nil
	}
	path, err := urlPath(c.pathTemplate, isvc.Name, isvc.Namespace)
	if err != nil {
		return err
	}
	at := func(uri *networking.StringMatch) *networking.HTTPMatchRequest {
		m := hostMatch(c.ingressDomain, "", c.ingressGateway)
		m.Uri = uri
		return m
	}
	add := func(component string, rewrite *networking.HTTPRewrite, uris ...*networking.StringMatch) {
		r := &networking.HTTPRoute{
			Rewrite: rewrite,
			Route:   []*networking.HTTPRouteDestination{destination(c.knativeLocalService, 80, nil)},
			Headers: modelHeaders(isvc, component),
		}
		for _, u := range uris {
			r.Match = append(r.Match, at(u))
		}
		vs.Http = append(vs.Http, r)
	}
	if isvc.Spec.Explainer != nil {
		explain := path + `(/v1/models/[\w-]+:explain)$`
		add("explainer", &networking.HTTPRewrite{UriRegexRewrite: &networking.RegexRewrite{Match: explain, Rewrite: `\1`}}, regex(explain))
	}
	add(backend(isvc), &networking.HTTPRewrite{Uri: "/"},
		&networking.StringMatch{MatchType: &networking.StringMatch_Prefix{Prefix: path + "/"}},
		&networking.StringMatch{MatchType: &networking.StringMatch_Exact{Exact: path}})
	vs.Hosts = append(vs.Hosts, c.ingressDomain)
	return nil
}

// urlPath is KServe's GenerateUrlPath (reconcilers/ingress/path.go), without the
// last slash.
func urlPath(t *template.Template, name, namespace string) (string, error) {
	var b strings.Builder
	if err := t.Execute(&b, struct{ Name, Namespace string }{name, namespace}); err != nil {
		return "", fmt.Errorf("pathTemplate: %w", err)
	}
	u, err := url.ParseRequestURI(b.String())
	if err != nil || u.Scheme != "" || u.Host != "" {
		return "", fmt.Errorf("pathTemplate: got %q, want a path", b.String())
	}
	return strings.TrimSuffix(u.Path, "/"), nil
}

// backend is the component that is called first.
func backend(isvc *manifest.InferenceService) string {
	if isvc.Spec.Transformer != nil {
		return "transformer"
	}
	return "predictor"
}

// modelHeaders lead to a component through the local gateway.
func modelHeaders(isvc *manifest.InferenceService, component string) *networking.Headers {
	return setHeaders(map[string]string{
		"Host":                  internalHost(isvc.Name+"-"+component, isvc.Namespace),
		"KServe-Isvc-Name":      isvc.Name,
		"KServe-Isvc-Namespace": isvc.Namespace,
	})
}

func hostMatch(host, uri string, gateways ...string) *networking.HTTPMatchRequest {
	m := &networking.HTTPMatchRequest{Authority: regex("^" + regexp.QuoteMeta(host) + `(?::\d{1,5})?$`), Gateways: gateways}
	if uri != "" {
		m.Uri = regex(uri)
	}
	return m
}

// revisionRoutes is net-istio's VirtualService of a component, for the gateways
// or for the mesh: from the component's hosts to its revision.
func revisionRoutes(ing *ingress, hosts []string, gatewaysOf func(visibility string) []string) *networking.VirtualService {
	vs := &networking.VirtualService{Hosts: sorted(hosts)}
	hash := ing.hash()
	for _, rule := range ing.Rules {
		prefixes := shortest(intersect(rule.Hosts, hosts))
		if len(prefixes) == 0 {
			continue
		}
		gateways := gatewaysOf(rule.Visibility)
		vs.Gateways = append(vs.Gateways, gateways...)
		for _, path := range rule.HTTP.Paths {
			probe := revisionRoute(prefixes, gateways, path.Splits[0])
			for _, m := range probe.Match {
				m.Headers = map[string]*networking.StringMatch{hashHeader: {MatchType: &networking.StringMatch_Exact{Exact: "override"}}}
			}
			probe.Headers = setHeaders(map[string]string{hashHeader: hash})
			vs.Http = append(vs.Http, probe, revisionRoute(prefixes, gateways, path.Splits[0]))
		}
	}
	vs.Gateways = sorted(vs.Gateways)
	return vs
}

func revisionRoute(prefixes, gateways []string, s ingressSplit) *networking.HTTPRoute {
	r := &networking.HTTPRoute{
		Retries: &networking.HTTPRetry{}, // Istio's two retries off
		Route:   []*networking.HTTPRouteDestination{destination(internalHost(s.ServiceName, s.ServiceNamespace), s.ServicePort, s.AppendHeaders)},
	}
	for _, p := range prefixes {
		r.Match = append(r.Match, &networking.HTTPMatchRequest{
			Gateways:  sorted(gateways),
			Authority: &networking.StringMatch{MatchType: &networking.StringMatch_Prefix{Prefix: p}},
		})
	}
	return r
}

func destination(host string, port int, set map[string]string) *networking.HTTPRouteDestination {
	return &networking.HTTPRouteDestination{
		Destination: &networking.Destination{Host: host, Port: &networking.PortSelector{Number: uint32(port)}},
		Weight:      100,
		Headers:     setHeaders(set),
	}
}

func setHeaders(set map[string]string) *networking.Headers {
	if set == nil {
		return nil
	}
	return &networking.Headers{Request: &networking.Headers_HeaderOperations{Set: set}}
}

func regex(r string) *networking.StringMatch {
	return &networking.StringMatch{MatchType: &networking.StringMatch_Regex{Regex: r}}
}

// expanded are hosts and the short forms of those within the cluster.
func expanded(hosts []string) []string {
	var out []string
	for _, h := range hosts {
		for _, suffix := range []string{"", "." + clusterDomain, ".svc." + clusterDomain} {
			if short, ok := strings.CutSuffix(h, suffix); ok {
				out = append(out, short)
			}
		}
	}
	return sorted(out)
}

// shortest are the prefixes that match all of hosts, each needed: net-istio cuts
// .svc.cluster.local off, and drops what a shorter one covers.
func shortest(hosts []string) []string {
	var out []string
next:
	for _, h := range sorted(hosts) {
		h = strings.TrimSuffix(h, ".svc."+clusterDomain)
		for _, p := range out {
			if strings.HasPrefix(h, p) {
				continue next
			}
		}
		out = append(out, h)
	}
	return sorted(out)
}

func intersect(a, b []string) []string {
	in := map[string]bool{}
	for _, s := range b {
		in[s] = true
	}
	var out []string
	for _, s := range a {
		if in[s] {
			out = append(out, s)
		}
	}
	return out
}

// sorted is a set's members in order, each once.
func sorted(list []string) []string {
	out := append([]string{}, list...)
	sort.Strings(out)
	n := 0
	for i, s := range out {
		if i == 0 || s != out[i-1] {
			out[n] = s
			n++
		}
	}
	return out[:n]
}
