package manifest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// checker walks a document beside the type it is to become and collects what
// does not fit, each with its line and field.
type checker struct {
	object  *Object
	errs    []error
	unknown []error
	// lines is added to every line: the walk is inside a YAML text embedded in
	// another; fixed: that text has no lines of its own.
	lines int
	fixed bool
}

func (c *checker) errorAt(n *yaml.Node, field, format string, args ...any) error {
	line := n.Line + c.lines
	if c.fixed {
		line = c.lines
	}
	return &Error{Source: Source{c.object.Source.File, line}, Object: c.object.String(), Field: field, Msg: fmt.Sprintf(format, args...)}
}

func (c *checker) fail(n *yaml.Node, field, format string, args ...any) {
	c.errs = append(c.errs, c.errorAt(n, field, format, args...))
}

func (c *checker) unknownField(n *yaml.Node, field string, known []string) {
	hint := ""
	if near := nearest(n.Value, known); near != "" {
		hint = fmt.Sprintf(", did you mean %q?", near)
	}
	c.unknown = append(c.unknown, c.errorAt(n, field, "unknown field%s", hint))
}

var jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()

// goType checks n against the Go type that encoding/json would fill.
func (c *checker) goType(n *yaml.Node, v any) {
	c.value(n, reflect.TypeOf(v).Elem(), "")
	c.errs = append(c.errs, c.unknown...)
	c.unknown = nil
}

func (c *checker) value(n *yaml.Node, t reflect.Type, path string) {
	if n.ShortTag() == "!!null" {
		return
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(jsonUnmarshaler) {
		return // IntOrString, Quantity, Time: json.Unmarshal judges them
	}
	switch t.Kind() {
	case reflect.Struct:
		c.structure(n, t, path)
	case reflect.Map:
		if c.want(n, path, yaml.MappingNode, "a mapping") {
			for i := 0; i+1 < len(n.Content); i += 2 {
				c.value(n.Content[i+1], t.Elem(), path+"["+n.Content[i].Value+"]")
			}
		}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			c.scalar(n, path, "!!str", "a base64 string")
		} else if c.want(n, path, yaml.SequenceNode, "a list") {
			for i, e := range n.Content {
				c.value(e, t.Elem(), fmt.Sprintf("%s[%d]", path, i))
			}
		}
	case reflect.String:
		c.scalar(n, path, "!!str", "a string")
	case reflect.Bool:
		c.scalar(n, path, "!!bool", "true or false")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		c.scalar(n, path, "!!int", "an integer")
	}
}

func (c *checker) structure(n *yaml.Node, t reflect.Type, path string) {
	if !c.want(n, path, yaml.MappingNode, "a mapping") {
		return
	}
	fields := map[string]reflect.Type{}
	jsonFields(t, fields)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		ft, ok := fields[key.Value]
		if !ok {
			c.unknownField(key, join(path, key.Value), sortedKeys(fields))
			continue
		}
		c.value(n.Content[i+1], ft, join(path, key.Value))
	}
}

// jsonFields collects the names encoding/json gives to the fields of t.
func jsonFields(t reflect.Type, into map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case name == "" && (f.Anonymous || strings.Contains(opts, "inline")):
			ft := f.Type
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			jsonFields(ft, into)
		case name == "":
			into[f.Name] = f.Type
		default:
			into[name] = f.Type
		}
	}
}

// message checks n against a protobuf message in its JSON form
// (https://protobuf.dev/programming-guides/json/).
func (c *checker) message(n *yaml.Node, d protoreflect.MessageDescriptor, path string) {
	if n.ShortTag() == "!!null" {
		return
	}
	if d.ParentFile().Package() == "google.protobuf" {
		return // Struct, Duration, wrappers, Any: protojson judges them
	}
	if !c.want(n, path, yaml.MappingNode, "a mapping") {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		f := d.Fields().ByJSONName(key.Value)
		if f == nil {
			f = d.Fields().ByTextName(key.Value)
		}
		if f == nil {
			c.unknownField(key, join(path, key.Value), jsonNames(d))
			continue
		}
		c.field(n.Content[i+1], f, join(path, key.Value))
	}
}

func (c *checker) field(n *yaml.Node, f protoreflect.FieldDescriptor, path string) {
	switch {
	case n.ShortTag() == "!!null":
	case f.IsMap():
		if c.want(n, path, yaml.MappingNode, "a mapping") {
			for i := 0; i+1 < len(n.Content); i += 2 {
				c.single(n.Content[i+1], f.MapValue(), path+"["+n.Content[i].Value+"]")
			}
		}
	case f.IsList():
		if c.want(n, path, yaml.SequenceNode, "a list") {
			for i, e := range n.Content {
				c.single(e, f, fmt.Sprintf("%s[%d]", path, i))
			}
		}
	default:
		c.single(n, f, path)
	}
}

func (c *checker) single(n *yaml.Node, f protoreflect.FieldDescriptor, path string) {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		c.message(n, f.Message(), path)
	case protoreflect.StringKind:
		c.scalar(n, path, "!!str", "a string")
	case protoreflect.BoolKind:
		c.scalar(n, path, "!!bool", "true or false")
	case protoreflect.EnumKind:
		c.enum(n, f.Enum(), path)
	case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		if n.ShortTag() != "!!int" {
			if _, err := strconv.ParseInt(n.Value, 10, 64); err != nil {
				c.scalar(n, path, "!!int", "an integer")
			}
		}
	}
}

func (c *checker) enum(n *yaml.Node, e protoreflect.EnumDescriptor, path string) {
	if n.ShortTag() == "!!int" || e.Values().ByName(protoreflect.Name(n.Value)) != nil {
		return
	}
	var names []string
	for i := range e.Values().Len() {
		names = append(names, string(e.Values().Get(i).Name()))
	}
	c.fail(n, path, "got %q, want one of %s", n.Value, strings.Join(names, ", "))
}

func (c *checker) want(n *yaml.Node, path string, kind yaml.Kind, name string) bool {
	if n.Kind == kind {
		return true
	}
	c.fail(n, path, "got %s, want %s", describe(n), name)
	return false
}

func (c *checker) scalar(n *yaml.Node, path, tag, name string) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != tag {
		c.fail(n, path, "got %s, want %s", describe(n), name)
	}
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		v := n.Value
		if len(v) > 40 {
			v = v[:40] + "..."
		}
		switch n.ShortTag() {
		case "!!int", "!!float", "!!bool":
			return v
		}
		return strconv.Quote(v)
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func jsonNames(d protoreflect.MessageDescriptor) []string {
	var names []string
	for i := range d.Fields().Len() {
		names = append(names, d.Fields().Get(i).JSONName())
	}
	sort.Strings(names)
	return names
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// nearest is the name of known that differs from name by at most two edits,
// for a hint; "" when there is none.
func nearest(name string, known []string) string {
	best, at := "", 3
	for _, k := range known {
		if d := edits(strings.ToLower(name), strings.ToLower(k), 2); d < at && d < len(name) {
			best, at = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance of a and b, or limit+1 when it is larger.
func edits(a, b string, limit int) int {
	if d := len(a) - len(b); d > limit || -d > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
