package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"postern.dev/postern/e2e/cluster/kubelet"
)

// image is the program that an image stands for. Tags say nothing: there is one version of each here.
func (c *cluster) image(image string) (kubelet.Program, error) {
	name := image[strings.LastIndexByte(image, '/')+1:]
	name, _, _ = strings.Cut(name, "@")
	name, _, _ = strings.Cut(name, ":")
	built := func(program string) string { return filepath.Join(c.tools, "cluster", program) }
	switch name {
	case "pilot":
		return kubelet.Program{Entrypoint: []string{built("istiod")}, User: 1337}, nil
	case "proxyv2":
		return c.proxy(), nil
	case "knative-controller", "activator", "autoscaler", "knative-webhook", "queue":
		return kubelet.Program{Entrypoint: []string{built(name)}}, nil
	case "kserve-controller":
		return kubelet.Program{Links: map[string]string{"/manager": built("kserve-manager")}}, nil
	case "storage-initializer":
		// No storage is reachable: whatever it is asked for (its first argument), it copies the story's model.
		return kubelet.Program{Entrypoint: []string{"sh", "-c", `mkdir -p "$2" && cp "$0"/* "$2"`, filepath.Join(c.root, "examples/story/models/sklearn/1.0/model")}}, nil
	case "sklearnserver":
		return c.sklearn()
	case "transformer":
		return c.transformer()
	case "dex":
		return kubelet.Program{Entrypoint: []string{built("dex")}, Args: []string{"serve", "/etc/dex/cfg/config.yaml"}}, nil
	case "oauth2-proxy":
		return kubelet.Program{Entrypoint: []string{filepath.Join(c.tools, "oauth2-proxy")}}, nil
	case "posternd":
		return kubelet.Program{Entrypoint: []string{built(name)}}, nil
	case "curl":
		return kubelet.Program{Entrypoint: []string{"curl"}}, nil
	case "whoami", "central-dashboard":
		return kubelet.Program{Entrypoint: []string{c.self, "echo"}, Env: map[string]string{"ECHO": name}}, nil
	case "kube-rbac-proxy": // serves KServe's metrics, which nobody asks for
		return kubelet.Program{Entrypoint: []string{"sh", "-c", "exec sleep infinity"}}, nil
	}
	return kubelet.Program{}, fmt.Errorf("image %s: no program stands for it here", image)
}

// istioVersion is that of the modules that programs names. They are built without the flag by which Istio's own build
// tells a program its version: the proxies say it to istiod and in their config_dump.
const istioVersion = "1.28.2"

// proxy is Istio's proxy image: pilot-agent, Envoy as its authors release it, and the bootstrap template of the same Istio.
func (c *cluster) proxy() kubelet.Program {
	return kubelet.Program{
		Entrypoint: []string{"/usr/local/bin/pilot-agent"}, User: 1337,
		Env: map[string]string{"ISTIO_META_ISTIO_VERSION": istioVersion},
		Links: map[string]string{
			"/usr/local/bin/pilot-agent":                     filepath.Join(c.tools, "cluster", "pilot-agent"),
			"/usr/local/bin/envoy":                           filepath.Join(c.tools, "envoy", "bin", "envoy"),
			"/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": filepath.Join(c.modules.istio, "tools/packaging/common/envoy_bootstrap.json"),
		},
	}
}

// sklearn is KServe's own Python server, from its module.
func (c *cluster) sklearn() (kubelet.Program, error) {
	source, err := os.ReadFile(filepath.Join(c.tools, "kserve", "source"))
	if err != nil {
		return kubelet.Program{}, err
	}
	python := filepath.Join(strings.TrimSpace(string(source)), "python")
	return kubelet.Program{
		Entrypoint: []string{filepath.Join(c.tools, "kserve", "bin", "python"), "-m", "sklearnserver"},
		Env:        map[string]string{"PYTHONPATH": filepath.Join(python, "sklearnserver") + ":" + filepath.Join(python, "storage"), "PYTHONDONTWRITEBYTECODE": "1"},
	}, nil
}

// transformer is a transformer on KServe's library (manifests/transformer.py), in the environment of KServe's server.
func (c *cluster) transformer() (kubelet.Program, error) {
	program, err := c.sklearn()
	if err != nil {
		return kubelet.Program{}, err
	}
	program.Entrypoint = []string{program.Entrypoint[0], filepath.Join(c.root, "e2e/cluster/manifests/transformer.py")}
	return program, nil
}

// binds are the folders of this machine that hold what the containers' programs are made of.
func (c *cluster) binds() ([]string, error) {
	interpreter, err := filepath.EvalSymlinks(filepath.Join(c.tools, "kserve", "bin", "python"))
	if err != nil {
		return nil, fmt.Errorf("KServe's Python environment is not there: run make tools: %w", err)
	}
	source, err := os.ReadFile(filepath.Join(c.tools, "kserve", "source"))
	if err != nil {
		return nil, err
	}
	return []string{c.tools, c.root, filepath.Dir(filepath.Dir(interpreter)), strings.TrimSpace(string(source)), c.modules.istio, filepath.Dir(c.self)}, nil
}
