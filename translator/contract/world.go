package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
)

// created stands in for a missing creationTimestamp. Istio stamps the current time otherwise, and time decides what is merged first.
const created = "2000-01-01T00:00:00Z"

// Object is a Kubernetes object: the part of it that needs no schema, and all of it.
type Object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Namespace   string            `json:"namespace"`
		Name        string            `json:"name"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`

	// Raw is the whole object in JSON, with what an API server would have filled in: namespace and creationTimestamp.
	Raw json.RawMessage `json:"-"`
}

// World is a Request sorted by what a translator does with it.
type World struct {
	MeshConfig Object // the ConfigMap; its kind is empty without one
	Mesh       string // MeshConfig YAML; empty: Istio's defaults
	Services   []Service
	Configs    []Object // Istio's own kinds
	Proxies    []Proxy

	namespaces map[string]Object
	pods       []pod
	keys       map[string]string
	rejected   []Rejection
	warnings   []Warning
}

// configs are the Istio kinds that take effect. Others that Istio's parser would accept reach a real istiod by ways that are not built
// here, and would have no effect without a word.
var configs = map[string]bool{
	"networking.istio.io/DestinationRule":     true,
	"networking.istio.io/EnvoyFilter":         true,
	"networking.istio.io/Gateway":             true,
	"networking.istio.io/Sidecar":             true,
	"networking.istio.io/VirtualService":      true,
	"security.istio.io/AuthorizationPolicy":   true,
	"security.istio.io/PeerAuthentication":    true,
	"security.istio.io/RequestAuthentication": true,
	"telemetry.istio.io/Telemetry":            true,
}

// later are kinds that would change the result and are not supported yet.
var later = map[string]bool{
	"extensions.istio.io/WasmPlugin":    true,
	"networking.istio.io/ProxyConfig":   true,
	"networking.istio.io/ServiceEntry":  true,
	"networking.istio.io/WorkloadEntry": true,
	"networking.istio.io/WorkloadGroup": true,
	"networking.k8s.io/Ingress":         true,
	"networking.k8s.io/IngressClass":    true,
}

func newWorld(req *Request) *World {
	w := &World{Proxies: req.Proxies, namespaces: map[string]Object{}, keys: req.JWKS}
	var objects []Object
	for i, raw := range req.Objects {
		o, err := parse(raw)
		if err != nil {
			w.Reject(o, fmt.Errorf("object %d: %w", i, err))
			continue
		}
		objects = append(objects, o)
	}
	sort.Slice(objects, func(i, j int) bool {
		a, b := objects[i], objects[j]
		return a.key() < b.key() || a.key() == b.key() && string(a.Raw) < string(b.Raw)
	})
	var last Object
	for _, o := range objects {
		if o.key() == last.key() {
			w.Reject(o, errors.New("given twice: one is read, the other is not"))
			continue
		}
		last = o
		if err := w.add(o); err != nil {
			w.Reject(o, err)
		}
	}
	return w
}

// parse reads what is common to all objects and fills in what an API server would.
func parse(raw json.RawMessage) (Object, error) {
	var o Object
	if err := json.Unmarshal(raw, &o); err != nil {
		return o, err
	}
	if o.APIVersion == "" || o.Kind == "" || o.Metadata.Name == "" {
		return o, fmt.Errorf("got apiVersion %q, kind %q, name %q, want all three", o.APIVersion, o.Kind, o.Metadata.Name)
	}
	v, err := decode(raw)
	if err != nil {
		return o, err
	}
	top, _ := v.(map[string]any)
	meta, ok := top["metadata"].(map[string]any)
	if !ok {
		return o, errors.New("no metadata")
	}
	if meta["creationTimestamp"] == nil {
		meta["creationTimestamp"] = created
	}
	if o.Metadata.Namespace == "" && o.Kind != "Namespace" {
		o.Metadata.Namespace = "default"
		meta["namespace"] = "default"
	}
	o.Raw, err = marshal(v)
	return o, err
}

// group is the API group; empty for the core group.
func (o Object) group() string {
	group, _, ok := strings.Cut(o.APIVersion, "/")
	if !ok {
		return ""
	}
	return group
}

// key is the object's identity. Versions of one group are views of one object.
func (o Object) key() string {
	return strings.Join([]string{o.group(), o.Kind, o.Metadata.Namespace, o.Metadata.Name}, "\x00")
}

func (w *World) add(o Object) error {
	kind := o.group() + "/" + o.Kind
	switch {
	case o.APIVersion == "v1" && o.Kind == "ConfigMap":
		return w.addMesh(o)
	case o.APIVersion == "v1" && o.Kind == "Namespace":
		w.namespaces[o.Metadata.Name] = o
		return nil
	case o.APIVersion == "v1" && o.Kind == "Service":
		return w.addService(o)
	case o.APIVersion == "v1" && o.Kind == "Pod":
		return w.addPod(o)
	case configs[kind]:
		w.Configs = append(w.Configs, o)
		return nil
	case later[kind], o.group() == "gateway.networking.k8s.io":
		return fmt.Errorf("%s is not supported yet: the translation goes without it", o.Kind)
	}
	return fmt.Errorf("kind %s of %s is not read by the translator", o.Kind, o.APIVersion)
}

// addMesh takes the mesh configuration: ConfigMap istio, that of istio-system where there are several.
func (w *World) addMesh(o Object) error {
	var cm struct {
		Data map[string]string `json:"data"`
	}
	if err := json.Unmarshal(o.Raw, &cm); err != nil {
		return err
	}
	mesh, ok := cm.Data["mesh"]
	if o.Metadata.Name != "istio" || !ok {
		return errors.New("of ConfigMaps only istio with its key mesh is read")
	}
	if w.MeshConfig.Kind != "" {
		if o.Metadata.Namespace != "istio-system" {
			return fmt.Errorf("the mesh configuration was read from namespace %s", w.MeshConfig.Metadata.Namespace)
		}
		w.Reject(w.MeshConfig, errors.New("the mesh configuration is read from namespace istio-system"))
	}
	w.MeshConfig, w.Mesh = o, mesh
	return nil
}

// Annotations are those of a namespace.
func (w *World) Annotations(namespace string) map[string]string {
	return w.namespaces[namespace].Metadata.Annotations
}

// Reject reports that the translation goes without an object, or without a part of it.
func (w *World) Reject(o Object, err error) {
	w.rejected = append(w.rejected, Rejection{
		APIVersion: o.APIVersion,
		Kind:       o.Kind,
		Namespace:  o.Metadata.Namespace,
		Name:       o.Metadata.Name,
		Message:    strings.TrimSpace(err.Error()),
	})
}

// rejections are all there were, sorted, each once.
func (w *World) rejections() []Rejection {
	return sortedOnce(w.rejected, func(r Rejection) string {
		return strings.Join([]string{r.Kind, r.Namespace, r.Name, r.APIVersion, r.Message}, "\x00")
	})
}

// sortedOnce sorts by a key and leaves out repetitions. It never returns nil.
func sortedOnce[T comparable](list []T, key func(T) string) []T {
	sort.Slice(list, func(i, j int) bool { return key(list[i]) < key(list[j]) })
	out := []T{}
	for i, e := range list {
		if i == 0 || e != list[i-1] {
			out = append(out, e)
		}
	}
	return out
}
