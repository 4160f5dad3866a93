//go:build e2e

package story

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/lab"
	"postern.dev/postern/internal/lab/demo"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
)

// TestVirtualServiceToAMissingService runs manifests that no translation is
// bundled for: the translator of their Istio is built or found. The system says
// what is missing and answers 503 there, in both gateways.
func TestVirtualServiceToAMissingService(t *testing.T) {
	states := story.States()
	for name, envoy := range map[string]string{"ours": "", "envoy": tool(t, "envoy/bin/envoy")} {
		c := config(t, states[len(states)-1], envoy)
		c.Translate = translate.Options{}
		c.Ports = map[string]int{"kubeflow/kubeflow-gateway": 0, "knative-serving/knative-local-gateway": 0}
		c.Load = func() (*manifest.Set, error) {
			set, err := manifest.FS(story.FS, states[len(states)-1].Dirs...)
			if err != nil {
				return nil, err
			}
			var kept []*manifest.Object
			for o := range set.All() {
				if o.Kind != "Service" || o.Meta.Name != "jupyter-web-app-service" {
					kept = append(kept, o)
				}
			}
			return manifest.New(kept...)
		}
		system, err := lab.Start(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		if notes := strings.Join(system.Notes(), "\n"); !strings.Contains(notes, "kubeflow.yaml:") || !strings.Contains(notes, "requests get 503") {
			t.Errorf("%s: got notes %q, want one that names the VirtualService", name, notes)
		}
		gateway := system.Doors()[0].URL
		cookies, err := lab.LogIn(context.Background(), gateway, demo.User, demo.Password)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest(http.MethodGet, gateway+"/jupyter/", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cookies {
			req.AddCookie(c)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: got %d, want 503", name, resp.StatusCode)
		}
		closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if err := system.Close(closing); err != nil {
			t.Error(err)
		}
		cancel()
	}
}
