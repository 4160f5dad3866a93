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

func (f *headerMutation) decode(s *stream) *Outcome {
	if !s.choose() {
		return unknown(s.unknown)
	}
	levels := []*mutations{f.mutations}
	for level := range s.each {
		if c := level[f.name]; c != nil && c != (disabled{}) {
			m, ok := c.(*mutations)
			if !ok {
				return unknown("route configuration of filter " + f.name)
			}
			levels = append(levels, m)
		}
	}
	// The filter's own come first; of the routes' the most specific ones, unless they
	// are to win.
	if f.outwards {
		slices.Reverse(levels[1:])
	}
	for _, m := range levels {
		if len(m.unmodelled) > 0 {
			return unknown("filter " + f.name + ": " + strings.Join(m.unmodelled, ", "))
		}
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
		for _, x := range m.response {
			if x.remove != "" {
				s.answering(RemoveHeader, x.remove, "")
			} else {
				s.answering(headerAction(x.option.action), x.option.name, x.option.value)
			}
		}
	}
	s.reach("headers changed")
	return nil
}
