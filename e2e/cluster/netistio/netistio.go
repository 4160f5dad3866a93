// Package netistio stands for Knative's net-istio controller, whose module is not to be had from the public proxy: it
// writes the VirtualServices of each Knative Ingress, as internal/kserve derives them, and says in the Ingress's status
// that it did. The real one also probes the gateways before it says so, and does what internal/kserve refuses
// (traffic splits, domain mappings, TLS): such an Ingress stays not ready, with the reason in its status.
package netistio

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
)

const class = "istio.ingress.networking.knative.dev"

var (
	ingresses       = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "ingresses"}
	virtualServices = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1beta1", Resource: "virtualservices"}
	configMaps      = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
)

// Controller is the stand-in.
type Controller struct {
	Client dynamic.Interface
	Log    func(format string, args ...any)
}

// Run looks once a second for what is to be done, until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	for {
		if err := c.all(ctx); err != nil && ctx.Err() == nil {
			c.Log("net-istio's stand-in: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

func (c *Controller) all(ctx context.Context) error {
	list, err := c.Client.Resource(ingresses).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	settings, err := c.settings(ctx)
	if err != nil {
		return err
	}
	for i := range list.Items {
		in := &list.Items[i]
		if in.GetAnnotations()["networking.knative.dev/ingress.class"] != class || in.GetDeletionTimestamp() != nil {
			continue
		}
		if err := c.one(ctx, in, settings); err != nil {
			c.Log("Ingress %s/%s: %v", in.GetNamespace(), in.GetName(), err)
		}
	}
	return nil
}

// settings are Knative's two ConfigMaps, read as manifests are.
func (c *Controller) settings(ctx context.Context) (*manifest.Set, error) {
	var text []byte
	for _, name := range []string{"config-istio", "config-network"} {
		cm, err := c.Client.Resource(configMaps).Namespace("knative-serving").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		data, _, _ := unstructured.NestedStringMap(cm.Object, "data")
		delete(data, "_example")
		raw, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": data,
			"metadata": map[string]any{"namespace": "knative-serving", "name": name}})
		if err != nil {
			return nil, err
		}
		text = append(append(text, "---\n"...), append(raw, '\n')...)
	}
	return manifest.Bytes("cluster", text)
}

func (c *Controller) one(ctx context.Context, in *unstructured.Unstructured, settings *manifest.Set) error {
	spec, err := json.Marshal(in.Object["spec"])
	if err != nil {
		return err
	}
	labels := map[string]string{"networking.internal.knative.dev/ingress": in.GetName()}
	for k, v := range in.GetLabels() {
		if k == "serving.knative.dev/route" || k == "serving.knative.dev/routeNamespace" {
			labels[k] = v
		}
	}
	source := &manifest.Object{Kind: "Ingress", Meta: metav1.ObjectMeta{Namespace: in.GetNamespace(), Name: in.GetName()}}
	objects, local, err := kserve.NetIstio(kserve.KnativeIngress{Source: source, Spec: spec, Labels: labels}, settings)
	if err != nil {
		return c.tell(ctx, in, local, err)
	}
	yes := true
	owner := metav1.OwnerReference{APIVersion: in.GetAPIVersion(), Kind: in.GetKind(), Name: in.GetName(), UID: in.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes}
	for _, o := range objects {
		var u unstructured.Unstructured
		if err := json.Unmarshal(o.JSON, &u.Object); err != nil {
			return err
		}
		u.SetOwnerReferences([]metav1.OwnerReference{owner})
		if _, err := c.Client.Resource(virtualServices).Namespace(u.GetNamespace()).Apply(ctx, u.GetName(), &u, metav1.ApplyOptions{FieldManager: "net-istio", Force: true}); err != nil {
			return err
		}
	}
	return c.tell(ctx, in, local, nil)
}

// tell writes the Ingress's status, unless it says so already.
func (c *Controller) tell(ctx context.Context, in *unstructured.Unstructured, local string, failure error) error {
	status, reason, message := "True", "", ""
	if failure != nil {
		status, reason, message = "False", "NotSupported", failure.Error()
	}
	observed, _, _ := unstructured.NestedInt64(in.Object, "status", "observedGeneration")
	was, _, _ := unstructured.NestedSlice(in.Object, "status", "conditions")
	if observed == in.GetGeneration() && len(was) == 3 && was[2].(map[string]any)["status"] == status {
		return nil
	}
	var conditions []any
	for _, kind := range []string{"LoadBalancerReady", "NetworkConfigured", "Ready"} {
		condition := map[string]any{"type": kind, "status": status, "lastTransitionTime": time.Now().UTC().Format(time.RFC3339)}
		if failure != nil {
			condition["reason"], condition["message"] = reason, message
		}
		conditions = append(conditions, condition)
	}
	balancer := func(host string) map[string]any {
		return map[string]any{"ingress": []any{map[string]any{"domainInternal": host}}}
	}
	updated := in.DeepCopy()
	updated.Object["status"] = map[string]any{"observedGeneration": in.GetGeneration(), "conditions": conditions,
		"publicLoadBalancer": balancer("istio-ingressgateway.istio-system.svc.cluster.local"), "privateLoadBalancer": balancer(local)}
	if _, err := c.Client.Resource(ingresses).Namespace(in.GetNamespace()).UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("its status: %w", err)
	}
	return failure
}
