package territory

import (
	"maps"
	"slices"
	"strings"
)

// pack puts what a Map keeps of many hosts and models into few pieces: each piece that
// a pointer leads to is work for every garbage collection. It changes no judgement.
func (m *Map) pack() {
	var t texts
	shared := map[*Territory]*Territory{}
	names := 0
	for d := range m.tables() {
		for host, v := range d.exact {
			t.add(host)
			if v.byPath != nil || shared[v.fixed] != nil {
				continue
			}
			shared[v.fixed] = v.fixed
			names += len(v.fixed.VirtualServices)
			t.add(v.fixed.VirtualServices...)
			t.add(v.fixed.Resource.Namespace, v.fixed.Resource.Name)
		}
	}
	t.add(slices.Collect(maps.Keys(m.owned))...)
	t.done()

	all, lists := make([]Territory, 0, len(shared)), make([]string, 0, names)
	for old := range shared {
		begin := len(lists)
		for _, name := range old.VirtualServices {
			lists = append(lists, t.get(name))
		}
		now := *old
		now.VirtualServices = lists[begin:len(lists):len(lists)]
		now.Resource.Namespace, now.Resource.Name = t.get(now.Resource.Namespace), t.get(now.Resource.Name)
		all = append(all, now)
		shared[old] = &all[len(all)-1]
	}
	for d := range m.tables() {
		exact := make(map[string]vhost, len(d.exact))
		for host, v := range d.exact {
			if v.byPath == nil {
				v.fixed = shared[v.fixed]
			}
			exact[t.get(host)] = v
		}
		d.exact = exact
	}
	owned := make(map[string]bool, len(m.owned))
	for name := range m.owned {
		owned[t.get(name)] = true
	}
	m.owned = owned
}

// tables are the doors' tables, each once.
func (m *Map) tables() map[*door]bool {
	out := map[*door]bool{}
	for _, d := range m.doors {
		out[d] = true
	}
	return out
}

// texts are strings in one piece.
type texts struct {
	all strings.Builder
	at  map[string]int
	one string
}

func (t *texts) add(list ...string) {
	if t.at == nil {
		t.at = map[string]int{}
	}
	for _, s := range list {
		if _, ok := t.at[s]; !ok {
			t.at[s] = t.all.Len()
			t.all.WriteString(s)
		}
	}
}

func (t *texts) done() { t.one = strings.Clone(t.all.String()) }

// get is a string that was added.
func (t *texts) get(s string) string {
	at := t.at[s]
	return t.one[at : at+len(s)]
}
