package territory

import (
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// clusterDomain is the domain of Services. Another one is not modelled yet:
// then no destination is recognised and everything is people's.
const clusterDomain = "svc.cluster.local"

// gatewaysOf resolves the names of a VirtualService's or a match's gateways to
// "namespace/name" as Istio does (resolveGatewayName in
// pilot/pkg/model/virtualservice.go); "mesh" is left out.
func gatewaysOf(names []string, namespace string) []string {
	var out []string
	for _, n := range names {
		if n == "mesh" {
			continue
		}
		ns, name, slashed := strings.Cut(n, "/")
		switch {
		case slashed && ns == ".":
			n = namespace + "/" + name
		case slashed:
		case strings.Contains(n, "."): // the old form: name.namespace.svc...
			name, rest, _ := strings.Cut(n, ".")
			ns, _, _ := strings.Cut(rest, ".")
			n = ns + "/" + name
		default:
			n = namespace + "/" + n
		}
		out = append(out, n)
	}
	return out
}

// hostsOf are a VirtualService's hosts as a gateway serves them: lower case, a
// short name completed with its namespace, each once.
func hostsOf(spec *networking.VirtualService, namespace string) []string {
	var out []string
	for _, h := range spec.GetHosts() {
		if h = fullName(h, namespace); !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// fullName is Istio's ResolveShortnameToFQDN: a name without a dot is a Service
// of the namespace.
func fullName(host, namespace string) string {
	host = strings.ToLower(host)
	if host == "" || host == "*" || strings.Contains(host, ".") {
		return host
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host
	}
	return host + "." + namespace + "." + clusterDomain
}

// serviceOf is the name of the Service of the namespace that a destination
// means, if it means one of the namespace's.
func serviceOf(d *networking.Destination, namespace string) (string, bool) {
	name, ok := strings.CutSuffix(fullName(d.GetHost(), namespace), "."+namespace+"."+clusterDomain)
	return name, ok && name != "" && !strings.Contains(name, ".")
}
