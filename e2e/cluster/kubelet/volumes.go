package kubelet

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// volumeDir is where a volume's files are on this machine.
func (p *pod) volumeDir(v *corev1.Volume) string {
	if v.HostPath != nil {
		return v.HostPath.Path
	}
	return filepath.Join(p.dir, "volumes", v.Name)
}

// writeVolumes fills the pod's volumes, and again whenever it is called: ConfigMaps, Secrets and tokens change.
func (p *pod) writeVolumes(ctx context.Context) error {
	for i := range p.spec.Spec.Volumes {
		v := &p.spec.Spec.Volumes[i]
		if err := p.writeVolume(ctx, v); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return nil
}

func (p *pod) writeVolume(ctx context.Context, v *corev1.Volume) error {
	dir := p.volumeDir(v)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	switch {
	case v.HostPath != nil:
		return nil
	case v.EmptyDir != nil:
		return os.Chmod(dir, 0o777)
	case v.ConfigMap != nil:
		return p.project(ctx, dir, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: v.ConfigMap.Items, Optional: v.ConfigMap.Optional}})
	case v.Secret != nil:
		return p.project(ctx, dir, corev1.VolumeProjection{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: v.Secret.SecretName}, Items: v.Secret.Items, Optional: v.Secret.Optional}})
	case v.DownwardAPI != nil:
		return p.project(ctx, dir, corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{Items: v.DownwardAPI.Items}})
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			if err := p.project(ctx, dir, source); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("a volume of this kind is not supported")
}

func (p *pod) project(ctx context.Context, dir string, s corev1.VolumeProjection) error {
	switch {
	case s.ServiceAccountToken != nil:
		return p.token(ctx, filepath.Join(dir, s.ServiceAccountToken.Path), s.ServiceAccountToken)
	case s.ConfigMap != nil:
		cm, err := p.k.Client.CoreV1().ConfigMaps(p.spec.Namespace).Get(ctx, s.ConfigMap.Name, metav1.GetOptions{})
		if err != nil {
			return unless(s.ConfigMap.Optional, err)
		}
		data := cm.BinaryData
		if data == nil {
			data = map[string][]byte{}
		}
		for k, v := range cm.Data {
			data[k] = []byte(v)
		}
		return keys(dir, data, s.ConfigMap.Items)
	case s.Secret != nil:
		secret, err := p.k.Client.CoreV1().Secrets(p.spec.Namespace).Get(ctx, s.Secret.Name, metav1.GetOptions{})
		if err != nil {
			return unless(s.Secret.Optional, err)
		}
		return keys(dir, secret.Data, s.Secret.Items)
	case s.DownwardAPI != nil:
		for _, item := range s.DownwardAPI.Items {
			text := ""
			var err error
			if item.FieldRef != nil {
				text, err = p.field(item.FieldRef.FieldPath)
			} else if c := p.container(item.ResourceFieldRef.ContainerName); c != nil {
				text, err = resourceField(c, item.ResourceFieldRef)
			}
			if err != nil {
				return err
			}
			if err := write(filepath.Join(dir, item.Path), []byte(text)); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("a projection of this kind is not supported")
}

// keys writes a map's entries, all of them or those that are named. What is not named any more is removed.
func keys(dir string, data map[string][]byte, items []corev1.KeyToPath) error {
	if items == nil {
		for k := range data {
			items = append(items, corev1.KeyToPath{Key: k, Path: k})
		}
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			return fmt.Errorf("no key %q", item.Key)
		}
		if err := write(filepath.Join(dir, item.Path), v); err != nil {
			return err
		}
	}
	return nil
}

// write replaces a file at once, if it is to change.
func write(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// token asks the API server for a token bound to the pod, and for another after four fifths of its life.
func (p *pod) token(ctx context.Context, path string, s *corev1.ServiceAccountTokenProjection) error {
	if until, ok := p.tokens[path]; ok && time.Now().Before(until) {
		return nil
	}
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.spec.Name, UID: p.spec.UID},
	}}
	if s.Audience != "" {
		request.Spec.Audiences = []string{s.Audience}
	}
	got, err := p.k.Client.CoreV1().ServiceAccounts(p.spec.Namespace).CreateToken(ctx, p.spec.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	life := time.Until(got.Status.ExpirationTimestamp.Time)
	p.tokens[path] = time.Now().Add(life * 4 / 5)
	return write(path, []byte(got.Status.Token))
}
