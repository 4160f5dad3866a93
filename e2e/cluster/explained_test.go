//go:build e2e

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// explainKinds are what explain reads of a cluster. A Deployment's pods it makes of the Deployment, and a model's of
// the InferenceService: theirs are left out (notTheirs).
const (
	explainKinds = "namespaces,services,pods,serviceaccounts,deployments,roles,rolebindings,clusterroles,clusterrolebindings,inferenceservices," +
		"gateways.networking.istio.io,virtualservices,destinationrules,sidecars.networking.istio.io,envoyfilters.networking.istio.io," +
		"authorizationpolicies,requestauthentications,peerauthentications"
	notTheirs = "!pod-template-hash,!serving.knative.dev/revision"
)

// explained asks `postern explain` about calls (JSON, as --requests reads them) twice: of the objects that the API server
// has, which it translates, and of the config_dump of each gateway beside them. The answers are the same, letter for
// letter, and none is that it could not tell. keys are arguments --jwks ISSUER=FILE. It is the answers.
func explained(t *testing.T, keys []string, gateways []proxy, calls []string) []string {
	t.Helper()
	dir := t.TempDir()
	objects := write(t, dir, "cluster.yaml", []byte(kubectl(t, "get", "-A", "-o", "yaml", "-l", notTheirs, explainKinds)))
	// KServe runs in a namespace of its own here, and has its settings there and in Kubeflow's, where posternd looks:
	// explain would ask which of two KServes it is.
	settings := write(t, dir, "settings.yaml", []byte(kubectl(t, "get", "-A", "-o", "yaml", "configmaps", "--field-selector=metadata.namespace!=kserve")))
	var dumps []string
	for _, g := range gateways {
		dumps = append(dumps, "--config-dump="+write(t, dir, g.pod.Name+".json", g.dump(t)))
	}
	program, err := filepath.Abs(filepath.Join(dir, "postern"))
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", program, "./cmd/postern")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/postern: %v: %s", err, out)
	}
	ask := func(more ...string) []string {
		t.Helper()
		cmd := exec.Command(program, append([]string{"explain", "-f", objects, "-f", settings, "--requests=-"}, more...)...)
		var said bytes.Buffer
		cmd.Dir, cmd.Stdin, cmd.Stderr = root, strings.NewReader(strings.Join(calls, "\n")), &said
		out, err := cmd.Output()
		// 0 and 1 are answers: all reach a backend, or some do not.
		if code := cmd.ProcessState.ExitCode(); code != 0 && code != 1 {
			t.Errorf("explain %s: %v: %s", strings.Join(more, " "), err, said.String())
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	translated, dumped := ask(keys...), ask(dumps...)
	if len(translated) != len(calls) || len(dumped) != len(calls) {
		t.Fatalf("got %d and %d answers to %d calls", len(translated), len(dumped), len(calls))
	}
	for i, call := range calls {
		if translated[i] != dumped[i] {
			t.Errorf("explain %s:\nof the objects      %s\nof the config_dump  %s", call, translated[i], dumped[i])
		}
	}
	return translated
}

func write(t *testing.T, dir, name string, text []byte) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
