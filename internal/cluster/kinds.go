package cluster

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"postern.dev/postern/internal/snapshot"
)

// kind is what is watched: the objects of a kind, or one ConfigMap.
type kind struct {
	of       string // group and kind, as package manifest names it
	group    string
	versions []string // the first that is served is watched
	resource string
	// namespace and name pick one object; empty: all.
	namespace, name string
	// keep are the fields that are needed, beside the name of the object, its UID,
	// labels and deletion.
	keep []string
	// annotations are needed too, but for those that repeat the object.
	annotations bool
	// reads is the part of the snapshot that is made of it.
	reads snapshot.Part
	// builtin: every API server has it.
	builtin bool
}

func (k kind) String() string {
	if k.name != "" {
		return "ConfigMap " + k.namespace + "/" + k.name
	}
	return k.of[strings.LastIndexByte(k.of, '/')+1:]
}

func (k kind) at(version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.group, Version: version, Resource: k.resource}
}

// kinds are what a snapshot is made of, and nothing else is read: no Secret, of pods
// where they are and whose, and of ConfigMaps the five that say how the cluster's
// controllers write routes. Knative's own objects are not needed: the routes are
// derived from the models themselves, whichever revision is served.
func kinds(s Settings) []kind {
	const (
		rbac    = "rbac.authorization.k8s.io"
		istio   = "networking.istio.io"
		serving = "serving.kserve.io"
		keys    = "apikeys.postern.dev"
	)
	v1 := []string{"v1"}
	all := []kind{
		{group: rbac, of: rbac + "/ClusterRole", versions: v1, resource: "clusterroles", keep: []string{"rules", "aggregationRule"}, reads: snapshot.Rules, builtin: true},
		{group: rbac, of: rbac + "/ClusterRoleBinding", versions: v1, resource: "clusterrolebindings", keep: []string{"roleRef", "subjects"}, reads: snapshot.Rules, builtin: true},
		{group: rbac, of: rbac + "/Role", versions: v1, resource: "roles", keep: []string{"rules"}, reads: snapshot.Rules, builtin: true},
		{group: rbac, of: rbac + "/RoleBinding", versions: v1, resource: "rolebindings", keep: []string{"roleRef", "subjects"}, reads: snapshot.Rules, builtin: true},
		{group: keys, of: keys + "/ApiKey", versions: []string{"v1alpha1"}, resource: "apikeys", keep: []string{"spec"}, reads: snapshot.Keys},
		{of: "/ServiceAccount", versions: v1, resource: "serviceaccounts", reads: snapshot.Accounts, builtin: true},
		{of: podKind, versions: v1, resource: "pods", reads: snapshot.Pods, builtin: true, keep: []string{
			"spec.hostNetwork", "spec.serviceAccountName", "status.phase", "status.podIP", "status.podIPs"}},
		{of: "/Service", versions: v1, resource: "services", keep: []string{"spec.type", "spec.externalName", "spec.selector"}, reads: snapshot.Map, builtin: true},
		{group: istio, of: istio + "/Gateway", versions: []string{"v1", "v1beta1", "v1alpha3"}, resource: "gateways", keep: []string{"spec"}, annotations: true, reads: snapshot.Map},
		{group: istio, of: istio + "/VirtualService", versions: []string{"v1", "v1beta1", "v1alpha3"}, resource: "virtualservices", keep: []string{"spec"}, annotations: true, reads: snapshot.Map},
		{group: serving, of: serving + "/InferenceService", versions: []string{"v1beta1"}, resource: "inferenceservices", keep: []string{"spec", "status.deploymentMode"}, annotations: true, reads: snapshot.Map},
		{group: serving, of: serving + "/InferenceGraph", versions: []string{"v1alpha1"}, resource: "inferencegraphs", keep: []string{"spec", "status.deploymentMode"}, annotations: true, reads: snapshot.Map},
	}
	for _, cm := range [][2]string{
		{s.Mesh, "istio"}, {s.KServe, "inferenceservice-config"},
		{knative, "config-istio"}, {knative, "config-domain"}, {knative, "config-network"},
	} {
		all = append(all, kind{of: "/ConfigMap", versions: v1, resource: "configmaps", namespace: cm[0], name: cm[1], keep: []string{"data"}, reads: snapshot.Map, builtin: true})
	}
	return all
}

const (
	podKind = "/Pod"
	// knative is the namespace in which Knative Serving reads its settings.
	knative = "knative-serving"
)

// strip is what is needed of an object. resourceVersion is what a watch goes on from.
func (k kind) strip(object map[string]any) map[string]any {
	out := map[string]any{"apiVersion": object["apiVersion"], "kind": object["kind"]}
	meta := []string{"name", "namespace", "uid", "resourceVersion", "labels", "deletionTimestamp"}
	if k.annotations {
		meta = append(meta, "annotations")
	}
	for _, m := range meta {
		move(object, out, "metadata", m)
	}
	if m, ok := out["metadata"].(map[string]any); ok {
		if a, ok := m["annotations"].(map[string]any); ok {
			delete(a, "kubectl.kubernetes.io/last-applied-configuration")
		}
	}
	for _, f := range k.keep {
		move(object, out, strings.Split(f, ".")...)
	}
	return out
}

// move gives out the field of in that a path leads to, if it is there.
func move(in, out map[string]any, path ...string) {
	for _, p := range path[:len(path)-1] {
		inner, ok := in[p].(map[string]any)
		if !ok {
			return
		}
		made, ok := out[p].(map[string]any)
		if !ok {
			made = map[string]any{}
			out[p] = made
		}
		in, out = inner, made
	}
	last := path[len(path)-1]
	if v, ok := in[last]; ok {
		out[last] = v
	}
}
