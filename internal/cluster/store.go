package cluster

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"postern.dev/postern/internal/manifest"
)

// store holds the objects of one watch, read. It is what a Reflector writes to.
type store struct {
	kind    kind
	changed func()                       // called after each change that matters
	refused func(object string, e error) // of an object that could not be read

	mu      sync.Mutex
	objects map[string]entry
	synced  bool
	seed    maphash.Seed
}

// entry is one object, and what was read of it: an update that changes nothing else is
// none.
type entry struct {
	packed
	read bool // false when it could not be read
	hash uint64
}

func newStore(k kind, changed func(), refused func(string, error)) *store {
	return &store{kind: k, changed: changed, refused: refused, objects: map[string]entry{}, seed: maphash.MakeSeed()}
}

// read takes one object as it came from the watch, stripped already.
func (s *store) read(obj any) (key string, e entry, err error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return "", entry{}, fmt.Errorf("got a %T", obj)
	}
	key = u.GetNamespace() + "/" + u.GetName()
	// Without the version, which changes with fields that are not read.
	version := u.GetResourceVersion()
	unstructured.RemoveNestedField(u.Object, "metadata", "resourceVersion")
	defer u.SetResourceVersion(version)
	text, err := json.Marshal(u.Object)
	if err != nil {
		return key, entry{}, err
	}
	e.hash = maphash.Bytes(s.seed, text)
	s.mu.Lock()
	have, ok := s.objects[key]
	s.mu.Unlock()
	if ok && have.hash == e.hash {
		return key, have, nil
	}
	object, err := live(u.Object)
	if err == nil {
		e.packed, e.read = pack(object), true
		err = object.Unread
	}
	if err != nil {
		s.refused(key, err)
	}
	return key, e, nil
}

// live is manifest.Live. A fault in reading one object leaves that one out.
func live(value map[string]any) (o *manifest.Object, err error) {
	defer func() {
		if p := recover(); p != nil {
			o, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	return manifest.Live(value)
}

// Add is Update.
func (s *store) Add(obj any) error { return s.Update(obj) }

// Update puts an object in, in place of the one of its name.
func (s *store) Update(obj any) error {
	key, e, err := s.read(obj)
	if err != nil {
		return err
	}
	s.mu.Lock()
	have, ok := s.objects[key]
	s.objects[key] = e
	s.mu.Unlock()
	if !ok || have.hash != e.hash {
		s.changed()
	}
	return nil
}

// Delete takes an object out.
func (s *store) Delete(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("got a %T", obj)
	}
	s.mu.Lock()
	delete(s.objects, u.GetNamespace()+"/"+u.GetName())
	s.mu.Unlock()
	s.changed()
	return nil
}

// Replace takes a whole list for what there is now.
func (s *store) Replace(list []any, _ string) error {
	now := make(map[string]entry, len(list))
	for _, obj := range list {
		key, e, err := s.read(obj)
		if err != nil {
			return err
		}
		now[key] = e
	}
	s.mu.Lock()
	same := s.synced && len(now) == len(s.objects)
	for key, e := range now {
		have, ok := s.objects[key]
		same = same && ok && have.hash == e.hash
	}
	s.objects, s.synced = now, true
	s.mu.Unlock()
	if !same {
		s.changed()
	}
	return nil
}

// Resync has nothing to do: nobody but the builder looks, and looks at everything.
func (s *store) Resync() error { return nil }

// all are the objects that could be read. ready is whether they have been listed.
func (s *store) all() (objects []*manifest.Object, ready bool, err error) {
	s.mu.Lock()
	entries := make([]entry, 0, len(s.objects))
	for _, key := range slices.Sorted(maps.Keys(s.objects)) { // so that replicas agree
		if e := s.objects[key]; e.read {
			entries = append(entries, e)
		}
	}
	ready = s.synced
	s.mu.Unlock()
	objects = make([]*manifest.Object, len(entries))
	for i, e := range entries {
		if objects[i], err = e.object(); err != nil {
			return nil, false, err
		}
	}
	return objects, ready, nil
}

// size is how many objects there are. ready is whether they have been listed.
func (s *store) size() (n int, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.objects), s.synced
}
