package envoy

import (
	"fmt"
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	templatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
)

// templatePredicate matches the path, without its query, against a URI template,
// which Istio makes of "{*}" and "{**}" in a policy's paths.
func templatePredicate(c *corev3.TypedExtensionConfig) (predicate, error) {
	msg, err := unpack(c.GetTypedConfig())
	if err != nil {
		return nil, err
	}
	t, ok := msg.(*templatev3.UriTemplateMatchConfig)
	if !ok {
		return cannotTell("URI template " + typeName(c.GetTypedConfig(), msg)), nil
	}
	re, err := compileTemplate(t.PathTemplate)
	if err != nil {
		return nil, fmt.Errorf("URI template %q: %w", t.PathTemplate, err)
	}
	return func(s *stream) truth {
		path, _, _ := strings.Cut(s.path, "?")
		path, _, _ = strings.Cut(path, "#")
		return truthOf(re.MatchString(path))
	}, nil
}

// compileTemplate turns a template into the expression Envoy makes of it
// (uri_template_internal.cc): "*" is one segment, "**" any text, "{name}" a segment,
// "{name=pattern}" the pattern.
func compileTemplate(t string) (*regexp.Regexp, error) {
	const segment, rest = "[a-zA-Z0-9-._~%!$&'()+,;:@=]+", "[a-zA-Z0-9-._~%!$&'()+,;:@=/]*"
	var b strings.Builder
	b.WriteString(`\A`)
	for t != "" {
		switch {
		case strings.HasPrefix(t, "**"):
			b.WriteString(rest)
			t = t[2:]
		case t[0] == '*':
			b.WriteString(segment)
			t = t[1:]
		case t[0] == '{':
			end := strings.IndexByte(t, '}')
			if end < 0 {
				return nil, fmt.Errorf("got an open brace")
			}
			_, pattern, named := strings.Cut(t[1:end], "=")
			if !named {
				pattern = "*"
			}
			t = pattern + t[end+1:]
		default:
			b.WriteString(regexp.QuoteMeta(t[:1]))
			t = t[1:]
		}
	}
	return regexp.Compile(b.String() + `\z`)
}
