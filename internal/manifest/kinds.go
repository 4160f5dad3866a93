package manifest

import (
	"encoding/json"
	"fmt"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	yaml "go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// MeshConfig is Istio's, as the ConfigMap `istio` of the root namespace holds
// it under `mesh`. The translator reads it; here it is only checked for fields
// that no Istio knows.
type MeshConfig = meshv1alpha1.MeshConfig

// kind is how objects of one group and kind are read.
type kind struct {
	clusterWide bool
	// typed decodes the whole object as a Kubernetes API type.
	typed func() any
	// spec decodes .spec as an Istio message.
	spec func() proto.Message
	// keepUnknown: unknown fields are kept by the API server and ignored by
	// Istio (x-kubernetes-preserve-unknown-fields of its CRD): a warning here.
	keepUnknown bool
}

var kinds = map[string]kind{
	"/ConfigMap":      {typed: func() any { return new(corev1.ConfigMap) }},
	"/Service":        {typed: func() any { return new(corev1.Service) }},
	"/Pod":            {typed: func() any { return new(corev1.Pod) }},
	"/ServiceAccount": {typed: func() any { return new(corev1.ServiceAccount) }},
	"/Namespace":      {typed: func() any { return new(corev1.Namespace) }, clusterWide: true},

	"apps/Deployment":  {typed: func() any { return new(appsv1.Deployment) }},
	"apps/StatefulSet": {typed: func() any { return new(appsv1.StatefulSet) }},

	"rbac.authorization.k8s.io/Role":               {typed: func() any { return new(rbacv1.Role) }},
	"rbac.authorization.k8s.io/RoleBinding":        {typed: func() any { return new(rbacv1.RoleBinding) }},
	"rbac.authorization.k8s.io/ClusterRole":        {typed: func() any { return new(rbacv1.ClusterRole) }, clusterWide: true},
	"rbac.authorization.k8s.io/ClusterRoleBinding": {typed: func() any { return new(rbacv1.ClusterRoleBinding) }, clusterWide: true},

	"networking.istio.io/Gateway":         {spec: func() proto.Message { return new(networking.Gateway) }},
	"networking.istio.io/VirtualService":  {spec: func() proto.Message { return new(networking.VirtualService) }},
	"networking.istio.io/DestinationRule": {spec: func() proto.Message { return new(networking.DestinationRule) }},
	"networking.istio.io/Sidecar":         {spec: func() proto.Message { return new(networking.Sidecar) }},
	"networking.istio.io/EnvoyFilter":     {spec: func() proto.Message { return new(networking.EnvoyFilter) }, keepUnknown: true},

	"security.istio.io/AuthorizationPolicy":   {spec: func() proto.Message { return new(security.AuthorizationPolicy) }},
	"security.istio.io/RequestAuthentication": {spec: func() proto.Message { return new(security.RequestAuthentication) }},
	"security.istio.io/PeerAuthentication":    {spec: func() proto.Message { return new(security.PeerAuthentication) }},

	"serving.kserve.io/InferenceService": {typed: func() any { return new(InferenceService) }},

	"serving.kserve.io/InferenceGraph": {typed: func() any { return new(InferenceGraph) }},

	"apikeys.postern.dev/ApiKey": {typed: func() any { return new(APIKey) }},
}

// concern lists the API groups in which a kind that is not in the table above
// changes what a gateway does, so that leaving it out would be a guess.
var concern = map[string]bool{
	"networking.istio.io": true, "security.istio.io": true, "extensions.istio.io": true,
	"telemetry.istio.io": true, "gateway.networking.k8s.io": true, "serving.kserve.io": true, "apikeys.postern.dev": true,
}

// decode fills Value from the object's node. Warnings are unknown fields that
// the kind's own API keeps and ignores.
func (k kind) decode(o *Object, doc *yaml.Node) (warnings, errs []error) {
	c := &checker{object: o}
	switch {
	case k.typed != nil:
		o.Value = k.typed()
		c.goType(doc, o.Value)
		if len(c.errs) == 0 {
			if err := json.Unmarshal(o.JSON, o.Value); err != nil {
				c.fail(doc, "", "%v", err)
			}
		}
		if cm, ok := o.Value.(*corev1.ConfigMap); ok && len(c.errs) == 0 {
			c.mesh(cm, doc)
		}
	case k.spec != nil:
		m := k.spec()
		o.Value = m
		c.istio(doc, m)
		if !k.keepUnknown {
			return nil, append(c.errs, c.unknown...)
		}
		for _, err := range c.unknown {
			err.(*Error).Msg += ": Istio ignores it"
		}
	}
	return c.unknown, c.errs
}

// istio checks and decodes the spec of an Istio object.
func (c *checker) istio(doc *yaml.Node, m proto.Message) {
	for i := 0; i+1 < len(doc.Content); i += 2 {
		key := doc.Content[i]
		switch key.Value {
		case "apiVersion", "kind", "metadata", "status", "spec":
		default:
			c.fail(key, key.Value, "unknown field")
		}
	}
	spec := child(doc, "spec")
	if spec == nil {
		return
	}
	c.message(spec, m.ProtoReflect().Descriptor(), "spec")
	if len(c.errs) > 0 {
		return
	}
	raw, err := json.Marshal(toValue(spec))
	if err != nil {
		c.fail(spec, "spec", "%v", err)
		return
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, m); err != nil {
		c.fail(spec, "spec", "%v", err)
	}
}

// mesh checks the MeshConfig inside ConfigMap istio: a mistyped
// extensionProviders would otherwise be noticed by no one.
func (c *checker) mesh(cm *corev1.ConfigMap, doc *yaml.Node) {
	text, ok := cm.Data["mesh"]
	if cm.Name != "istio" || !ok {
		return
	}
	var inner yaml.Node
	if err := yaml.Unmarshal([]byte(text), &inner); err != nil {
		c.fail(doc, "data.mesh", "%v", err)
		return
	}
	if len(inner.Content) == 0 {
		return
	}
	at := child(child(doc, "data"), "mesh")
	sub := &checker{object: c.object, lines: at.Line}
	if at.Style&yaml.LiteralStyle == 0 {
		sub.lines, sub.fixed = at.Line, true
	}
	sub.message(inner.Content[0], (&MeshConfig{}).ProtoReflect().Descriptor(), "data.mesh")
	c.errs = append(append(c.errs, sub.errs...), sub.unknown...)
}

// unsupported is an error for an object of a group that concerns gateways and
// of a kind that Postern does not read.
func unsupported(o *Object) error {
	if !concern[o.Group()] {
		return nil
	}
	return o.Errorf("kind", "%s is not supported yet: leaving it out would change what the gateway does", fmt.Sprintf("%s %s", o.APIVersion, o.Kind))
}
