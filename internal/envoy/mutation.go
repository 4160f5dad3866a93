package envoy

import (
	"fmt"
	"slices"
	"strings"

	mutationrulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
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
	request, response []mutation
	unmodelled        []string
}

// mutation removes a header, or does what an option says.
type mutation struct {
	remove string
	option headerOption
}

func compileHeaderMutation(name string, c *mutationv3.HeaderMutation) *headerMutation {
	f := &headerMutation{name: name, mutations: compileMutations(c.GetMutations()), outwards: c.MostSpecificHeaderMutationsWins}
	f.mutations.unmodelled = append(f.mutations.unmodelled, fieldsBut(c, "mutations", "most_specific_header_mutations_wins")...)
	return f
}

func compileMutations(m *mutationv3.Mutations) *mutations {
	c := &mutations{unmodelled: fieldsBut(m, "request_mutations", "response_mutations")}
	c.request, c.response = c.compile(m.GetRequestMutations()), c.compile(m.GetResponseMutations())
	return c
}

func (c *mutations) compile(in []*mutationrulesv3.HeaderMutation) []mutation {
	var out []mutation
	for _, m := range in {
		switch a := m.Action.(type) {
		case *mutationrulesv3.HeaderMutation_Remove:
			out = append(out, mutation{remove: strings.ToLower(a.Remove)})
		case *mutationrulesv3.HeaderMutation_Append:
			var change headerChange
			options, err := change.options([]*corev3.HeaderValueOption{a.Append})
			if err != nil || change.unmodelled != "" {
				c.unmodelled = append(c.unmodelled, change.unmodelled)
				continue
			}
			out = append(out, mutation{option: options[0]})
		default:
			c.unmodelled = append(c.unmodelled, fmt.Sprintf("HeaderMutation.%T", m.Action))
		}
	}
	return out
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
		for _, x := range m.request {
			switch name := x.option.name; {
			case x.remove != "":
				s.headers.Remove(x.remove)
			case name == ":authority" || name == "host":
				s.authority = x.option.value
			default:
				x.option.apply(&s.headers)
			}
		}
	}
	s.reach("headers changed")
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
		for _, x := range m.response {
			if x.remove != "" {
				s.answering(RemoveHeader, x.remove, "")
			} else {
				s.answering(headerAction(x.option.action), x.option.name, x.option.value)
			}
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
