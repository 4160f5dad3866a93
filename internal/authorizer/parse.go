package authorizer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"
	"golang.org/x/net/http/httpguts"
)

// ParseConfig reads a configuration strictly: a field it does not know, a value
// that cannot be or two documents are errors with file, line and field. file is
// only for errors.
func ParseConfig(file string, data []byte) (Config, error) {
	var c Config
	root, err := Decode(file, data, &c)
	if err == nil {
		err = c.Check(file, root)
	}
	if err != nil {
		return Config{}, err
	}
	return c, nil
}

// ParsePart is ParseConfig of posternd's file, in which its own settings stand beside a
// Config (internal/daemon, which tests that it has no others). Of these only what the
// authorizer looks at is read: whether the port for checks is insecure.
func ParsePart(file string, data []byte) (Config, error) {
	var c struct {
		Config `yaml:",inline"`

		Listen    yaml.Node `yaml:"listen"`
		TLS       yaml.Node `yaml:"tls"`
		Insecure  bool      `yaml:"insecure"`
		Passport  yaml.Node `yaml:"passport"`
		Manifests yaml.Node `yaml:"manifests"`
		Cluster   yaml.Node `yaml:"cluster"`
		Tracing   yaml.Node `yaml:"tracing"`
		LogLevel  yaml.Node `yaml:"logLevel"`
	}
	root, err := Decode(file, data, &c)
	if err == nil {
		err = c.Check(file, root)
	}
	if err != nil {
		return Config{}, err
	}
	c.Config.Insecure = c.Insecure
	return c.Config, nil
}

// Decode reads one YAML document strictly into out, for a program whose file holds
// a Config among other things. It gives the document for finding lines; nothing
// said is no document and no error.
func Decode(file string, data []byte, out any) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	root := &yaml.Node{}
	switch err := dec.Decode(out); {
	case errors.Is(err, io.EOF):
		return root, nil // nothing said: the zero value
	case err != nil:
		return nil, yamlError(file, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: got more than one YAML document, want one", file)
	}
	if err := yaml.Unmarshal(data, root); err != nil {
		return nil, yamlError(file, err)
	}
	return root, nil
}

// Check says what is wrong with a configuration that was read from the top of a
// document.
func (c Config) Check(file string, root *yaml.Node) error {
	var errs []error
	for _, p := range c.problems() {
		errs = append(errs, Problem(file, root, p.field, "%s", p.msg))
	}
	return errors.Join(errs...)
}

// Problem is an error about a field of a document such as "doors[1].port", with
// file and line.
func Problem(file string, root *yaml.Node, field, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s: %s", file, lineOf(root, field), field, fmt.Sprintf(format, args...))
}

// yamlError puts the file and the line in front of what the YAML reader says.
func yamlError(file string, err error) error {
	texts := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	if te := (*yaml.TypeError)(nil); errors.As(err, &te) {
		texts = te.Errors
	}
	unknown := regexp.MustCompile(`^field (\S+) not found in type .*$`)
	line := regexp.MustCompile(`^line (\d+): `)
	var errs []error
	for _, t := range texts {
		at := file
		if m := line.FindStringSubmatch(t); m != nil {
			at, t = file+":"+m[1], strings.TrimPrefix(t, m[0])
		}
		errs = append(errs, fmt.Errorf("%s: %s", at, unknown.ReplaceAllString(t, "$1: unknown field")))
	}
	return errors.Join(errs...)
}

// lineOf finds the line of a field such as "doors[1].port", or of the nearest
// thing around it.
func lineOf(root *yaml.Node, field string) int {
	n := root
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	line := n.Line
	for part := range strings.SplitSeq(strings.ReplaceAll(field, "[", ".["), ".") {
		var next *yaml.Node
		if i, err := strconv.Atoi(strings.Trim(part, "[]")); err == nil && n.Kind == yaml.SequenceNode && i < len(n.Content) {
			next = n.Content[i]
			line = next.Line
		}
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == part {
				line, next = n.Content[i].Line, n.Content[i+1]
			}
		}
		if next == nil {
			return line
		}
		n = next
	}
	return line
}

type problem struct{ field, msg string }

// problems are all things wrong with a configuration; New looks at them too.
func (c Config) problems() []problem {
	var out []problem
	add := func(field, format string, args ...any) {
		out = append(out, problem{field, fmt.Sprintf(format, args...)})
	}
	c.doorProblems(add)
	c.Login.Delegate.problems(add)
	c.Tokens.problems(add)
	c.CORS.problems(add)
	if c.Routing != "" && c.Routing != Metadata && c.Routing != Derived {
		add("routing", "got %q, want metadata or derived", string(c.Routing))
	}
	for i, g := range c.Gateways {
		if g.Namespace == "" || len(g.Labels) == 0 {
			add(fmt.Sprintf("gateways[%d]", i), "namespace and labels are required")
		}
	}
	for i, ns := range c.Kubeflow.Namespaces {
		if ns == "" {
			add(fmt.Sprintf("kubeflow.namespaces[%d]", i), "empty")
		}
	}
	for i, h := range c.Kubeflow.Hosts {
		if h == "" || strings.ContainsAny(h, "*/: ") {
			add(fmt.Sprintf("kubeflow.hosts[%d]", i), "got %q, want an exact host name", h)
		}
	}
	for i, l := range c.Proxies {
		if len(l) == 0 {
			add(fmt.Sprintf("proxies[%d]", i), "no label")
		}
	}
	for field, h := range map[string]string{"userHeader": c.Identity.UserHeader, "groupsHeader": c.Identity.GroupsHeader} {
		if h != "" && (!httpguts.ValidHeaderFieldName(h) || strings.HasPrefix(dashed(h), "x-postern-")) {
			add("identity."+field, "got %q, want a header's name, none of Postern's own", h)
		}
	}
	for i, h := range c.Identity.Headers {
		if name := strings.TrimSuffix(h, "*"); !httpguts.ValidHeaderFieldName(name) || strings.Contains(name, "*") {
			add(fmt.Sprintf("identity.headers[%d]", i), "got %q, want a header's name, a last * for any rest", h)
		}
	}
	return out
}

func (c Config) doorProblems(add func(field, format string, args ...any)) {
	inside := map[uint16]bool{}
	for i, d := range c.Doors {
		field := fmt.Sprintf("doors[%d].", i)
		if ns, name, ok := strings.Cut(d.Gateway, "/"); !ok || ns == "" || name == "" || strings.Contains(name, "/") {
			add(field+"gateway", "got %q, want \"namespace/name\"", d.Gateway)
		}
		if d.Port == 0 {
			add(field+"port", "required: the port that the gateway's pod listens on")
		}
		if first, ok := inside[d.Port]; ok && first != d.InCluster {
			add(field+"inCluster", "another door has port %d and says otherwise", d.Port)
		}
		inside[d.Port] = d.InCluster
	}
}

func (d Delegate) problems(add func(field, format string, args ...any)) {
	if d.URL != "" {
		u, err := url.Parse(d.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
			add("login.delegate.url", "got %q, want scheme, host and port: http://authservice.istio-system.svc.cluster.local:8080", d.URL)
		}
	}
	if d.Timeout != 0 && (d.Timeout < 10*time.Millisecond || d.Timeout > time.Minute) {
		add("login.delegate.timeout", "got %s, want 10ms to 1m", d.Timeout)
	}
	if d.SessionLife != 0 && (d.SessionLife < time.Millisecond || d.SessionLife > time.Minute) {
		add("login.delegate.sessionLife", "got %s, want 1ms to 1m", d.SessionLife)
	}
	if d.SessionPath != "" && (!strings.HasPrefix(d.SessionPath, "/") || strings.ContainsAny(d.SessionPath, "#\r\n ")) {
		add("login.delegate.sessionPath", "got %q, want a path", d.SessionPath)
	}
	for _, list := range []struct {
		field string
		names []string
	}{{"requestHeaders", d.RequestHeaders}, {"responseHeaders", d.ResponseHeaders}, {"refusalHeaders", d.RefusalHeaders}, {"skip.headers", d.Skip.Headers}} {
		for i, h := range list.names {
			at := fmt.Sprintf("login.delegate.%s[%d]", list.field, i)
			switch name := strings.ToLower(h); {
			case !httpguts.ValidHeaderFieldName(name):
				add(at, "got %q, want a header's name", h)
			case name == "host" || name == "content-length" || name == "transfer-encoding" || name == "connection" || name == "x-postern-passport":
				add(at, "%s cannot be passed on", name)
			}
		}
	}
	filled := Config{Login: Login{d}}.withDefaults().Login.Delegate
	for _, h := range [][2]string{{"userHeader", filled.UserHeader}, {"groupsHeader", filled.GroupsHeader}} {
		field, name := h[0], h[1]
		if name != "" && !slices.ContainsFunc(filled.ResponseHeaders, func(h string) bool { return strings.EqualFold(h, name) }) {
			add("login.delegate."+field, "%s is not among the responseHeaders", name)
		}
	}
	if s := d.Skip; len(s.Doors) == 0 && len(s.Headers)+len(s.Paths) > 0 {
		add("login.delegate.skip.doors", "required: the ports whose gateway's other policies judge what is skipped")
	}
	for i, p := range d.Skip.Paths {
		if !strings.HasPrefix(p, "/") || strings.Contains(strings.TrimSuffix(p, "/*"), "*") || p == "/*" {
			add(fmt.Sprintf("login.delegate.skip.paths[%d]", i), "got %q, want a path, or one that ends in \"/*\" for what begins with it", p)
		}
	}
	for i, name := range d.Cookies {
		if strings.Trim(name, "*") == "" || strings.ContainsAny(name, "=;, ") {
			add(fmt.Sprintf("login.delegate.cookies[%d]", i), "got %q, want a cookie's name, a last * for any rest", name)
		}
	}
}
