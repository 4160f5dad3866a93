// Package deploy holds Postern's own objects for the layouts of Kubeflow that it
// knows, as files, and puts them into a release's objects. They are what is applied
// to a cluster, and what the tests behind a real Envoy run.
package deploy

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	yaml "go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	sigsyaml "sigs.k8s.io/yaml"

	"postern.dev/postern/internal/manifest"
)

// FS holds the files. base is everywhere; a directory's removed.yaml names objects
// that go; provider.yaml is the entry of the mesh configuration.
//
//go:embed provider.yaml base/*.yaml authservice/*.yaml oauth2-proxy/*.yaml networkpolicies/*.yaml
var FS embed.FS

// Layout is how the gateways of a Kubeflow release are set up.
type Layout struct {
	// Release is the tag of kubeflow/manifests; "-shared" is its build with
	// upstream Knative's local gateway on the ingress gateway's pods.
	Release string
	// Dirs are the directories of FS whose objects it gets.
	Dirs []string
}

// Layouts are those that Postern knows.
func Layouts() []Layout {
	return []Layout{
		{"v1.4.0-shared", []string{"base", "authservice"}},
		{"v1.8.1-shared", []string{"base", "authservice"}},
		{"v1.9.1", []string{"base", "oauth2-proxy"}},
		{"v1.10.2", []string{"base", "oauth2-proxy"}},
		{"26.03", []string{"base", "oauth2-proxy", "networkpolicies"}},
	}
}

// Find is the layout of a release.
func Find(release string) (Layout, bool) {
	i := slices.IndexFunc(Layouts(), func(l Layout) bool { return l.Release == release })
	if i < 0 {
		return Layout{}, false
	}
	return Layouts()[i], true
}

// Objects are the layout's own objects, and those that go.
func (l Layout) Objects() (own, removed []*manifest.Object, err error) {
	var errs []error
	for _, dir := range l.Dirs {
		entries, err := FS.ReadDir(dir)
		errs = append(errs, err)
		for _, e := range entries {
			name := dir + "/" + e.Name()
			data, err := FS.ReadFile(name)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			set, err := manifest.Bytes(name, data)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			for o := range set.All() {
				if e.Name() == "removed.yaml" {
					removed = append(removed, o)
				} else {
					own = append(own, o)
				}
			}
		}
	}
	return own, removed, errors.Join(errs...)
}

// Into is a release's objects with Postern: its own added or in the place of those of
// their name, what it takes the place of gone, its provider in the mesh configuration.
// An object that was to go and is not there is an error: it is another layout.
func (l Layout) Into(release *manifest.Set) (*manifest.Set, error) {
	own, removed, err := l.Objects()
	if err != nil {
		return nil, err
	}
	gone := map[string]bool{}
	for _, o := range removed {
		if _, ok := release.Get(o.Group(), o.Kind, o.Meta.Namespace, o.Meta.Name); !ok {
			return nil, o.Errorf("", "is not among the objects: these are not of layout %s", l.Release)
		}
		gone[o.Key()] = true
	}
	for _, o := range own {
		gone[o.Key()] = true
	}
	mesh := false
	var out []*manifest.Object
	for o := range release.All() {
		if gone[o.Key()] {
			continue
		}
		if cm, ok := o.Value.(*corev1.ConfigMap); ok && o.Meta.Namespace == "istio-system" && o.Meta.Name == "istio" {
			mesh = true
			if o, err = withProvider(o, cm); err != nil {
				return nil, err
			}
		}
		out = append(out, o)
	}
	if !mesh {
		return nil, errors.New("ConfigMap istio-system/istio is not among the objects: there is no mesh configuration to add the provider to")
	}
	return manifest.New(append(out, own...)...)
}

// withProvider is ConfigMap istio with Postern's provider. The rest of its text stays
// as it is, but for YAML's own freedom in writing it.
func withProvider(o *manifest.Object, cm *corev1.ConfigMap) (*manifest.Object, error) {
	text, err := FS.ReadFile("provider.yaml")
	if err != nil {
		return nil, err
	}
	var provider, mesh yaml.Node
	if err := errors.Join(yaml.Unmarshal(text, &provider), yaml.Unmarshal([]byte(cm.Data["mesh"]), &mesh)); err != nil {
		return nil, o.Errorf("data.mesh", "%v", err)
	}
	if len(mesh.Content) == 0 || mesh.Content[0].Kind != yaml.MappingNode {
		return nil, o.Errorf("data.mesh", "got no mapping, want the mesh configuration")
	}
	root := mesh.Content[0]
	at := slices.IndexFunc(root.Content, func(n *yaml.Node) bool { return n.Value == "extensionProviders" })
	if at < 0 {
		root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "extensionProviders"}, &yaml.Node{Kind: yaml.SequenceNode})
		at = len(root.Content) - 2
	}
	list := root.Content[at+1]
	for _, p := range list.Content {
		var named struct{ Name string }
		if p.Decode(&named) == nil && named.Name == "postern" {
			return nil, o.Errorf("data.mesh.extensionProviders", "there is one named postern already")
		}
	}
	list.Content = append(list.Content, provider.Content[0])
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&mesh); err != nil {
		return nil, o.Errorf("data.mesh", "%v", err)
	}
	return replaceMesh(o, out.String())
}

// replaceMesh is the object with another text, read as any manifest is.
func replaceMesh(o *manifest.Object, mesh string) (*manifest.Object, error) {
	var raw map[string]any
	if err := json.Unmarshal(o.JSON, &raw); err != nil {
		return nil, o.Errorf("", "%v", err)
	}
	data, ok := raw["data"].(map[string]any)
	if !ok {
		return nil, o.Errorf("data", "got no mapping")
	}
	data["mesh"] = mesh
	text, err := sigsyaml.Marshal(raw)
	if err != nil {
		return nil, o.Errorf("", "%v", err)
	}
	set, err := manifest.Bytes(fmt.Sprintf("%s with Postern's provider", o.Source.File), text)
	if err != nil {
		return nil, err
	}
	out, _ := set.Get("", "ConfigMap", o.Meta.Namespace, o.Meta.Name)
	return out, nil
}
