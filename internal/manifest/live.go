package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	yaml "go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Live reads one object as an API server gives it (the value of its JSON) by the
// rules for manifests, with two differences. A namespace is never defaulted. And an
// object that has a field which is not known here is not left out where that would
// change what others mean, such as a VirtualService whose host is somebody else's
// too: it is read without the field, and its Unread says so.
//
// An error names an object that is not read at all, and cannot count for anything.
// JSON is not kept.
func Live(value map[string]any) (*Object, error) {
	n, err := nodeOf(value)
	if err != nil {
		return nil, err
	}
	o := &Object{APIVersion: text(n, "apiVersion"), Kind: text(n, "kind")}
	if o.APIVersion == "" || o.Kind == "" {
		return nil, &Error{Msg: "apiVersion and kind are required"}
	}
	if o.JSON, err = json.Marshal(value); err != nil {
		return nil, o.Errorf("", "%v", err)
	}
	var head struct{ Metadata metav1.ObjectMeta }
	if err := json.Unmarshal(o.JSON, &head); err != nil {
		return nil, o.Errorf("metadata", "%v", err)
	}
	o.Meta = head.Metadata
	c := &checker{object: o}
	if o.Meta.Name == "" {
		c.fail(n, "metadata.name", "required")
	} else {
		c.names(child(n, "metadata"))
	}
	k, known := kinds[o.Group()+"/"+o.Kind]
	if !known {
		c.fail(n, "kind", "%s %s is not read here", o.APIVersion, o.Kind)
	} else if k.clusterWide != (o.Meta.Namespace == "") {
		c.fail(n, "metadata.namespace", "got %q", o.Meta.Namespace)
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	if _, errs := k.decode(o, n); len(errs) > 0 {
		o.Unread = errors.Join(errs...)
		if err := k.lenient(o); err != nil || !slices.Contains(kept, o.Group()+"/"+o.Kind) {
			return nil, o.Unread
		}
	}
	o.JSON = nil
	if m, ok := o.Value.(metav1.Object); ok { // one copy is enough
		m.SetLabels(o.Meta.Labels)
		m.SetAnnotations(o.Meta.Annotations)
		m.SetOwnerReferences(o.Meta.OwnerReferences)
	}
	return o, nil
}

// kept are the kinds of which an object that is not understood whole still stands in
// others' way. Of any other kind (a Role, a binding) it is nothing, and grants
// nothing. A ConfigMap's fields are texts; what stands in them is read by others.
var kept = []string{
	"/ConfigMap", "networking.istio.io/Gateway", "networking.istio.io/VirtualService",
	"serving.kserve.io/InferenceService", "serving.kserve.io/InferenceGraph", "apikeys.postern.dev/ApiKey",
}

// lenient fills Value with the fields that are known. What fails here, fails for
// Istio and KServe too.
func (k kind) lenient(o *Object) error {
	if k.typed != nil {
		o.Value = k.typed()
		return json.Unmarshal(o.JSON, o.Value)
	}
	var top struct{ Spec json.RawMessage }
	if err := json.Unmarshal(o.JSON, &top); err != nil {
		return err
	}
	m := k.spec()
	o.Value = m
	if len(top.Spec) == 0 {
		return nil
	}
	return (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(top.Spec, m)
}

// nodeOf is the YAML node of a JSON value.
func nodeOf(v any) (*yaml.Node, error) { return nodeAt(v, 0) }

func nodeAt(v any, depth int) (*yaml.Node, error) {
	scalar := func(tag, value string) (*yaml.Node, error) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}, nil
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("nested more than %d deep", maxDepth)
	}
	switch v := v.(type) {
	case nil:
		return scalar("!!null", "null")
	case bool:
		return scalar("!!bool", strconv.FormatBool(v))
	case string:
		return scalar("!!str", v)
	case int64:
		return scalar("!!int", strconv.FormatInt(v, 10))
	case float64:
		return scalar("!!float", strconv.FormatFloat(v, 'g', -1, 64))
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, e := range v {
			c, err := nodeAt(e, depth+1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, c)
		}
		return n, nil
	case map[string]any:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, key := range sortedKeys(v) {
			c, err := nodeAt(v[key], depth+1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, c)
		}
		return n, nil
	}
	return nil, fmt.Errorf("got a %T, want a JSON value", v)
}
