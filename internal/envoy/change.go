package envoy

import (
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// headerChange is what one level of the route configuration does to the
// headers of requests and responses.
type headerChange struct {
	requestRemove, responseRemove []string
	requestAdd, responseAdd       []headerOption
	unmodelled                    string
}

type headerOption struct {
	name, value string
	action      corev3.HeaderValueOption_HeaderAppendAction
}

// changer is the part that RouteConfiguration, VirtualHost and Route share.
type changer interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

func compileChange(c changer) (headerChange, error) {
	out := headerChange{requestRemove: lowerAll(c.GetRequestHeadersToRemove()), responseRemove: lowerAll(c.GetResponseHeadersToRemove())}
	var err error
	if out.requestAdd, err = out.options(c.GetRequestHeadersToAdd()); err != nil {
		return out, err
	}
	out.responseAdd, err = out.options(c.GetResponseHeadersToAdd())
	return out, err
}

func (c *headerChange) options(in []*corev3.HeaderValueOption) ([]headerOption, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]headerOption, 0, len(in))
	for _, o := range in {
		h := headerOption{name: strings.ToLower(o.GetHeader().GetKey()), value: o.GetHeader().GetValue(), action: o.AppendAction}
		//lint:ignore SA1019 Istio up to 1.17 still writes the deprecated field
		if a := o.Append; a != nil && !a.Value {
			h.action = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		}
		if strings.ContainsRune(h.value, '%') {
			if plain := strings.ReplaceAll(h.value, "%%", ""); strings.ContainsRune(plain, '%') {
				c.unmodelled = fmt.Sprintf("format string in header %s: %s", h.name, h.value)
			}
			h.value = strings.ReplaceAll(h.value, "%%", "%")
		}
		if h.name == ":path" || h.name == ":method" {
			c.unmodelled = "header option for " + h.name
		}
		out = append(out, h)
	}
	return out, nil
}

// apply does one option to a list of headers.
func (o headerOption) apply(h *Headers) {
	switch o.action {
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
		h.Set(o.name, o.value)
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		if h.has(o.name) {
			h.Set(o.name, o.value)
		}
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		if !h.has(o.name) {
			h.Add(o.name, o.value)
		}
	default:
		h.Add(o.name, o.value)
	}
}

// request applies the level's change to the request.
func (c *headerChange) request(s *stream) {
	for _, name := range c.requestRemove {
		s.headers.Remove(name)
	}
	for _, o := range c.requestAdd {
		if o.name == "host" || o.name == ":authority" {
			s.authority = o.value
			continue
		}
		o.apply(&s.headers)
	}
}

// response appends the level's change of the response.
func (c *headerChange) response(to ResponseChange) ResponseChange {
	for _, name := range c.responseRemove {
		to = append(to, HeaderOp{Action: RemoveHeader, Name: name})
	}
	for _, o := range c.responseAdd {
		to = append(to, o.op())
	}
	return to
}

func lowerAll(in []string) []string {
	if len(in) == 0 {
		return nil
	}
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strings.ToLower(s)
	}
	return out
}
