package envoy

// misses tells the trace which half of each policy a request did not meet. It
// is called after the set was matched, and changes nothing.
func (set *policySet) misses(s *stream, stage string) {
	if s.trace == nil {
		return
	}
	for _, p := range set.policies {
		object, rule := istioPolicy(p.name)
		if object == "" {
			object = p.name
		}
		text := "does not match: the operation (to) is another"
		if anyOf(p.permissions)(s) == yes {
			text = "does not match: the source or a condition (from, when) is another"
		}
		s.trace.add(Step{Stage: stage, Text: text, Object: object, Rule: rule})
	}
}
