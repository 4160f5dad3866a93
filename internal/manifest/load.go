package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	yaml "go.yaml.in/yaml/v3"
	segment "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	maxFile  = 16 << 20  // bytes of one file
	maxNodes = 2_000_000 // YAML nodes of one file, aliases expanded
	maxDepth = 1000      // of the nodes
)

// Files reads the named files, directories (their .yaml, .yml and .json files,
// not deeper, as kubectl apply -f does) and "-", standard input.
func Files(names []string, stdin io.Reader) (*Set, error) {
	l := &loader{}
	l.names(names, stdin)
	return l.set()
}

// FilesOfCluster is Files for a program that runs no gateway of its own: objects of
// kinds that change what a gateway does and are not read here (ServiceEntry, HTTPRoute,
// ServingRuntime, ...) are left out and named in Set.Unread, where Files refuses them.
// The gateway does what they say, and the program learns of its routes from it.
func FilesOfCluster(names []string) (*Set, error) {
	l := &loader{leave: true}
	l.names(names, nil)
	return l.set()
}

// FilesKeeping is Files for names that are read again and again: what came from
// standard input the first time is kept in stdin and read from there later.
func FilesKeeping(names []string, in io.Reader, stdin *[]byte) (*Set, error) {
	for _, name := range names {
		if name == "-" && *stdin == nil {
			data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
			if err != nil {
				return nil, fmt.Errorf("-: %w", err)
			}
			*stdin = append([]byte{}, data...)
		}
	}
	return Files(names, bytes.NewReader(*stdin))
}

// FS reads directories of a file system, such as the embedded examples.
func FS(fsys fs.FS, dirs ...string) (*Set, error) {
	l := &loader{}
	for _, d := range dirs {
		l.dir(fsys, d, func(f string) string { return f })
	}
	return l.set()
}

// Bytes reads one YAML stream; name stands for the file in errors.
func Bytes(name string, data []byte) (*Set, error) {
	l := &loader{}
	l.read(name, bytes.NewReader(data))
	return l.set()
}

type loader struct {
	leave    bool // out what is not read and concerns gateways
	objects  []*Object
	unread   []*Object
	warnings []error
	errs     []error
}

func (l *loader) names(names []string, stdin io.Reader) {
	for _, name := range names {
		switch info, err := os.Stat(name); {
		case name == "-":
			l.read("-", stdin)
		case err != nil:
			l.errs = append(l.errs, err)
		case info.IsDir():
			l.dir(os.DirFS(name), ".", func(f string) string { return filepath.Join(name, filepath.FromSlash(f)) })
		default:
			l.file(os.DirFS(filepath.Dir(name)), filepath.Base(name), name)
		}
	}
}

func (l *loader) set() (*Set, error) {
	s, err := New(l.objects...)
	if err := errors.Join(errors.Join(l.errs...), err); err != nil {
		return nil, err
	}
	s.warnings, s.unread = l.warnings, l.unread
	return s, nil
}

func (l *loader) dir(fsys fs.FS, dir string, display func(string) string) {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	found := false
	for _, e := range entries {
		switch path.Ext(e.Name()) {
		case ".yaml", ".yml", ".json":
			if !e.IsDir() {
				found = true
				f := path.Join(dir, e.Name())
				l.file(fsys, f, display(f))
			}
		}
	}
	if !found {
		l.errs = append(l.errs, fmt.Errorf("%s: no .yaml, .yml or .json file in this directory", display(dir)))
	}
}

func (l *loader) file(fsys fs.FS, name, display string) {
	f, err := fsys.Open(name)
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	defer f.Close()
	l.read(display, f)
}

func (l *loader) read(name string, r io.Reader) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		l.errs = append(l.errs, fmt.Errorf("%s: %w", name, err))
		return
	}
	if len(data) > maxFile {
		l.errs = append(l.errs, fmt.Errorf("%s: larger than %d MiB", name, maxFile>>20))
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			l.errs = append(l.errs, fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: ")))
			return
		}
		budget := maxNodes
		root, err := expand(&doc, &budget, 0)
		if err != nil {
			l.errs = append(l.errs, fmt.Errorf("%s:%w", name, err))
			continue
		}
		if len(root.Content) > 0 && root.Content[0].ShortTag() != "!!null" {
			l.document(name, root.Content[0])
		}
	}
}

// document reads one object, or each object of a List.
func (l *loader) document(file string, n *yaml.Node) {
	o := &Object{Source: Source{file, n.Line}}
	if n.Kind != yaml.MappingNode {
		l.errs = append(l.errs, o.Errorf("", "got %s, want a Kubernetes object", describe(n)))
		return
	}
	o.APIVersion, o.Kind = text(n, "apiVersion"), text(n, "kind")
	if o.APIVersion == "" || o.Kind == "" {
		l.errs = append(l.errs, &Error{Source: o.Source, Msg: "apiVersion and kind are required"})
		return
	}
	if items := child(n, "items"); strings.HasSuffix(o.Kind, "List") && items != nil && items.Kind == yaml.SequenceNode {
		for _, item := range items.Content {
			l.document(file, item)
		}
		return
	}
	l.object(o, n)
}

func (l *loader) object(o *Object, n *yaml.Node) {
	var err error
	if o.JSON, err = json.Marshal(toValue(n)); err != nil {
		l.errs = append(l.errs, o.Errorf("", "%v", err))
		return
	}
	c := &checker{object: o}
	if meta := child(n, "metadata"); meta != nil {
		c.goType(meta, new(metav1.ObjectMeta))
		if len(c.errs) == 0 {
			var head struct{ Metadata metav1.ObjectMeta }
			if err := json.Unmarshal(o.JSON, &head); err != nil {
				c.fail(meta, "metadata", "%v", err)
			}
			o.Meta = head.Metadata
		}
	}
	if len(c.errs) == 0 && o.Meta.Name == "" {
		c.fail(n, "metadata.name", "required")
	}
	if len(c.errs) == 0 {
		c.names(child(n, "metadata"))
	}
	if len(c.errs) > 0 {
		l.errs = append(l.errs, c.errs...)
		return
	}
	k, known := kinds[o.Group()+"/"+o.Kind]
	if !known {
		switch err := unsupported(o); {
		case err != nil && l.leave && o.Group() != "apikeys.postern.dev":
			l.unread = append(l.unread, o)
		case err != nil:
			l.errs = append(l.errs, err)
		}
		l.objects = append(l.objects, o)
		return
	}
	if o.Meta.Namespace == "" && !k.clusterWide {
		o.Meta.Namespace = "default"
	}
	warnings, errs := k.decode(o, n)
	setMeta(o)
	l.warnings = append(l.warnings, warnings...)
	l.errs = append(l.errs, errs...)
	l.objects = append(l.objects, o)
}

// names checks the object's name and namespace as the API server does: they come to
// stand in commands, paths and the names of callers.
func (c *checker) names(meta *yaml.Node) {
	o := c.object
	wrong := segment.IsValidPathSegmentName(o.Meta.Name)
	// Roles and their bindings have names such as "system:auth-delegator".
	if _, known := kinds[o.Group()+"/"+o.Kind]; known && o.Group() != "rbac.authorization.k8s.io" {
		wrong = validation.IsDNS1123Subdomain(o.Meta.Name)
	}
	for _, why := range wrong {
		c.fail(child(meta, "name"), "metadata.name", "got %q: %s", o.Meta.Name, why)
	}
	if ns := o.Meta.Namespace; ns != "" {
		for _, why := range validation.IsDNS1123Label(ns) {
			c.fail(child(meta, "namespace"), "metadata.namespace", "got %q: %s", ns, why)
		}
	}
}

// setMeta gives the typed object the namespace it was defaulted to.
func setMeta(o *Object) {
	if m, ok := o.Value.(metav1.Object); ok {
		m.SetNamespace(o.Meta.Namespace)
	}
}

// expand replaces aliases by what they stand for, resolves merge keys' absence
// and refuses a key given twice; budget bounds the result, and its depth is bounded
// because an alias may stand inside what it stands for.
func expand(n *yaml.Node, budget *int, depth int) (*yaml.Node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%d: nested more than %d deep", n.Line, maxDepth)
	}
	if *budget--; *budget < 0 {
		return nil, fmt.Errorf("%d: more than %d YAML nodes", n.Line, maxNodes)
	}
	if n.Kind == yaml.AliasNode {
		return expand(n.Alias, budget, depth+1)
	}
	out := *n
	out.Content = make([]*yaml.Node, len(n.Content))
	seen := map[string]bool{}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			if child.Kind != yaml.ScalarNode || child.ShortTag() == "!!merge" {
				return nil, fmt.Errorf("%d: got %s as a key, want a string", child.Line, describe(child))
			}
			if seen[child.Value] {
				return nil, fmt.Errorf("%d: key %q given twice", child.Line, child.Value)
			}
			seen[child.Value] = true
		}
		c, err := expand(child, budget, depth+1)
		if err != nil {
			return nil, err
		}
		out.Content[i] = c
	}
	return &out, nil
}

// toValue is the JSON value of a node.
func toValue(n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			m[n.Content[i].Value] = toValue(n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		s := make([]any, len(n.Content))
		for i, e := range n.Content {
			s[i] = toValue(e)
		}
		return s
	}
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool", "!!int", "!!float":
		var v any
		if err := n.Decode(&v); err != nil {
			return n.Value
		}
		if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
			return n.Value
		}
		return v
	}
	return n.Value
}

func child(n *yaml.Node, name string) *yaml.Node {
	if n == nil {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func text(n *yaml.Node, name string) string {
	if c := child(n, name); c != nil && c.Kind == yaml.ScalarNode {
		return c.Value
	}
	return ""
}

// FileNames lists the files that Files(names) would read, for watching them.
func FileNames(names []string) []string {
	var out []string
	for _, name := range names {
		info, err := os.Stat(name)
		if name == "-" || err != nil {
			continue
		}
		if !info.IsDir() {
			out = append(out, name)
			continue
		}
		entries, _ := os.ReadDir(name)
		for _, e := range entries {
			switch filepath.Ext(e.Name()) {
			case ".yaml", ".yml", ".json":
				out = append(out, filepath.Join(name, e.Name()))
			}
		}
	}
	sort.Strings(out)
	return out
}
