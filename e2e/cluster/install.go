package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"postern.dev/postern/e2e/cluster/netistio"
)

// modules are the folders of the modules whose manifests are applied.
type modules struct{ istio, knative, networking, caching, kserve string }

// findModules looks in the module cache for the versions that were built.
func (c *cluster) findModules() error {
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		return fmt.Errorf("go env GOMODCACHE: %w", err)
	}
	dir := func(module string) string { return filepath.Join(strings.TrimSpace(string(cache)), module) }
	programs, err := os.ReadFile(filepath.Join(c.root, "e2e/cluster/programs"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(programs)) {
		if f := strings.Fields(line); len(f) == 4 {
			switch f[0] {
			case "istiod":
				c.modules.istio = dir(f[2])
			case "knative-controller":
				c.modules.knative = dir(f[2])
			case "kserve-manager":
				c.modules.kserve = dir(f[2])
			}
		}
	}
	mod, err := os.ReadFile(filepath.Join(c.modules.knative, "go.mod"))
	if err != nil {
		return fmt.Errorf("Knative's module: %w", err)
	}
	for line := range strings.Lines(string(mod)) {
		if f := strings.Fields(line); len(f) >= 2 {
			switch f[0] {
			case "knative.dev/networking":
				c.modules.networking = dir(f[0] + "@" + f[1])
			case "knative.dev/caching":
				c.modules.caching = dir(f[0] + "@" + f[1])
			}
		}
	}
	return nil
}

type object = map[string]any

// read is the objects of YAML files; of a folder, all below it.
func read(paths ...string) ([]object, error) {
	var out []object
	for _, path := range paths {
		err := filepath.WalkDir(path, func(file string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(file) != ".yaml" {
				return err
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			objects, err := decode(string(text))
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			out = append(out, objects...)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func decode(text string) ([]object, error) {
	var out []object
	for _, part := range strings.Split("\n"+text, "\n---") {
		var o object
		if err := yaml.Unmarshal([]byte(part), &o); err != nil {
			return nil, err
		}
		if len(o) > 0 {
			out = append(out, o)
		}
	}
	return out, nil
}

func kindOf(o object) string { s, _ := o["kind"].(string); return s }

func nameOf(o object) (namespace, name string) {
	meta, _ := o["metadata"].(object)
	namespace, _ = meta["namespace"].(string)
	name, _ = meta["name"].(string)
	return namespace, name
}

// put applies objects as one of the cluster's installers, and again until the API server takes them: kinds
// and webhooks take their time. The story's are applied as its people do, by the client: Kubeflow 1.4's EnvoyFilter
// has a field that is none, which the API server drops with a warning then, and refuses when it applies itself.
func (c *cluster) put(ctx context.Context, manager string, objects []object) error {
	for _, crds := range []bool{true, false} {
		var text strings.Builder
		for _, o := range objects {
			if k := kindOf(o); (k == "CustomResourceDefinition" || k == "Namespace") == crds {
				raw, err := json.Marshal(o)
				if err != nil {
					return err
				}
				text.WriteString("---\n" + string(raw) + "\n")
			}
		}
		if text.Len() == 0 {
			continue
		}
		stdin := text.String()
		if err := c.until(ctx, 3*time.Minute, func() error {
			if manager == "story" {
				return c.kubectl(ctx, &stdin, "apply", "--validate=warn", "--filename=-")
			}
			return c.kubectl(ctx, &stdin, "apply", "--server-side", "--force-conflicts", "--field-manager="+manager, "--filename=-")
		}); err != nil {
			return fmt.Errorf("%s: %w", manager, err)
		}
	}
	return nil
}

func (c *cluster) rolledOut(ctx context.Context, namespace string, deployments ...string) error {
	for _, d := range deployments {
		if err := c.kubectl(ctx, nil, "rollout", "status", "--namespace", namespace, "deployment/"+d, "--timeout=5m"); err != nil {
			return err
		}
	}
	return nil
}

// install brings in what Kubeflow's serving is made of.
func (c *cluster) install(ctx context.Context, ca *authority) error {
	story := func(dir string) string { return filepath.Join(c.root, "examples/story", dir) }
	namespaces, err := read(story("common/namespaces.yaml"))
	if err != nil {
		return err
	}
	namespaces = append(namespaces, object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": "kserve"}})
	if err := c.put(ctx, "story", namespaces); err != nil {
		return err
	}
	type step struct {
		what string
		do   func(context.Context) error
	}
	kubeflow := step{"Kubeflow's gateway, login and pages: examples/story, common and 1-login-everywhere", c.installStory}
	if c.layout != nil {
		kubeflow = step{"Kubeflow's gateways, login and pages: layout " + c.layout.name, c.installLayout}
	}
	for _, step := range []step{
		{"Istio: istiod and its gateways, as istioctl installs them", c.installIstio},
		kubeflow,
		{"Knative Serving", c.installKnative},
		{"KServe", func(ctx context.Context) error { return c.installKServe(ctx, ca) }},
		{"the document's pod and models", c.installModels},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		c.say("%s", step.what)
	}
	return c.door("gateway", "istio-ingressgateway.istio-system.svc.cluster.local:80")
}

func (c *cluster) installIstio(ctx context.Context) error {
	args := []string{"manifest", "generate", "--filename", filepath.Join(c.root, "e2e/cluster/manifests/istio.yaml"), "--manifests", filepath.Join(c.modules.istio, "manifests")}
	if c.layout != nil { // Kubeflow's second gateway
		for _, set := range []string{"name=cluster-local-gateway", "enabled=true", "label.app=cluster-local-gateway", "label.istio=cluster-local-gateway"} {
			args = append(args, "--set", "components.ingressGateways[1]."+set)
		}
	}
	text, err := exec.CommandContext(ctx, filepath.Join(c.tools, "cluster", "istioctl"), args...).Output()
	if err != nil {
		return fmt.Errorf("istioctl manifest generate: %w", err)
	}
	objects, err := decode(string(text))
	if err != nil {
		return err
	}
	if c.layout != nil { // the gateways' Services are the release's
		objects = slices.DeleteFunc(objects, func(o object) bool { _, name := nameOf(o); return kindOf(o) == "Service" && name != "istiod" })
	}
	if err := c.put(ctx, "istioctl", objects); err != nil {
		return err
	}
	return c.rolledOut(ctx, "istio-system", "istiod")
}

// installStory applies what the story says of Kubeflow. Istio's and Kubeflow's own workloads it only sketches: the
// real ones are there already, or have no program here.
func (c *cluster) installStory(ctx context.Context) error {
	objects, err := read(filepath.Join(c.root, "examples/story/common"), filepath.Join(c.root, "examples/story/1-login-everywhere"))
	if err != nil {
		return err
	}
	var wanted []object
	for _, o := range objects {
		namespace, name := nameOf(o)
		switch kind := kindOf(o); {
		case kind == "Deployment" && namespace == "istio-system", kind == "StatefulSet", kind == "InferenceService", kind == "Pod", namespace == "knative-serving" && kind == "ConfigMap":
		case kind == "Deployment" && namespace == "kubeflow" && name != "centraldashboard":
		default:
			if kind == "Deployment" && name == "dex" {
				mountDexConfig(o)
			}
			if kind == "ConfigMap" && name == "dex" {
				backFromDex(o)
			}
			wanted = append(wanted, o)
		}
	}
	manifests := filepath.Join(c.root, "e2e/cluster/manifests")
	login, err := read(filepath.Join(manifests, "login.yaml"), filepath.Join(manifests, "dex.yaml"), filepath.Join(manifests, "knative-policies.yaml"))
	if err != nil {
		return err
	}
	wanted = append(wanted, object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": object{"name": "centraldashboard", "namespace": "kubeflow"}})
	if err := c.put(ctx, "story", append(login, wanted...)); err != nil {
		return err
	}
	if err := c.rolledOut(ctx, "istio-system", "istio-ingressgateway", "authservice"); err != nil {
		return err
	}
	return c.rolledOut(ctx, "auth", "dex")
}

// mountDexConfig adds what the story leaves out of Dex's Deployment: its configuration's volume.
func mountDexConfig(deployment object) {
	spec := deployment["spec"].(object)["template"].(object)["spec"].(object)
	spec["volumes"] = []any{object{"name": "config", "configMap": object{"name": "dex"}}}
	spec["containers"].([]any)[0].(object)["volumeMounts"] = []any{object{"name": "config", "mountPath": "/etc/dex/cfg"}}
}

// backFromDex adds the address at which oauth2-proxy wants a browser back from Dex. authservice's is there.
func backFromDex(config object) {
	data := config["data"].(object)
	const authservice = `redirectURIs: ["/login/oidc"`
	data["config.yaml"] = strings.Replace(data["config.yaml"].(string), authservice, authservice+`, "http://`+doors["gateway"]+`/oauth2/callback"`, 1)
}

func (c *cluster) installKnative(ctx context.Context) error {
	objects, err := read(filepath.Join(c.modules.networking, "config"), filepath.Join(c.modules.caching, "config"), filepath.Join(c.modules.knative, "config/core"))
	if err != nil {
		return err
	}
	raw, err := json.Marshal(objects)
	if err != nil {
		return err
	}
	// Images are named by their Go packages; ko would build them.
	text := string(raw)
	for _, program := range []string{"controller", "webhook"} {
		text = strings.ReplaceAll(text, `"ko://knative.dev/serving/cmd/`+program+`"`, `"ko.local/knative-`+program+`"`)
	}
	text = strings.ReplaceAll(text, `"ko://knative.dev/serving/cmd/`, `"ko.local/`)
	var kept []object
	if err := json.Unmarshal([]byte(text), &objects); err != nil {
		return err
	}
	for _, o := range objects {
		_, name := nameOf(o)
		if kindOf(o) == "HorizontalPodAutoscaler" || kindOf(o) == "Namespace" {
			continue
		}
		switch data, _ := o["data"].(object); name {
		case "config-deployment":
			data["registries-skipping-tag-resolving"] = "ko.local,index.docker.io" // no registry can be asked
		case "config-network":
			if data == nil {
				data = object{}
				o["data"] = data
			}
			data["ingress-class"] = "istio.ingress.networking.knative.dev"
		}
		kept = append(kept, o)
	}
	if err := c.put(ctx, "knative", kept); err != nil {
		return err
	}
	if err := c.startNetIstio(); err != nil {
		return err
	}
	if err := c.rolledOut(ctx, "knative-serving", "webhook", "controller", "autoscaler", "activator"); err != nil {
		return err
	}
	settings, err := read(filepath.Join(c.root, "examples/story/common/knative.yaml"))
	if err != nil {
		return err
	}
	if c.layout != nil { // KServe's are the release's
		settings = slices.DeleteFunc(settings, func(o object) bool { namespace, _ := nameOf(o); return namespace != "knative-serving" })
	}
	return c.put(ctx, "story", settings)
}

// startNetIstio starts net-istio's controller as a program: the stand-in, or the real one where somebody has it.
func (c *cluster) startNetIstio() error {
	env := []string{
		"KUBECONFIG=" + c.kubeconfig(), "SYSTEM_NAMESPACE=knative-serving", "METRICS_DOMAIN=knative.dev/net-istio",
		"CONFIG_LOGGING_NAME=config-logging", "CONFIG_OBSERVABILITY_NAME=config-observability", "POD_NAME=net-istio-controller",
	}
	if c.netIstio != "" {
		c.say("net-istio's controller: %s", c.netIstio)
		return c.start("net-istio", env, c.netIstio)
	}
	return c.start("net-istio", env, c.self, "net-istio")
}

// netIstio is the stand-in, as the program that the cluster starts.
func netIstio() error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	(&netistio.Controller{Client: client, Log: log.Printf}).Run(context.Background())
	return nil
}

// installKServe applies KServe's manifest without what is for other modes (LLMs, local models) and without
// cert-manager: its webhooks' certificate is made here.
func (c *cluster) installKServe(ctx context.Context, ca *authority) error {
	dir := filepath.Join(c.modules.kserve, "install", strings.TrimPrefix(filepath.Base(c.modules.kserve), "kserve@"))
	objects, err := read(filepath.Join(dir, "kserve.yaml"), filepath.Join(dir, "kserve-cluster-resources.yaml"))
	if err != nil {
		return err
	}
	crt, key, err := ca.issue("kserve-webhook", "kserve-webhook", nil, []string{"kserve-webhook-server-service.kserve.svc"})
	if err != nil {
		return err
	}
	kept := []object{{"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": object{"name": "kserve-webhook-server-cert", "namespace": "kserve"},
		"stringData": object{"tls.crt": string(crt), "tls.key": string(key)}}}
	var runtimes []object
	for _, o := range objects {
		_, name := nameOf(o)
		kind := kindOf(o)
		switch {
		case kind == "Certificate", kind == "Issuer", kind == "DaemonSet", kind == "LLMInferenceServiceConfig",
			kind == "Deployment" && name != "kserve-controller-manager",
			strings.Contains(kind, "Webhook") && (strings.HasPrefix(name, "llm") || strings.HasPrefix(name, "localmodel")):
			continue
		case kind == "ClusterServingRuntime":
			if name == "kserve-sklearnserver" {
				runtimes = append(runtimes, o)
			}
			continue
		case kind == "ClusterStorageContainer":
			runtimes = append(runtimes, o)
			continue
		case strings.HasSuffix(kind, "WebhookConfiguration"):
			trust(o, ca)
		case kind == "Deployment": // it asks for patience that nobody needs here: 30 s
			containerOf(o)["readinessProbe"].(object)["initialDelaySeconds"] = 1
		case kind == "ConfigMap" && name == "inferenceservice-config":
			if err := c.gatewaysOfKServe(o); err != nil {
				return err
			}
		}
		kept = append(kept, o)
	}
	if err := c.put(ctx, "kserve", kept); err != nil {
		return err
	}
	if err := c.rolledOut(ctx, "kserve", "kserve-controller-manager"); err != nil {
		return err
	}
	return c.put(ctx, "kserve-runtimes", runtimes)
}

func trust(webhooks object, ca *authority) {
	list, _ := webhooks["webhooks"].([]any)
	for _, w := range list {
		w.(object)["clientConfig"].(object)["caBundle"] = base64.StdEncoding.EncodeToString(ca.pem)
	}
}

// gatewaysOfKServe gives KServe the story's gateways or the layout's, in its own settings otherwise.
func (c *cluster) gatewaysOfKServe(config object) error {
	file := filepath.Join(c.root, "examples/story/common/knative.yaml")
	if c.layout != nil {
		file = filepath.Join(c.corpus, c.layout.folder, "kserve-config.yaml")
	}
	story, err := read(file)
	if err != nil {
		return err
	}
	data := config["data"].(object)
	ingress := object{}
	if err := json.Unmarshal([]byte(data["ingress"].(string)), &ingress); err != nil {
		return fmt.Errorf("inferenceservice-config: %w", err)
	}
	for _, o := range story {
		if _, name := nameOf(o); name == "inferenceservice-config" {
			if err := json.Unmarshal([]byte(o["data"].(object)["ingress"].(string)), &ingress); err != nil {
				return err
			}
		}
	}
	text, err := json.Marshal(ingress)
	data["ingress"] = string(text)
	return err
}

func (c *cluster) installModels(ctx context.Context) error {
	objects, err := read(filepath.Join(c.root, "examples/story/common/models.yaml"))
	if err != nil {
		return err
	}
	for _, o := range objects {
		if kindOf(o) == "Pod" {
			o["metadata"].(object)["namespace"] = "default"
		}
	}
	if err := c.put(ctx, "story", objects); err != nil {
		return err
	}
	return c.kubectl(ctx, nil, "wait", "--namespace=kserve-test", "--for=condition=Ready", "--timeout=10m", "inferenceservice/sklearn-iris")
}
