// Package envoytest breaks Envoy configurations in one place each, for tests of what
// reads them.
package envoytest

import (
	"fmt"
	"maps"
	"slices"
)

// Ways are how many ways Break knows: remove, empty, turn into something else, repeat.
const Ways = 4

// Places are how many fields and elements a decoded JSON value holds, all levels
// counted.
func Places(v any) int {
	n := 0
	walk(v, "", func(string, any, func(any), func()) bool { n++; return true })
	return n
}

// Break changes the value in one place, 0 <= place < Places(v), in one of the Ways,
// and says where and how.
func Break(v any, place, way int) string {
	n, said := 0, ""
	walk(v, "", func(at string, old any, set func(any), repeat func()) bool {
		if n++; n <= place {
			return true
		}
		switch way % Ways {
		case 0:
			set(nil)
			said = "without " + at
		case 1:
			set(empty(old))
			said = "empty " + at
		case 2:
			set(other(old))
			said = fmt.Sprintf("%s changed to %v", at, other(old))
		default:
			repeat()
			said = at + " twice"
		}
		return false
	})
	return said
}

// walk visits fields by their names and elements by their places, outer ones first,
// until visit says no. To set a place to nil removes it.
func walk(v any, at string, visit func(at string, old any, set func(any), repeat func()) bool) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			set := func(x any) {
				if v[k] = x; x == nil {
					delete(v, k)
				}
			}
			repeat := func() {
				if list, ok := v[k].([]any); ok && len(list) > 0 {
					v[k] = append(slices.Clone(list), list[len(list)-1])
				}
			}
			if old := v[k]; k != "@type" && (!visit(at+"."+k, old, set, repeat) || !walk(old, at+"."+k, visit)) {
				return false
			}
		}
	case []any:
		for i, old := range v {
			where := fmt.Sprintf("%s[%d]", at, i)
			set := func(x any) {
				if v[i] = x; x == nil {
					v[i] = empty(old)
				}
			}
			if !visit(where, old, set, func() {}) || !walk(old, where, visit) {
				return false
			}
		}
	}
	return true
}

func empty(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return map[string]any{}
	case []any:
		return []any{}
	case string:
		return ""
	case float64:
		return 0.0
	case bool:
		return !v
	}
	return v
}

func other(v any) any {
	switch v := v.(type) {
	case string:
		return v + "*"
	case float64:
		return v + 1000
	case bool:
		return !v
	case []any:
		if len(v) > 0 {
			return v[1:]
		}
	}
	return empty(v)
}
