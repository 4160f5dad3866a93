package envoy

import (
	"slices"
	"sort"
	"strings"
)

// routeIndex finds the routes of a virtual host that a path can match, so that a
// host with thousands of routes costs a request little more than one with ten.
// Envoy tries the routes in their order; so does whoever asks the index.
type routeIndex struct{ keys []routeKey } // sorted by text

// routeKey is a text that paths begin with.
type routeKey struct {
	text   string
	parent int     // the longest other key that text begins with, -1 for none
	exact  []int32 // places of the routes that match this path and no other
	prefix []int32 // places of the routes that only match paths that begin so
}

// indexed is how many routes a virtual host must have for an index to pay.
const indexed = 9

// newRouteIndex is nil where trying one route after the other is as good.
func newRouteIndex(routes []*route) *routeIndex {
	if len(routes) < indexed {
		return nil
	}
	keys := map[string]*routeKey{}
	for i, r := range routes {
		text, whole := r.matches.path.start()
		k := keys[text]
		if k == nil {
			k = &routeKey{text: text, parent: -1}
			keys[text] = k
		}
		if whole {
			k.exact = append(k.exact, int32(i))
		} else {
			k.prefix = append(k.prefix, int32(i))
		}
	}
	ix := &routeIndex{keys: make([]routeKey, 0, len(keys))}
	for _, k := range keys {
		ix.keys = append(ix.keys, *k)
	}
	slices.SortFunc(ix.keys, func(a, b routeKey) int { return strings.Compare(a.text, b.text) })
	for i := range ix.keys {
		ix.keys[i].parent = ix.above(i-1, ix.keys[i].text)
	}
	return ix
}

// start is a text that every match of m begins with; whole: it is the only match.
func (m *stringMatcher) start() (text string, whole bool) {
	if m.fold {
		return "", false
	}
	switch m.kind {
	case textExact:
		return m.pattern, true
	case textPrefix, textSeparated, textHost, textJudged:
		return m.pattern, false
	}
	return "", false
}

// above goes from a key to the next longest ones until the path begins with it.
func (ix *routeIndex) above(i int, path string) int {
	for i >= 0 && !strings.HasPrefix(path, ix.keys[i].text) {
		i = ix.keys[i].parent
	}
	return i
}

// longest is the longest key that the path begins with, -1 for none. All keys
// between it and the path, in their order, begin with it: so it is the last key
// that does not come after the path, or stands above that one.
func (ix *routeIndex) longest(path string) int {
	return ix.above(sort.Search(len(ix.keys), func(i int) bool { return ix.keys[i].text > path })-1, path)
}

// find is the first route that matches, in the order of the configuration; maybe
// when it depends on something not modelled.
func (vh *virtualHost) find(s *stream, path, query string) (*route, truth) {
	if vh.index == nil {
		return vh.scan(s, path, query)
	}
	var lists [12][]int32 // the places to try: one list for each key, each in order
	n := 0
	for k := vh.index.longest(path); k >= 0; k = vh.index.keys[k].parent {
		key := &vh.index.keys[k]
		if n+2 > len(lists) {
			return vh.scan(s, path, query)
		}
		if len(key.exact) > 0 && len(key.text) == len(path) {
			lists[n] = key.exact
			n++
		}
		if len(key.prefix) > 0 {
			lists[n] = key.prefix
			n++
		}
	}
	for {
		first := -1
		for i := range n {
			if len(lists[i]) > 0 && (first < 0 || lists[i][0] < lists[first][0]) {
				first = i
			}
		}
		if first < 0 {
			return nil, no
		}
		r := vh.routes[lists[first][0]]
		lists[first] = lists[first][1:]
		if t := r.matches.testPath(s, path, query); t != no {
			return r, t
		}
	}
}

func (vh *virtualHost) scan(s *stream, path, query string) (*route, truth) {
	for _, r := range vh.routes {
		if t := r.matches.testPath(s, path, query); t != no {
			return r, t
		}
	}
	return nil, no
}
