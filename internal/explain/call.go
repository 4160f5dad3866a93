package explain

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	networking "istio.io/api/networking/v1alpha3"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/world"
)

// outsider stands for any address that is no pod's (TEST-NET-2, RFC 5737).
var outsider = netip.MustParseAddr("198.51.100.1")

// sourcePort is the client's port in every explanation.
const sourcePort = 40000

// start is a call, read.
type start struct {
	pod     *topology.Pod // the caller; nil: outside
	source  netip.Addr
	host    string // of the URL
	port    uint32
	door    *door // where the connection goes; nil: to what host means
	request envoy.Upstream
}

// door is a gateway's port.
type door struct {
	gateway *world.Gateway
	port    uint16
	object  string // the Gateway asked for, when one was
}

func (s *System) parse(c Call) (*start, error) {
	st := &start{request: envoy.Upstream{Method: "GET"}}
	if c.Method != "" {
		st.request.Method = c.Method
	}
	if !httpguts.ValidHeaderFieldName(st.request.Method) {
		return nil, fmt.Errorf("got method %q, want one such as GET or POST", c.Method)
	}
	explicit, err := st.target(c.URL)
	if err != nil {
		return nil, err
	}
	if err := st.addHeaders(c.Headers); err != nil {
		return nil, err
	}
	if c.Authz != nil && (c.Authz.Status < 100 || c.Authz.Status > 599) {
		return nil, fmt.Errorf("got authz status %d, want 100 to 599", c.Authz.Status)
	}
	if c.Authz != nil && c.Session != "" {
		return nil, errors.New("got a session and an authorizer's answer, want one of them")
	}
	if name := s.sessionCookieName(); c.Session != "" && !carries(question{headers: st.request.Headers}, name) {
		st.request.Headers.Add("cookie", name+"=SESSION")
	}
	if err := s.caller(st, c.From); err != nil {
		return nil, err
	}
	switch {
	case c.Door != "":
		st.door, err = s.door(c.Door)
	case st.pod == nil:
		st.door, err = s.defaultDoor(st.port, explicit)
	}
	return st, err
}

// target reads the URL. The path stays as it is written, like curl --path-as-is.
func (st *start) target(url string) (explicit bool, err error) {
	scheme, rest, ok := strings.Cut(url, "://")
	switch {
	case !ok:
		return false, fmt.Errorf("got URL %q, want http://HOST[:PORT]/PATH", url)
	case strings.EqualFold(scheme, "https"):
		return false, fmt.Errorf("got URL %q: TLS listeners are not modelled yet, want http://", url)
	case !strings.EqualFold(scheme, "http"):
		return false, fmt.Errorf("got URL %q, want http://", url)
	}
	authority, path := rest, "/"
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
		path, _, _ = strings.Cut(rest[i:], "#") // a client keeps the fragment
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
	}
	if strings.ContainsAny(path, " \t\r\n\x00") {
		return false, fmt.Errorf("got path %q, want no white space (%%20)", path)
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		return false, errors.New("got a URL with a user name: state it as a header (authorization)")
	}
	st.host, st.port = authority, 80
	if h, p, err := net.SplitHostPort(authority); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return false, fmt.Errorf("got port %q, want 1 to 65535", p)
		}
		st.host, st.port, explicit = h, uint32(n), true
	}
	if st.host == "" {
		return false, fmt.Errorf("got URL %q without a host", url)
	}
	st.request.Authority, st.request.Path = authority, path
	if explicit && st.port == 80 {
		st.request.Authority = strings.TrimSuffix(authority, ":80") // as clients do
	}
	return explicit, nil
}

func (st *start) addHeaders(headers [][2]string) error {
	for _, h := range headers {
		name := strings.ToLower(strings.TrimSpace(h[0]))
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(h[1]) {
			return fmt.Errorf("got header %q: %q, want a name and a value that HTTP allows", h[0], h[1])
		}
		if name == "host" {
			st.request.Authority = strings.TrimSpace(h[1])
			continue
		}
		st.request.Headers.Add(name, strings.TrimSpace(h[1]))
	}
	return nil
}

// caller finds who calls.
func (s *System) caller(st *start, from string) error {
	kind, name, named := strings.Cut(from, ":")
	addr, addrErr := netip.ParseAddr(from)
	switch {
	case from == "" || from == "outside":
		st.source = outsider
		return nil
	case addrErr == nil:
		st.source = addr.Unmap()
		if p, ok := s.world.Topology.At(addr); ok && !p.HostNetwork {
			st.pod = p
		}
		return nil
	case !named || kind != "pod" && kind != "sa":
		return fmt.Errorf("got caller %q, want outside, pod:NAMESPACE/NAME, sa:NAMESPACE/NAME or an IP address", from)
	case s.alone:
		return fmt.Errorf("got caller %q: a config_dump alone knows no pods; add the manifests with -f, or give the address", from)
	}
	namespace, name, ok := strings.Cut(name, "/")
	if !ok {
		return fmt.Errorf("got caller %q, want %s:NAMESPACE/NAME", from, kind)
	}
	var here []string
	for _, p := range s.world.Topology.Pods() {
		if p.Namespace != namespace || !p.Running || !p.Addr.IsValid() {
			continue
		}
		if kind == "pod" && (p.Name == name || p.Workload.Name == name) || kind == "sa" && p.ServiceAccount == name {
			st.pod, st.source = p, p.Addr
			return nil
		}
		if text := map[string]string{"pod": p.Name, "sa": p.ServiceAccount}[kind]; len(here) == 0 || here[len(here)-1] != text {
			here = append(here, text)
		}
	}
	what := map[string]string{"pod": "pod of that name", "sa": "pod with that service account"}[kind]
	if len(here) == 0 {
		return fmt.Errorf("caller %s: no %s: namespace %s has no running pods", from, what, namespace)
	}
	return fmt.Errorf("caller %s: no %s in namespace %s (there are %s)", from, what, namespace, strings.Join(here, ", "))
}

// defaultDoor is where a call from outside comes in: at the port the URL names,
// if a gateway listens there, else at Kubeflow's Gateway, else at the only one.
func (s *System) defaultDoor(port uint32, explicit bool) (*door, error) {
	if explicit {
		if d, err := s.door(strconv.Itoa(int(port))); err == nil {
			return d, nil
		}
	}
	const usual = "kubeflow/kubeflow-gateway"
	if _, _, ok := manifest.Find[*networking.Gateway](s.world.Set, "kubeflow", "kubeflow-gateway"); ok {
		if d, err := s.door(usual); err == nil {
			return d, nil
		}
	}
	for _, port := range []string{"8080", "80"} {
		if d, err := s.door(port); err == nil {
			return d, nil
		}
	}
	return nil, fmt.Errorf("cannot tell at which door the call comes in: name one with --door (%s)", s.doorList())
}

// door finds a gateway's port by number, or by a Gateway's name.
func (s *System) door(text string) (*door, error) {
	if n, err := strconv.ParseUint(text, 10, 16); err == nil && n > 0 {
		return s.doorAt(uint16(n))
	}
	for o, gw := range manifest.Of[*networking.Gateway](s.world.Set) {
		full := o.Meta.Namespace + "/" + o.Meta.Name
		if text != full && text != o.Meta.Name {
			continue
		}
		g := s.world.GatewayAt(full)
		port, ok := s.world.ListenerOf(o.Meta.Namespace, o.Meta.Name)
		if g == nil || !ok {
			return nil, fmt.Errorf("door %s: no gateway listens for the first of its %d servers", text, len(gw.GetServers()))
		}
		return &door{g, port, full}, nil
	}
	return nil, fmt.Errorf("got door %q, want a gateway's port or a Gateway: %s", text, s.doorList())
}

func (s *System) doorAt(port uint16) (*door, error) {
	var found []*world.Gateway
	for _, g := range s.world.Gateways {
		for _, p := range g.Proxy.Ports() {
			if p == port {
				found = append(found, g)
			}
		}
	}
	switch {
	case len(found) == 1:
		return &door{gateway: found[0], port: port}, nil
	case len(found) == 0:
		return nil, fmt.Errorf("door %d: no gateway listens there (%s)", port, s.doorList())
	}
	// Separate gateway workloads share port numbers; the one people use is meant.
	usual := s.world.GatewayAt("kubeflow/kubeflow-gateway")
	for _, g := range found {
		if g == usual {
			return &door{gateway: g, port: port}, nil
		}
	}
	return nil, fmt.Errorf("door %d: several gateways listen there, name the Gateway: %s", port, s.doorList())
}

// doorList is what --door could be.
func (s *System) doorList() string {
	var out []string
	for _, g := range s.world.Gateways {
		for _, p := range g.Proxy.Ports() {
			out = append(out, strconv.Itoa(int(p)))
		}
	}
	for o := range manifest.Of[*networking.Gateway](s.world.Set) {
		out = append(out, o.Meta.Namespace+"/"+o.Meta.Name)
	}
	if len(out) == 0 {
		return "there is none"
	}
	return "there are " + strings.Join(out, ", ")
}
