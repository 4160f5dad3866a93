package authorizer

import (
	"strings"
	"time"

	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/territory"
)

// Config is posternd's configuration. Its zero value is the safest: with no
// door declared every request is refused.
type Config struct {
	// Doors are the ports of the gateways' pods. A check from a port that is not
	// here is refused.
	Doors []Door `yaml:"doors"`
	// Gateways are the gateways' own pods: only from their addresses does a
	// passport count, and only on a door in the cluster. Default: namespace
	// istio-system with label istio: ingressgateway, and with label
	// istio: cluster-local-gateway.
	Gateways []Workload `yaml:"gateways"`
	// Kubeflow says what is people's whatever else is said.
	Kubeflow Kubeflow `yaml:"kubeflow"`
	// Routing says whether a check must name the VirtualService that Envoy chose.
	Routing Routing `yaml:"routing"`
	// Login is the login that is there.
	Login Login `yaml:"login"`
	// Tokens says whose tokens count.
	Tokens Tokens `yaml:"tokens"`
	// CORS is for pages that call models.
	CORS CORS `yaml:"cors"`
	// Identity are further headers that name a caller.
	Identity Identity `yaml:"identity"`
	// Proxies are label sets of pods that pass on other callers' requests, besides
	// the ones Postern knows (credential.DefaultProxies): a call from such a pod's
	// address is nobody's. The value "*" stands for any.
	Proxies []map[string]string `yaml:"proxies"`
	// Insecure says that anybody may reach the port for checks, and claim any
	// address there: then no pod is recognised by its address. Who serves the port
	// knows.
	Insecure bool `yaml:"-"`
}

// Door is a port of the gateway pods and the Istio Gateway whose servers listen
// there. Two doors with the same port are one door with two Gateways.
type Door struct {
	// Gateway is "namespace/name".
	Gateway string `yaml:"gateway"`
	// Port is the one the pod listens on: 8080 behind port 80 of the Service.
	Port uint16 `yaml:"port"`
	// InCluster declares that nothing outside the cluster reaches this port, and
	// that nothing in between changes the address of a caller: then a pod is
	// recognised by its address.
	InCluster bool `yaml:"inCluster"`
}

// Workload picks pods by namespace and labels.
type Workload struct {
	Namespace string            `yaml:"namespace"`
	Labels    map[string]string `yaml:"labels"`
}

// Kubeflow is what stays people's.
type Kubeflow struct {
	// Namespaces are added to DefaultNamespaces.
	Namespaces []string `yaml:"namespaces"`
	// Hosts are the exact host names of Kubeflow.
	Hosts []string `yaml:"hosts"`
}

// DefaultNamespaces are Kubeflow's own in all its releases.
func DefaultNamespaces() []string {
	return []string{
		"auth", "cert-manager", "istio-system", "knative-eventing", "knative-serving",
		"kube-system", "kubeflow", "kubeflow-system", "oauth2-proxy",
	}
}

// Routing is how Postern knows which route Envoy will use.
type Routing string

const (
	// Metadata, the default: every check carries the route's VirtualService
	// (Envoy >= 1.29, route_metadata_context_namespaces: [istio]), which must
	// agree with what Postern derives. A check without it is refused, so that an
	// EnvoyFilter which stopped matching is noticed.
	Metadata Routing = "metadata"
	// Derived does without, for older proxies. Where a check carries the
	// VirtualService all the same, it must agree.
	Derived Routing = "derived"
)

// Login holds the delegate.
type Login struct {
	Delegate Delegate `yaml:"delegate"`
}

// Delegate is the login that is there: authservice or oauth2-proxy, asked as
// Envoy's own HTTP ext_authz would ask it.
type Delegate struct {
	// URL, scheme, host and port. Default
	// http://authservice.istio-system.svc.cluster.local:8080.
	URL string `yaml:"url"`
	// RequestHeaders are the headers it gets. Default authorization, cookie,
	// x-auth-token. Also what may hold a session, but for authorization, origin and
	// sec-fetch-site.
	RequestHeaders []string `yaml:"requestHeaders"`
	// ResponseHeaders of its 200 go to the backend. Default kubeflow-userid.
	ResponseHeaders []string `yaml:"responseHeaders"`
	// RefusalHeaders of any other answer go to the client, beside location and
	// www-authenticate (Istio's headersToDownstreamOnDeny). Default: all.
	RefusalHeaders []string `yaml:"refusalHeaders"`
	// Skip is what it is not asked about, because the gateway never asked it: the
	// conditions of the CUSTOM policy that Postern took the place of.
	Skip Skip `yaml:"skip"`
	// Timeout bounds one question. Default 1.5s: less than the 2s that the gateway
	// waits for Postern.
	Timeout time.Duration `yaml:"timeout"`
	// SessionPath is what a session is asked with, by GET. It must be a path that
	// needs a session. Default "/".
	SessionPath string `yaml:"sessionPath"`
	// SessionLife is how long its answer is believed. Default 5s, at most 1m.
	SessionLife time.Duration `yaml:"sessionLife"`
	// UserHeader is the one of ResponseHeaders that names the person. Default
	// kubeflow-userid, which Postern sets to the same when it lets a person in
	// itself (Identity.UserHeader).
	UserHeader string `yaml:"userHeader"`
	// GroupsHeader is the one with the person's groups. Default: none.
	GroupsHeader string `yaml:"groupsHeader"`
	// Cookies are the login's own, added to DefaultCookies. A model never sees
	// them, and a request with none of them has no session. A last * stands for
	// any rest.
	Cookies []string `yaml:"cookies"`
}

// Skip are requests for people's pages that go on to the gateway's other policies
// unasked, as they did before Postern. It weakens: whoever configures it must have
// such policies there (Kubeflow since 1.9.1: istio-ingressgateway-require-jwt).
// Models and applications with a rule of their own are judged whatever it says.
type Skip struct {
	// Doors are the ports whose gateway has those policies. At others all is asked. A
	// check tells a port and not a gateway: of another gateway at such a port, people's
	// requests with these marks go on as they did before Postern.
	Doors []uint16 `yaml:"doors"`
	// Headers: requests that have one of them (authorization).
	Headers []string `yaml:"headers"`
	// Paths: these, or what begins with them where they end in "/*".
	Paths []string `yaml:"paths"`
}

// DefaultCookies are those of authservice, of oauth2-proxy by its own and by
// Kubeflow's configuration, and of Postern.
func DefaultCookies() []string {
	return []string{"authservice_session*", "oidc_state_csrf*", "_oauth2_proxy*", "oauth2_proxy_kubeflow*", "postern*", "__Host-postern*"}
}

// Identity are the headers that name a caller.
type Identity struct {
	// UserHeader names to a model or an application the person whom Postern let in
	// itself. Default: the login's userHeader. Where the gateway's own filters make
	// kubeflow-userid from a token (since Kubeflow 1.9), that is the one backends read.
	UserHeader string `yaml:"userHeader"`
	// GroupsHeader holds that person's groups. Default: the login's groupsHeader.
	GroupsHeader string `yaml:"groupsHeader"`
	// Headers are added to DefaultIdentity. A last * stands for any rest.
	Headers []string `yaml:"headers"`
}

// DefaultIdentity are the headers by which Kubeflow, oauth2-proxy and Postern
// name a caller. A client's own are removed in any spelling with _ or -.
func DefaultIdentity() []string {
	return []string{
		"kubeflow-userid", "kubeflow-groups", "x-user-email", "x-user-groups", "x-auth-request-*",
		"x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-forwarded-preferred-username", "x-forwarded-access-token",
		"x-postern-*",
	}
}

// withDefaults fills what was left out.
func (c Config) withDefaults() Config {
	d := &c.Login.Delegate
	set(&d.URL, "http://authservice.istio-system.svc.cluster.local:8080")
	set(&d.SessionPath, "/")
	set(&d.UserHeader, "kubeflow-userid")
	if d.RequestHeaders == nil {
		d.RequestHeaders = []string{"authorization", "cookie", "x-auth-token"}
	}
	if d.ResponseHeaders == nil {
		d.ResponseHeaders = []string{"kubeflow-userid"}
	}
	d.RequestHeaders, d.ResponseHeaders, d.Skip.Headers = lower(d.RequestHeaders), lower(d.ResponseHeaders), lower(d.Skip.Headers)
	set(&c.Identity.UserHeader, d.UserHeader)
	set(&c.Identity.GroupsHeader, d.GroupsHeader)
	if d.Timeout == 0 {
		d.Timeout = 1500 * time.Millisecond
	}
	if d.SessionLife == 0 {
		d.SessionLife = 5 * time.Second
	}
	d.Cookies = append(DefaultCookies(), d.Cookies...)
	if c.Routing == "" {
		c.Routing = Metadata
	}
	if c.Gateways == nil {
		c.Gateways = []Workload{
			{"istio-system", map[string]string{"istio": "ingressgateway"}},
			{"istio-system", map[string]string{"istio": "cluster-local-gateway"}},
		}
	}
	c.CORS = c.CORS.withDefaults()
	c.Kubeflow.Namespaces = append(DefaultNamespaces(), c.Kubeflow.Namespaces...)
	c.Identity.Headers = append(DefaultIdentity(), c.Identity.Headers...)
	return c
}

// lower is a copy in lower case.
func lower(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.ToLower(n)
	}
	return out
}

func set(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// Territory is the part of the configuration that territory.Compile needs.
func (c Config) Territory(derive func(*manifest.Set) ([]*manifest.Object, error)) territory.Config {
	c = c.withDefaults()
	t := territory.Config{Namespaces: c.Kubeflow.Namespaces, Hosts: c.Kubeflow.Hosts, Derive: derive}
	for _, d := range c.Doors {
		t.Doors = append(t.Doors, territory.Door{Gateway: d.Gateway, Port: d.Port})
	}
	return t
}

// PodRules is the part of the configuration that credential.NewPods needs.
func (c Config) PodRules() credential.PodRules {
	c = c.withDefaults()
	r := credential.PodRules{Proxies: c.Proxies}
	if c.Insecure {
		r.NoCallers = "the authorizer's port is open to others, so addresses prove nothing"
	}
	for _, g := range c.Gateways {
		r.Gateways = append(r.Gateways, credential.Workload(g))
	}
	return r
}
