package envoy

import corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

// HeaderAction is what a HeaderOp does.
type HeaderAction int

const (
	SetHeader         HeaderAction = iota // replaces all values
	AddHeader                             // stands beside what is there
	AddHeaderIfAbsent                     // only where there is none
	SetHeaderIfThere                      // only where there is one
	RemoveHeader
)

// HeaderOp is one change of a response's headers.
type HeaderOp struct {
	Action      HeaderAction
	Name, Value string

	at int // the filter that wants it
}

// ResponseChange is what the route and the filters do to an answer's headers, in
// the order in which it is done.
type ResponseChange []HeaderOp

// Apply changes headers.
func (c ResponseChange) Apply(h *Headers) {
	for _, op := range c {
		there := h.has(op.Name)
		switch {
		case op.Action == RemoveHeader:
			h.Remove(op.Name)
		case op.Action == SetHeader, op.Action == SetHeaderIfThere && there:
			h.Set(op.Name, op.Value)
		case op.Action == AddHeader, op.Action == AddHeaderIfAbsent && !there:
			h.Add(op.Name, op.Value)
		}
	}
}

// answering notes what the filter that is being run does to the answer, whoever
// gives it.
func (s *stream) answering(action HeaderAction, name, value string) {
	s.response = append(s.response, HeaderOp{action, name, value, s.at})
}

// outwards orders the filters' changes as an answer meets them: the last filter
// first.
func (c ResponseChange) outwards() ResponseChange {
	var out ResponseChange
	for end := len(c); end > 0; {
		from := end - 1
		for from > 0 && c[from-1].at == c[end-1].at {
			from--
		}
		out = append(out, c[from:end]...)
		end = from
	}
	return out
}

// op is a route's header option as a change of the answer.
func (o headerOption) op() HeaderOp {
	return HeaderOp{Action: headerAction(o.action), Name: o.name, Value: o.value}
}

func headerAction(a corev3.HeaderValueOption_HeaderAppendAction) HeaderAction {
	switch a {
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
		return SetHeader
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		return SetHeaderIfThere
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		return AddHeaderIfAbsent
	}
	return AddHeader
}
