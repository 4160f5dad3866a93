package envoy

import (
	"fmt"
	"slices"
	"sort"

	"google.golang.org/protobuf/proto"
)

// truth is a three-valued truth: what depends on something not modelled is
// maybe, unless the other operand decides (Kleene's logic).
type truth int8

const (
	no truth = iota
	maybe
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

func (t truth) not() truth { return yes - t }

// fieldsBut lists the set fields of a message that are not among the known
// ones, each as "Message.field". Known means modelled, or without influence on
// what this engine answers.
func fieldsBut(m proto.Message, known ...string) []string {
	if m == nil || !m.ProtoReflect().IsValid() {
		return nil
	}
	var out []string
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); r.Has(f) && !slices.Contains(known, string(f.Name())) {
			out = append(out, fmt.Sprintf("%s.%s", r.Descriptor().Name(), f.Name()))
		}
	}
	sort.Strings(out)
	return out
}
