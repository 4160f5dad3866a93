package explain

import (
	"fmt"
	"strings"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/topology"
)

// Share is one of several destinations among which a route chooses by weight, and what
// becomes of the call there.
type Share struct {
	Backend string  `json:"backend"` // NAMESPACE/SERVICE:PORT as the gateway names it
	Subset  string  `json:"subset,omitempty"`
	Weight  uint64  `json:"weight"`
	Of      uint64  `json:"of"`    // all weights of the route
	Taken   bool    `json:"taken"` // by the walk that the answer tells
	Outcome Outcome `json:"outcome"`
	Status  int     `json:"status"`

	dice uint64 // what chooses it
}

// shares are the destinations of a weighted route that calls are sent to; nil where
// there is no choice. Weight 0 gets no call.
func shares(list []envoy.Share, dice uint64) []Share {
	var out []Share
	var sum uint64
	for _, s := range list {
		if s.Weight == 0 {
			continue
		}
		share := Share{Backend: backendOf(s.Cluster), Weight: uint64(s.Weight), dice: sum}
		if c, err := topology.ParseCluster(s.Cluster); err == nil {
			share.Subset = c.Subset
		}
		sum += share.Weight
		out = append(out, share)
	}
	if len(out) < 2 {
		return nil
	}
	for i := range out {
		s := &out[i]
		s.Of, s.Taken = sum, s.dice <= dice && dice < s.dice+s.Weight
	}
	return out
}

// alternatives walks each way that a gateway's weights may choose, one other choice at a
// time, and says where the answer would be another one.
func (w *walk) alternatives() {
	for i := range w.answer.Hops {
		list := w.answer.Hops[i].Shares
		var taken, others []string
		matters := w.answer.Outcome == Forwarded
		for j := range list {
			s := &list[j]
			if s.Taken {
				s.Outcome, s.Status = w.answer.Outcome, w.answer.Status
				taken = append(taken, s.name())
				continue
			}
			other := w.system.walk(w.ctx, w.call, w.start)
			other.dice = map[int]uint64{i: s.dice}
			other.run()
			s.Outcome, s.Status = other.answer.Outcome, other.answer.Status
			others = append(others, s.String())
			matters = matters || s.Outcome != w.answer.Outcome || s.Status != w.answer.Status
		}
		if len(list) > 0 && matters {
			w.assume(fmt.Sprintf("the route's weights choose %s; %s", strings.Join(taken, ""), strings.Join(others, "; ")))
		}
	}
}

func (s Share) name() string {
	if s.Subset != "" {
		return s.Backend + " subset " + s.Subset
	}
	return s.Backend
}

// String is "90 of 100 calls go to NAMESPACE/SERVICE:PORT: refused with 403".
func (s Share) String() string {
	text := fmt.Sprintf("%d of %d calls go to %s: %s", s.Weight, s.Of, s.name(), s.Outcome)
	if s.Status != 0 {
		text += fmt.Sprintf(" with %d", s.Status)
	}
	return text
}
