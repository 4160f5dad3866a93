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

// rank orders the options of one level of the route configuration: what is
// overwritten goes before what is added.
func (a HeaderAction) rank() int {
	if a == SetHeader || a == SetHeaderIfThere {
		return 0
	}
	return 1
}

// HeaderOp is one change of headers.
type HeaderOp struct {
	Action      HeaderAction
	Name, Value string

	with bool // of one level with the change before: what is there already is looked up before either
	at   int  // the filter that wants it
}

// ResponseChange is what the route and the filters do to an answer's headers, in
// the order in which it is done; or what one level does to a request's.
type ResponseChange []HeaderOp

// Apply changes headers.
func (c ResponseChange) Apply(h *Headers) {
	c.Each(func(name string) bool { return h.has(name) }, func(op HeaderOp) {
		switch op.Action {
		case RemoveHeader:
			h.Remove(op.Name)
		case SetHeader:
			h.Set(op.Name, op.Value)
		default:
			h.Add(op.Name, op.Value)
		}
	})
}

// Each does those changes that come to pass where there says which headers there
// are: each as SetHeader, AddHeader or RemoveHeader.
func (c ResponseChange) Each(there func(name string) bool, do func(HeaderOp)) {
	var memory [16]bool
	for len(c) > 0 {
		skip := memory[:0]
		for i := range c {
			if i > 0 && !c[i].with {
				break
			}
			op := &c[i]
			skip = append(skip, op.Action == AddHeaderIfAbsent && there(op.Name) || op.Action == SetHeaderIfThere && !there(op.Name))
		}
		for i, op := range c[:len(skip)] {
			switch {
			case skip[i]:
				continue
			case op.Action == AddHeaderIfAbsent:
				op.Action = AddHeader
			case op.Action == SetHeaderIfThere:
				op.Action = SetHeader
			}
			do(op)
		}
		c = c[len(skip):]
	}
}

// answering notes what the filter that is being run does to the answer, whoever
// gives it.
func (s *stream) answering(action HeaderAction, name, value string) {
	s.response = append(s.response, HeaderOp{Action: action, Name: name, Value: value, at: s.at})
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
