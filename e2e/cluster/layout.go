package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// layout is how the gateways of a Kubeflow release are set up: the release's own gateway, authentication and
// authorization objects, on the control planes that are built here. The story's, which is none of these, needs no
// corpus.
type layout struct {
	name string
	// folder of the corpus: the release's objects.
	folder string
	// separate moves Knative's local gateway to the pods of cluster-local-gateway, as Kubeflow's own overlay does
	// (common/knative/knative-serving/overlays/gateways); the folder is a build without it.
	separate bool
}

var layouts = []layout{
	{name: "v1.4.0-shared", folder: "v1.4.0-shared"},
	{name: "v1.8.1-shared", folder: "v1.8.1-shared"},
	{name: "v1.8.1", folder: "v1.8.1-shared", separate: true},
	{name: "v1.9.1", folder: "v1.9.1"},
	{name: "v1.10.2", folder: "v1.10.2"},
	{name: "26.03", folder: "26.03"},
}

const storyLayout = "story"

// separated tells that the pods' door is on other pods than people's.
func (l *layout) separated() bool { return l.separate || !strings.HasSuffix(l.folder, "-shared") }

// findLayout is the layout of a name, nil for the story's.
func findLayout(name, corpus string) (*layout, error) {
	if name == storyLayout {
		return nil, nil
	}
	names := []string{storyLayout}
	for _, l := range layouts {
		if l.name == name {
			if _, err := os.Stat(filepath.Join(corpus, l.folder)); err != nil {
				return nil, fmt.Errorf("layout %s: the corpus is absent: %w (--corpus DIR)", name, err)
			}
			return &l, nil
		}
		names = append(names, l.name)
	}
	return nil, fmt.Errorf("got layout %q, want one of %s", name, strings.Join(names, ", "))
}

// installLayout applies the release's objects: first the login, then what needs it. (istiod fetches Dex's keys when it
// sees the RequestAuthentication that names Dex. When Dex does not answer then, it takes a placeholder, whose private half
// is in its source, and asks again twenty minutes later.)
func (c *cluster) installLayout(ctx context.Context) error {
	objects, err := read(filepath.Join(c.corpus, c.layout.folder))
	if err != nil {
		return err
	}
	login, err := read(filepath.Join(c.root, "e2e/cluster/manifests/dex.yaml"))
	if err != nil {
		return err
	}
	deployments := map[string][]string{"istio-system": {"istio-ingressgateway", "cluster-local-gateway"}, "auth": {"dex"}}
	var rest []object
	for _, o := range objects {
		namespace, name := nameOf(o)
		switch kind := kindOf(o); {
		case kind == "StatefulSet" && namespace == "istio-system": // authservice
			stand, err := read(filepath.Join(c.root, "e2e/cluster/manifests/login.yaml"))
			if err != nil {
				return err
			}
			login = append(login, stand...)
			deployments["istio-system"] = append(deployments["istio-system"], "authservice")
		case kind == "Deployment" && name == "oauth2-proxy":
			login = append(login, oauth2ProxySecrets(o)...)
			mountOAuth2Proxy(o, objects)
			login = append(login, o)
			deployments[namespace] = append(deployments[namespace], name)
		case kind == "Deployment" && name == "dex":
			mountDexConfig(o)
			login = append(login, o)
		case kind == "Deployment", namespace == "knative-serving" && kind == "ConfigMap": // installed already, or later
		case kind == "Namespace", kind == "Service", kind == "ConfigMap":
			c.layout.adapt(o)
			login = append(login, o)
		default:
			c.layout.adapt(o)
			rest = append(rest, o)
		}
	}
	if err := c.put(ctx, "story", login); err != nil {
		return err
	}
	for namespace, names := range deployments {
		if err := c.rolledOut(ctx, namespace, names...); err != nil {
			return err
		}
	}
	// Dex is said to be ready before it answers: it has no probe.
	if err := c.until(ctx, time.Minute, func() error {
		return c.kubectl(ctx, nil, "get", "--raw=/api/v1/namespaces/auth/services/dex:5556/proxy/dex/keys")
	}); err != nil {
		return fmt.Errorf("Dex: %w", err)
	}
	company, err := c.company()
	if err != nil {
		return err
	}
	return c.put(ctx, "story", append(rest, company...))
}

// company is what the story's company has on its Kubeflow: the backend team's application, what profiles grant, and
// what stands behind Kubeflow's VirtualServices.
func (c *cluster) company() ([]object, error) {
	story := func(name string) string { return filepath.Join(c.root, "examples/story/common", name) }
	objects, err := read(story("backend.yaml"), story("profile.yaml"), story("kubeflow.yaml"))
	if err != nil {
		return nil, err
	}
	kept := []object{{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": object{"name": "centraldashboard", "namespace": "kubeflow"}}}
	for _, o := range objects {
		namespace, name := nameOf(o)
		if kind := kindOf(o); namespace == "kubeflow" && kind != "Service" && !(kind == "Deployment" && name == "centraldashboard") {
			continue // the release's own are there, or have no program here
		}
		kept = append(kept, o)
	}
	return kept, nil
}

// currentNames are today's names of filters that Kubeflow up to 1.8 calls by others, which no Istio since 1.19 knows.
var currentNames = map[string]string{
	"envoy.http_connection_manager": "envoy.filters.network.http_connection_manager",
	"envoy.router":                  "envoy.filters.http.router",
}

// adapt changes what cannot be as the release has it.
func (l *layout) adapt(o object) {
	namespace, name := nameOf(o)
	switch kind := kindOf(o); {
	case kind == "Namespace":
		// Workloads are without their securityContext in the corpus, and Pod Security would refuse them.
		labels, _ := o["metadata"].(object)["labels"].(object)
		for key := range labels {
			if strings.HasPrefix(key, "pod-security.kubernetes.io/") {
				delete(labels, key)
			}
		}
	case kind == "EnvoyFilter":
		rename(o["spec"])
	case l.separate && name == "knative-local-gateway" && (kind == "Service" && namespace == "istio-system" || kind == "Gateway" && namespace == "knative-serving"):
		o["spec"].(object)["selector"] = object{"app": "cluster-local-gateway", "istio": "cluster-local-gateway"}
	}
}

// rename gives filters their current names, wherever an EnvoyFilter matches them.
func rename(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			rename(e)
		}
	case object:
		if old, _ := v["name"].(string); currentNames[old] != "" {
			v["name"] = currentNames[old]
		}
		for _, e := range v {
			rename(e)
		}
	}
}

// oauth2ProxySecrets are those that the Deployment's environment names.
func oauth2ProxySecrets(deployment object) []object {
	values := object{"client-id": "kubeflow-oidc-authservice", "client-secret": "not-a-secret", "cookie-secret": "0123456789abcdef"}
	var out []object
	seen := map[string]bool{}
	namespace, _ := nameOf(deployment)
	env, _ := containerOf(deployment)["env"].([]any)
	for _, e := range env {
		from, _ := e.(object)["valueFrom"].(object)
		ref, _ := from["secretKeyRef"].(object)
		if name, _ := ref["name"].(string); name != "" && !seen[name] {
			seen[name] = true
			out = append(out, object{"apiVersion": "v1", "kind": "Secret", "metadata": object{"name": name, "namespace": namespace}, "stringData": values})
		}
	}
	return out
}

// mountOAuth2Proxy adds the volumes that the corpus leaves out: the file of settings, and the logo that it names.
func mountOAuth2Proxy(deployment object, objects []object) {
	spec := deployment["spec"].(object)["template"].(object)["spec"].(object)
	var volumes, mounts []any
	for _, o := range objects {
		namespace, name := nameOf(o)
		data, _ := o["data"].(object)
		if _, ok := data["oauth2_proxy.cfg"]; !ok || kindOf(o) != "ConfigMap" || namespace != "oauth2-proxy" {
			continue
		}
		data["kubeflow-logo.svg"] = "<svg/>"
		volumes = append(volumes, object{"name": "settings", "configMap": object{"name": name}})
		mounts = append(mounts, object{"name": "settings", "mountPath": "/etc/oauth2_proxy"}, object{"name": "settings", "mountPath": "/custom-theme"})
	}
	spec["volumes"] = volumes
	containerOf(deployment)["volumeMounts"] = mounts
}

// containerOf is a Deployment's first.
func containerOf(deployment object) object {
	return deployment["spec"].(object)["template"].(object)["spec"].(object)["containers"].([]any)[0].(object)
}
