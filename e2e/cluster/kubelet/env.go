package kubelet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// environment is a container's, in the order the pod gives it, with references resolved and $(NAME) expanded.
func (p *pod) environment(ctx context.Context, c *corev1.Container, image Program) ([]string, error) {
	vars := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/",
		"HOSTNAME":                p.hostname(),
		"KUBERNETES_SERVICE_HOST": p.k.APIServer, "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
	}
	maps.Copy(vars, image.Env)
	for _, from := range c.EnvFrom {
		data, err := p.envFrom(ctx, from)
		if err != nil {
			return nil, err
		}
		for k, v := range data {
			vars[from.Prefix+k] = v
		}
	}
	for _, e := range c.Env {
		v, ok, err := p.envValue(ctx, c, e, vars)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", e.Name, err)
		}
		if ok {
			vars[e.Name] = v
		}
	}
	out := make([]string, 0, len(vars))
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		out = append(out, k+"="+vars[k])
	}
	return out, nil
}

func (p *pod) envFrom(ctx context.Context, from corev1.EnvFromSource) (map[string]string, error) {
	out := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		cm, err := p.k.Client.CoreV1().ConfigMaps(p.spec.Namespace).Get(ctx, from.ConfigMapRef.Name, metav1.GetOptions{})
		if err != nil {
			return out, unless(from.ConfigMapRef.Optional, err)
		}
		return cm.Data, nil
	case from.SecretRef != nil:
		s, err := p.k.Client.CoreV1().Secrets(p.spec.Namespace).Get(ctx, from.SecretRef.Name, metav1.GetOptions{})
		if err != nil {
			return out, unless(from.SecretRef.Optional, err)
		}
		for k, v := range s.Data {
			out[k] = string(v)
		}
	}
	return out, nil
}

// unless drops a "not found" of something optional.
func unless(optional *bool, err error) error {
	if optional != nil && *optional && errors.IsNotFound(err) {
		return nil
	}
	return err
}

func (p *pod) envValue(ctx context.Context, c *corev1.Container, e corev1.EnvVar, vars map[string]string) (string, bool, error) {
	from := e.ValueFrom
	switch {
	case from == nil:
		return expand(e.Value, vars), true, nil
	case from.FieldRef != nil:
		v, err := p.field(from.FieldRef.FieldPath)
		return v, true, err
	case from.ResourceFieldRef != nil:
		v, err := resourceField(c, from.ResourceFieldRef)
		return v, true, err
	case from.ConfigMapKeyRef != nil:
		cm, err := p.k.Client.CoreV1().ConfigMaps(p.spec.Namespace).Get(ctx, from.ConfigMapKeyRef.Name, metav1.GetOptions{})
		if err != nil {
			return "", false, unless(from.ConfigMapKeyRef.Optional, err)
		}
		return key(cm.Data, from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Optional)
	case from.SecretKeyRef != nil:
		s, err := p.k.Client.CoreV1().Secrets(p.spec.Namespace).Get(ctx, from.SecretKeyRef.Name, metav1.GetOptions{})
		if err != nil {
			return "", false, unless(from.SecretKeyRef.Optional, err)
		}
		return key(s.Data, from.SecretKeyRef.Key, from.SecretKeyRef.Optional)
	}
	return "", false, fmt.Errorf("a source of this kind is not supported")
}

func key[T string | []byte](data map[string]T, name string, optional *bool) (string, bool, error) {
	v, ok := data[name]
	if !ok && (optional == nil || !*optional) {
		return "", false, fmt.Errorf("no key %q", name)
	}
	return string(v), ok, nil
}

// field is the downward API's value at a path of the pod.
func (p *pod) field(path string) (string, error) {
	m := p.spec.ObjectMeta
	if name, ok := subscript(path, "metadata.labels"); ok {
		return m.Labels[name], nil
	}
	if name, ok := subscript(path, "metadata.annotations"); ok {
		return m.Annotations[name], nil
	}
	switch path {
	case "metadata.name":
		return m.Name, nil
	case "metadata.namespace":
		return m.Namespace, nil
	case "metadata.uid":
		return string(m.UID), nil
	case "metadata.labels":
		return lines(m.Labels), nil
	case "metadata.annotations":
		return lines(m.Annotations), nil
	case "spec.nodeName":
		return p.k.Node, nil
	case "spec.serviceAccountName":
		return p.spec.Spec.ServiceAccountName, nil
	case "status.hostIP", "status.hostIPs":
		return p.k.Address, nil
	case "status.podIP", "status.podIPs":
		return p.ip, nil
	}
	return "", fmt.Errorf("field %s is not supported", path)
}

func subscript(path, of string) (string, bool) {
	name, ok := strings.CutPrefix(path, of+"['")
	return strings.TrimSuffix(name, "']"), ok
}

func lines(m map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%s\n", k, strconv.Quote(m[k]))
	}
	return b.String()
}

func resourceField(c *corev1.Container, ref *corev1.ResourceFieldSelector) (string, error) {
	kind, name, _ := strings.Cut(ref.Resource, ".")
	list := c.Resources.Requests
	if kind == "limits" {
		list = c.Resources.Limits
	}
	q, ok := list[corev1.ResourceName(name)]
	if !ok { // the node's own, as the kubelet does
		q = map[string]resource.Quantity{"cpu": resource.MustParse("2"), "memory": resource.MustParse("8Gi")}[name]
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == "cpu" {
		return strconv.FormatInt((q.MilliValue()+divisor.MilliValue()-1)/divisor.MilliValue(), 10), nil
	}
	return strconv.FormatInt((q.Value()+divisor.Value()-1)/divisor.Value(), 10), nil
}

// expand replaces $(NAME); $$ is a dollar, and a name nobody set stays as it is written.
func expand(s string, vars map[string]string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 >= len(s) {
			return b.String() + s
		}
		b.WriteString(s[:i])
		s = s[i:]
		switch s[1] {
		case '$':
			b.WriteByte('$')
			s = s[2:]
		case '(':
			if end := strings.IndexByte(s, ')'); end > 0 {
				if v, ok := vars[s[2:end]]; ok {
					b.WriteString(v)
				} else {
					b.WriteString(s[:end+1])
				}
				s = s[end+1:]
				continue
			}
			fallthrough
		default:
			b.WriteByte('$')
			s = s[1:]
		}
	}
}
