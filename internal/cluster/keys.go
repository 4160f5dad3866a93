package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"postern.dev/postern/internal/manifest"
)

// ErrNoKey is what Revoke and Create return for a key that is not there, or is there
// already.
var (
	ErrNoKey   = errors.New("there is no such API key")
	ErrIsThere = errors.New("there is an API key of that name already")
)

// Keys are the ApiKey objects of a cluster, as a person sees and changes them.
type Keys struct {
	Namespace string // of the kubeconfig's context, unless another was asked for
	objects   dynamic.NamespaceableResourceInterface
}

// OpenKeys reaches a cluster as kubectl does: by the kubeconfig named or, where none
// is, by KUBECONFIG or ~/.kube/config; context and namespace may be empty.
func OpenKeys(kubeconfig, context, namespace string) (*Keys, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	file := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context})
	c, err := file.ClientConfig()
	if err != nil {
		return nil, err
	}
	if namespace == "" {
		if namespace, _, err = file.Namespace(); err != nil {
			return nil, err
		}
	}
	c.UserAgent, c.WarningHandler, c.Timeout = "postern", rest.NoWarnings{}, 30*time.Second
	objects, err := dynamic.NewForConfig(c)
	if err != nil {
		return nil, err
	}
	return &Keys{Namespace: namespace, objects: objects.Resource(schema.GroupVersionResource{Group: "apikeys.postern.dev", Version: "v1alpha1", Resource: "apikeys"})}, nil
}

// KeyObject is the object of a key, to be created.
func KeyObject(namespace, name string, spec manifest.APIKeySpec) (map[string]any, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&spec)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"apiVersion": "apikeys.postern.dev/v1alpha1", "kind": "ApiKey",
		"metadata": map[string]any{"namespace": namespace, "name": name}, "spec": fields,
	}, nil
}

// Create creates a key's object.
func (k *Keys) Create(ctx context.Context, name string, spec manifest.APIKeySpec) error {
	o, err := KeyObject(k.Namespace, name, spec)
	if err != nil {
		return err
	}
	_, err = k.objects.Namespace(k.Namespace).Create(ctx, &unstructured.Unstructured{Object: o}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%w: %s/%s", ErrIsThere, k.Namespace, name)
	}
	return err
}

// List gives the keys of the namespace or, with all, of every namespace, by namespace
// and name, and what could not be read beside them.
func (k *Keys) List(ctx context.Context, all bool) ([]*manifest.Object, error) {
	in := k.Namespace
	if all {
		in = ""
	}
	list, err := k.objects.Namespace(in).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []*manifest.Object
	var errs []error
	for _, item := range list.Items {
		unstructured.RemoveNestedField(item.Object, "metadata", "managedFields")
		o, err := live(item.Object)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, o)
	}
	return out, errors.Join(errs...)
}

// Revoke deletes a key's object, which ends the key.
func (k *Keys) Revoke(ctx context.Context, name string) error {
	err := k.objects.Namespace(k.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: %s/%s", ErrNoKey, k.Namespace, name)
	}
	return err
}
