package cluster

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"unique"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"postern.dev/postern/internal/manifest"
)

// packed is an object as it waits for the next snapshot: encoded, in one piece. There
// may be very many, and each piece of a decoded one is work for every garbage
// collection, which those who ask for a decision would wait for.
//
// InferenceServices stay as they are: they have no short encoding of their own, and
// there are the fewest of them. So does what cannot be encoded: an object must not stop
// to count because it could not be put by.
type packed struct {
	whole            *manifest.Object // what is not packed; the rest is empty then
	apiVersion, kind string
	text             []byte // the metadata, then the value
	meta             int    // bytes of the metadata
	value            reflect.Type
	unread           error
}

// wire is how the API's own types are encoded.
type wire interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// pack encodes an object of manifest.Live.
func pack(o *manifest.Object) packed {
	var value []byte
	var err error
	switch v := o.Value.(type) {
	case *manifest.InferenceService, *manifest.InferenceGraph:
		return packed{whole: o}
	case proto.Message:
		value, err = proto.Marshal(v)
	case wire:
		value, err = v.Marshal()
	default:
		value, err = json.Marshal(v)
	}
	meta, err2 := o.Meta.Marshal()
	if err != nil || err2 != nil {
		return packed{whole: o}
	}
	return packed{
		apiVersion: unique.Make(o.APIVersion).Value(), kind: unique.Make(o.Kind).Value(), unread: o.Unread,
		text: slices.Concat(meta, value), meta: len(meta), value: reflect.TypeOf(o.Value).Elem(),
	}
}

// object decodes it.
func (p packed) object() (*manifest.Object, error) {
	if p.whole != nil {
		return p.whole, nil
	}
	o := &manifest.Object{APIVersion: p.apiVersion, Kind: p.kind, Value: reflect.New(p.value).Interface(), Unread: p.unread}
	if err := o.Meta.Unmarshal(p.text[:p.meta]); err != nil {
		return nil, err
	}
	var err error
	if v, ok := o.Value.(runtime.Object); ok {
		v.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(p.apiVersion, p.kind))
	}
	switch v := o.Value.(type) {
	case proto.Message:
		err = proto.Unmarshal(p.text[p.meta:], v)
	case wire:
		err = v.Unmarshal(p.text[p.meta:])
	default:
		err = json.Unmarshal(p.text[p.meta:], v)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o, err)
	}
	return o, nil
}
