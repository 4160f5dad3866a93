package envoy

import (
	"fmt"
	"slices"
	"strings"

	mutationrulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
)

// headerMutation is envoy.filters.http.header_mutation. It leaves the chosen route
// alone.
type headerMutation struct {
	name      string
	mutations *mutations
	outwards  bool // most_specific_header_mutations_wins
}

// mutations are one level's changes of headers, in their order.
type mutations struct {
	request, response ResponseChange
	unmodelled        []string
}

func compileHeaderMutation(name string, c *mutationv3.HeaderMutation) (*headerMutation, error) {
	m, err := compileMutations(c.GetMutations())
	if err != nil {
		return nil, fmt.Errorf("filter %s: %w", name, err)
	}
	m.unmodelled = append(m.unmodelled, fieldsBut(c, "mutations", "most_specific_header_mutations_wins")...)
	return &headerMutation{name: name, mutations: m, outwards: c.MostSpecificHeaderMutationsWins}, nil
}

func compileMutations(m *mutationv3.Mutations) (*mutations, error) {
	c := &mutations{unmodelled: fieldsBut(m, "request_mutations", "response_mutations")}
	var err error
	if c.request, err = c.compile(m.GetRequestMutations()); err != nil {
		return nil, err
	}
	c.response, err = c.compile(m.GetResponseMutations())
	return c, err
}

func (c *mutations) compile(in []*mutationrulesv3.HeaderMutation) (ResponseChange, error) {
	var out ResponseChange
	for _, m := range in {
		switch a := m.Action.(type) {
		case *mutationrulesv3.HeaderMutation_Remove:
			if strings.EqualFold(a.Remove, ":status") { // of a response: Envoy answers 502 instead
				c.unmodelled = append(c.unmodelled, "a mutation that removes :status")
			}
			out = append(out, HeaderOp{Action: RemoveHeader, Name: strings.ToLower(a.Remove)})
		case *mutationrulesv3.HeaderMutation_Append:
			var change headerChange
			op, keep, err := change.option(a.Append)
			if err != nil {
				return nil, err
			}
			if change.unmodelled != "" {
				c.unmodelled = append(c.unmodelled, change.unmodelled)
			}
			if keep {
				out = append(out, op)
			}
		default:
			c.unmodelled = append(c.unmodelled, fmt.Sprintf("HeaderMutation.%T", m.Action))
		}
	}
	return out, nil
}

// levels are the changes in force: the filter's own first; of the routes' the most
// specific ones first, unless they are to win. A text: what is not modelled.
func (f *headerMutation) levels(s *stream) ([]*mutations, string) {
	if !s.choose() {
		return nil, s.unknown
	}
	levels := []*mutations{f.mutations}
	for level := range s.each {
		if c := level.config(f.name); c != nil {
			m, ok := c.(*mutations)
			if !ok {
				return nil, "route configuration of filter " + f.name
			}
			levels = append(levels, m)
		}
	}
	if f.outwards {
		slices.Reverse(levels[1:])
	}
	for _, m := range levels {
		if len(m.unmodelled) > 0 {
			return nil, "filter " + f.name + ": " + strings.Join(m.unmodelled, ", ")
		}
	}
	return levels, ""
}

func (f *headerMutation) decode(s *stream) *Outcome {
	levels, why := f.levels(s)
	if why != "" {
		return unknown(why)
	}
	for _, m := range levels {
		m.request.Apply(&s.headers)
		for _, op := range m.request {
			if op.Action == RemoveHeader && isPseudo(op.Name) {
				if why := s.lose(op.Name); why != "" {
					return unknown("filter " + f.name + ": " + why)
				}
			}
		}
	}
	s.reach("headers changed")
	return nil
}

// lose takes Host or a pseudo header from the request. Header options may not, this
// filter may (RemoveMutation::evaluateHeaders). What a filter behind it would make of
// such a request is not modelled.
func (s *stream) lose(name string) (unmodelled string) {
	for i, f := range s.listener.filters[s.at+1:] {
		switch f.filter.(type) {
		case router, *headerMutation:
		default:
			if s.off&(1<<(s.at+1+i)) == 0 {
				return "filter " + f.name + " behind one that removes " + name
			}
		}
	}
	switch name {
	case ":authority", "host":
		s.authority, s.lost.host = "", true
	case ":path":
		s.lost.path = true
	case ":method":
		s.lost.method = true
	case ":scheme":
		s.lost.scheme = true
	}
	return ""
}

// lost are the parts of a request that a filter removed.
type lost struct{ host, path, method, scheme bool }

// incomplete is the answer to a request that lacks what each must have: the router
// finds out when it sends it (HeaderUtility::checkRequiredRequestHeaders in
// UpstreamCodecFilter::decodeHeaders). One without Host is sent.
func (rt *route) incomplete(s *stream) *Outcome {
	if s.lost == (lost{}) {
		return nil
	}
	a := rt.action
	switch {
	case a == nil:
		return unknown("an answer of the route to a request whose pseudo headers a filter removed")
	case s.lost.host && (a.hostRewrite != "" || s.branch.hostRewrite != ""), s.lost.path && (a.rewrite.to != "" || a.regex != nil):
		return unknown("a rewrite of what a filter removed")
	case s.lost.method:
		return s.local(503, "missing required header: :method", "filter_removed_required_request_headers")
	case s.lost.path:
		return s.local(503, "missing required header: :path", "filter_removed_required_request_headers")
	}
	return nil
}

// respond changes the answer, whoever gives it: also where the request did not come
// as far as this filter.
func (f *headerMutation) respond(s *stream) *Outcome {
	levels, why := f.levels(s)
	if why != "" {
		return unknown(why)
	}
	for _, m := range levels {
		for _, op := range m.response {
			s.answering(op.Action, op.Name, op.Value)
		}
	}
	return nil
}

// respond lets the filters speak that change every answer of the chain.
func (l *listener) respond(s *stream) *Outcome {
	if !l.responds {
		return nil
	}
	at := s.at
	for i, f := range l.filters {
		m, ok := f.filter.(*headerMutation)
		if !ok || s.off&(1<<i) != 0 {
			continue
		}
		s.at = i
		if o := m.respond(s); o != nil {
			return o
		}
	}
	s.at = at
	slices.SortStableFunc(s.response, func(a, b HeaderOp) int { return a.at - b.at })
	return nil
}
