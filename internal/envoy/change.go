package envoy

import (
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// headerChange is what one level of the route configuration does to the
// headers of requests and responses.
type headerChange struct {
	request, response ResponseChange
	unmodelled        string
}

// changer is the part that RouteConfiguration, VirtualHost, Route and a weighted
// cluster share.
type changer interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

func compileChange(c changer) (headerChange, error) {
	var out headerChange
	var err error
	if out.request, err = out.compile(c.GetRequestHeadersToRemove(), c.GetRequestHeadersToAdd()); err != nil {
		return out, err
	}
	out.response, err = out.compile(c.GetResponseHeadersToRemove(), c.GetResponseHeadersToAdd())
	return out, err
}

// compile puts a level's changes in the order in which they are done: what is
// removed, what is overwritten, what is added (HeaderParser::evaluateHeaders). Of
// which headers there are some already is looked up before any is overwritten.
func (c *headerChange) compile(remove []string, add []*corev3.HeaderValueOption) (ResponseChange, error) {
	if len(remove)+len(add) == 0 {
		return nil, nil
	}
	out := make(ResponseChange, 0, len(remove)+len(add))
	for _, name := range remove {
		if !changeable(name) {
			return nil, fmt.Errorf("header %s: pseudo headers and host may not be removed", name)
		}
		out = append(out, HeaderOp{Action: RemoveHeader, Name: strings.ToLower(name)})
	}
	options := out[len(out):]
	for _, o := range add {
		op, keep, err := c.option(o)
		if err != nil {
			return nil, err
		}
		if keep {
			options = append(options, op)
		}
	}
	slices.SortStableFunc(options, func(a, b HeaderOp) int { return a.Action.rank() - b.Action.rank() })
	for i := range options {
		options[i].with = i > 0
	}
	return append(out, options...), nil
}

// option compiles a header option. An empty value changes nothing, unless it is to
// be kept (HeadersToAddEntry::add_if_empty_): then the second result is false.
func (c *headerChange) option(o *corev3.HeaderValueOption) (HeaderOp, bool, error) {
	op := HeaderOp{Name: strings.ToLower(o.GetHeader().GetKey()), Value: o.GetHeader().GetValue(), Action: headerAction(o.AppendAction)}
	if !changeable(op.Name) {
		return op, false, fmt.Errorf("header %s: pseudo headers and host may not be changed", op.Name)
	}
	//lint:ignore SA1019 Istio up to 1.17 still writes the deprecated field
	if a := o.Append; a != nil {
		if o.AppendAction != corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
			return op, false, fmt.Errorf("header %s: append and append_action are both set", op.Name)
		}
		if !a.Value {
			op.Action = SetHeader
		}
	}
	// Envoy looks at value alone, whatever raw_value says.
	if extra := append(fieldsBut(o, "header", "append", "append_action", "keep_empty_value"), fieldsBut(o.Header, "key", "value", "raw_value")...); len(extra) > 0 {
		c.unmodelled = strings.Join(extra, ", ")
	}
	if strings.ContainsRune(op.Value, '%') {
		if plain := strings.ReplaceAll(op.Value, "%%", ""); strings.ContainsRune(plain, '%') {
			c.unmodelled = fmt.Sprintf("format string in header %s: %s", op.Name, op.Value)
		}
		op.Value = strings.ReplaceAll(op.Value, "%%", "%")
	}
	return op, op.Value != "" || o.KeepEmptyValue, nil
}

// changeable is whether header options may name a header
// (HeaderUtility::isModifiableHeader).
func changeable(name string) bool {
	return !strings.HasPrefix(name, ":") && !strings.EqualFold(name, "host")
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
