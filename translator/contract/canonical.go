package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
)

// randomLists are lists of strings whose order Istio takes from a map. Envoy reads them as sets.
var randomLists = map[string]bool{"spaceDelimitedClaims": true}

// Resource is one listener, route configuration or cluster in protojson.
type Resource struct {
	Name string
	JSON []byte
}

// Sorted returns the resources in canonical form: sorted by name, object keys sorted, no white space (protojson varies it on purpose).
func Sorted(resources []Resource) ([]json.RawMessage, error) {
	sort.SliceStable(resources, func(i, j int) bool { return resources[i].Name < resources[j].Name })
	out := make([]json.RawMessage, 0, len(resources))
	for _, r := range resources {
		v, err := decode(r.JSON)
		if err != nil {
			return nil, fmt.Errorf("resource %s: %w", r.Name, err)
		}
		sortLists(v)
		b, err := marshal(v)
		if err != nil {
			return nil, fmt.Errorf("resource %s: %w", r.Name, err)
		}
		out = append(out, bytes.TrimSpace(b))
	}
	return out, nil
}

// decode keeps numbers as they are written.
func decode(b []byte) (any, error) {
	var v any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	err := dec.Decode(&v)
	return v, err
}

func sortLists(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			sortLists(e)
		}
	case map[string]any:
		for k, e := range v {
			if list, ok := e.([]any); ok && randomLists[k] {
				sort.Slice(list, func(i, j int) bool { return fmt.Sprint(list[i]) < fmt.Sprint(list[j]) })
			}
			sortLists(e)
		}
	}
}

// RouteNames are the route configurations that listeners ask for by rds, sorted, each once.
func RouteNames(listeners []json.RawMessage) ([]string, error) {
	names := map[string]bool{}
	for _, l := range listeners {
		v, err := decode(l)
		if err != nil {
			return nil, err
		}
		collectRDS(v, names)
	}
	out := make([]string, 0, len(names))
	for n := range names {
		out = append(out, n)
	}
	sort.Strings(out)
	return out, nil
}

func collectRDS(v any, names map[string]bool) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			collectRDS(e, names)
		}
	case map[string]any:
		if rds, ok := v["rds"].(map[string]any); ok {
			if name, ok := rds["routeConfigName"].(string); ok {
				names[name] = true
			}
		}
		for _, e := range v {
			collectRDS(e, names)
		}
	}
}
