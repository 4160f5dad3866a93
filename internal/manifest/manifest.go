// Package manifest turns Kubernetes YAML into typed objects that know the
// file and line they come from. It is strict on the kinds Postern reads: an
// unknown field, a value of the wrong type or two objects of one name is an
// error that names file, line and field. Kinds that do not concern Postern are
// kept as they are, unread.
package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Source is the place of an object or a field: a file's name as the user gave
// it ("-" for standard input) and a line counted from 1.
type Source struct {
	File string
	Line int
}

// String is "file:line", or "" for an object that no file holds.
func (s Source) String() string {
	if s.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", s.File, s.Line)
}

// Error is one thing wrong with the manifests.
type Error struct {
	Source Source
	Object string // "Kind namespace/name", empty when not known yet
	Field  string // "spec.http[0].route", empty when it concerns the whole object
	Msg    string
}

func (e *Error) Error() string {
	var parts []string
	for _, p := range []string{e.Source.String(), e.Object, e.Field, e.Msg} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ": ")
}

// Object is one Kubernetes object.
type Object struct {
	APIVersion string
	Kind       string
	Meta       metav1.ObjectMeta
	Source     Source
	// Value is the typed object for the kinds Postern reads: a Kubernetes API
	// type (*corev1.Service, ...), the spec of an Istio kind (*v1alpha3.VirtualService,
	// ...) or *InferenceService. Nil for every other kind.
	Value any
	// JSON is the whole object as written, without defaults.
	JSON json.RawMessage
	// Unread says what of a live object could not be read (Live), nil for any other:
	// whoever judges by the object must not take it for what it seems.
	Unread error
	// Derived says which object this one was derived from, as KServe or Knative
	// would write it; empty for an object of the manifests.
	Derived string
}

// Group is the API group, "" for the core one.
func (o *Object) Group() string {
	if g, _, ok := strings.Cut(o.APIVersion, "/"); ok {
		return g
	}
	return ""
}

// Key names the object whatever its API version: "group/Kind/namespace/name".
func (o *Object) Key() string {
	return strings.Join([]string{o.Group(), o.Kind, o.Meta.Namespace, o.Meta.Name}, "/")
}

// String is "Kind namespace/name", or "Kind name" for a cluster-wide kind.
func (o *Object) String() string {
	if o.Meta.Namespace == "" {
		return o.Kind + " " + o.Meta.Name
	}
	return o.Kind + " " + o.Meta.Namespace + "/" + o.Meta.Name
}

// Errorf is an error about a field of the object, at the object's place.
func (o *Object) Errorf(field, format string, args ...any) error {
	return &Error{Source: o.Source, Object: o.String(), Field: field, Msg: fmt.Sprintf(format, args...)}
}

// Set is a snapshot of objects, each name once. It is immutable once built.
type Set struct {
	objects  []*Object
	byKey    map[string]*Object
	warnings []error
	unread   []*Object
}

// New builds a Set. Two objects of one name are an error that names both places.
func New(objects ...*Object) (*Set, error) {
	s := &Set{byKey: make(map[string]*Object, len(objects))}
	var errs []error
	for _, o := range objects {
		if first, ok := s.byKey[o.Key()]; ok {
			errs = append(errs, o.Errorf("metadata.name", "already defined at %s", first.Source))
			continue
		}
		s.byKey[o.Key()] = o
		s.objects = append(s.objects, o)
	}
	return s, errors.Join(errs...)
}

// With is a new Set of s and the objects that s does not hold yet: an object
// written by hand wins over a derived one of its name.
func (s *Set) With(objects ...*Object) *Set {
	n := &Set{byKey: make(map[string]*Object, len(s.objects)+len(objects)), warnings: s.warnings, unread: s.unread}
	for _, o := range append(append([]*Object{}, s.objects...), objects...) {
		if _, ok := n.byKey[o.Key()]; !ok {
			n.byKey[o.Key()] = o
			n.objects = append(n.objects, o)
		}
	}
	return n
}

// Warnings are the things that are allowed and very likely not meant, such as
// a field of an EnvoyFilter that Istio ignores.
func (s *Set) Warnings() []error { return s.warnings }

// Unread are the objects that FilesOfCluster left unread and that concern gateways.
func (s *Set) Unread() []*Object { return s.unread }

// All yields every object in the order it was read.
func (s *Set) All() iter.Seq[*Object] {
	return func(yield func(*Object) bool) {
		for _, o := range s.objects {
			if !yield(o) {
				return
			}
		}
	}
}

// Get finds an object by group, kind, namespace and name.
func (s *Set) Get(group, kind, namespace, name string) (*Object, bool) {
	o, ok := s.byKey[strings.Join([]string{group, kind, namespace, name}, "/")]
	return o, ok
}

// Sorted yields every object, ordered by kind, namespace and name: the order
// in which nothing depends on file names.
func (s *Set) Sorted() iter.Seq[*Object] {
	type keyed struct {
		key    string
		object *Object
	}
	sorted := make([]keyed, len(s.objects))
	for i, o := range s.objects {
		sorted[i] = keyed{o.Key(), o}
	}
	slices.SortFunc(sorted, func(a, b keyed) int { return strings.Compare(a.key, b.key) }) // each key once
	return func(yield func(*Object) bool) {
		for _, k := range sorted {
			if !yield(k.object) {
				return
			}
		}
	}
}

// Of yields the objects whose Value is a T, with that value:
//
//	for obj, svc := range manifest.Of[*corev1.Service](set) { ... }
func Of[T any](s *Set) iter.Seq2[*Object, T] {
	return func(yield func(*Object, T) bool) {
		for _, o := range s.objects {
			if v, ok := o.Value.(T); ok && !yield(o, v) {
				return
			}
		}
	}
}

// Find is Of for one object.
func Find[T any](s *Set, namespace, name string) (*Object, T, bool) {
	for o, v := range Of[T](s) {
		if o.Meta.Namespace == namespace && o.Meta.Name == name {
			return o, v, true
		}
	}
	var none T
	return nil, none, false
}
