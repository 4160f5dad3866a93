package deploy

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/daemon"
	"postern.dev/postern/internal/manifest"
)

func release(t *testing.T, l Layout) *manifest.Set {
	t.Helper()
	set, err := manifest.Files([]string{filepath.Join("..", "e2e", "kubeflow", "testdata", l.Release)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestInto: in each release Postern is the one CUSTOM provider of every gateway
// workload, without a rule's exemption, and what it took the place of is gone.
func TestInto(t *testing.T) {
	for _, l := range Layouts() {
		t.Run(l.Release, func(t *testing.T) {
			before := release(t, l)
			set, err := l.Into(before)
			if err != nil {
				t.Fatal(err)
			}
			_, mesh, _ := manifest.Find[*corev1.ConfigMap](set, "istio-system", "istio")
			for _, want := range []string{"name: postern", "service: postern-system/posternd.postern-system.svc.cluster.local", "failOpen: false", `statusOnError: "503"`, "rootNamespace: istio-system"} {
				if strings.Count(mesh.Data["mesh"], want) != 1 {
					t.Errorf("%q is not once in the mesh configuration:\n%s", want, mesh.Data["mesh"])
				}
			}
			var selected []string
			for o, p := range manifest.Of[*security.AuthorizationPolicy](set) {
				if p.Action != security.AuthorizationPolicy_CUSTOM {
					continue
				}
				if p.GetProvider().GetName() != "postern" || len(p.Rules) != 1 || len(p.Rules[0].From)+len(p.Rules[0].To)+len(p.Rules[0].When) != 0 {
					t.Errorf("%s: got provider %s and rules %v, want postern's for everything", o, p.GetProvider().GetName(), p.Rules)
				}
				selected = append(selected, p.GetSelector().GetMatchLabels()["istio"])
			}
			if slices.Sort(selected); !slices.Equal(selected, []string{"cluster-local-gateway", "ingressgateway"}) {
				t.Errorf("CUSTOM policies for %v", selected)
			}
			for _, ef := range manifest.Of[*networking.EnvoyFilter](set) {
				for _, p := range ef.ConfigPatches {
					if p.GetPatch().GetOperation() == networking.EnvoyFilter_Patch_INSERT_BEFORE && p.GetPatch().GetValue().GetFields()["name"].GetStringValue() == "envoy.filters.http.ext_authz" {
						t.Error("another ext_authz filter is still there")
					}
				}
			}
			if _, err := l.Into(set); err == nil {
				t.Error("Postern goes in twice")
			}
			for o := range before.All() {
				if o.Meta.Name == "istio" && !strings.Contains(string(o.JSON), `postern`) {
					return
				}
			}
			t.Error("the release itself was changed")
		})
	}
}

// TestAnotherLayout: objects of another layout are no place for this one.
func TestAnotherLayout(t *testing.T) {
	old, _ := Find("v1.8.1-shared")
	for _, l := range Layouts()[2:] {
		if _, err := l.Into(release(t, old)); err == nil || !strings.Contains(err.Error(), "istio-ingressgateway-oauth2-proxy") {
			t.Errorf("%s into the objects of %s: got %v", l.Release, old.Release, err)
		}
	}
	if _, ok := Find("v0.1"); ok {
		t.Error("a layout for v0.1")
	}
}

// TestConfigs: posternd reads what the layouts tell it, and nothing there weakens.
func TestConfigs(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(key, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, l := range Layouts() {
		set, err := l.Into(release(t, l))
		if err != nil {
			t.Fatal(err)
		}
		_, cm, _ := manifest.Find[*corev1.ConfigMap](set, "postern-system", "posternd")
		text := strings.Replace(cm.Data["config.yaml"], "/etc/postern-passport/key.pem", key, 1)
		c, err := daemon.ParseConfig("config.yaml", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", l.Release, err)
			continue
		}
		if c.InsecurePort || !strings.HasPrefix(c.Listen.GRPC, "127.0.0.1:") || len(c.Passport.KeyFiles) != 1 {
			t.Errorf("%s: got %+v", l.Release, c)
		}
		inside := 0
		for _, d := range c.Authorizer.Doors {
			if _, _, ok := manifest.Find[*networking.Gateway](set, strings.Split(d.Gateway, "/")[0], strings.Split(d.Gateway, "/")[1]); !ok {
				t.Errorf("%s: no Gateway %s", l.Release, d.Gateway)
			}
			if d.InCluster {
				inside++
			}
		}
		if inside != 1 {
			t.Errorf("%s: got %d doors in the cluster, want Knative's local gateway alone", l.Release, inside)
		}
	}
}

// TestDisallowedHeaders: nothing that Postern looks at or removes is kept from it.
func TestDisallowedHeaders(t *testing.T) {
	lists := 0
	for _, l := range Layouts() {
		set, err := l.Into(release(t, l))
		if err != nil {
			t.Fatal(err)
		}
		_, cm, _ := manifest.Find[*corev1.ConfigMap](set, "postern-system", "posternd")
		var c daemon.Config
		if _, err := authorizer.Decode("config.yaml", []byte(cm.Data["config.yaml"]), &c); err != nil {
			t.Fatal(err)
		}
		for o, ef := range manifest.Of[*networking.EnvoyFilter](set) {
			for _, p := range ef.ConfigPatches {
				patterns := p.GetPatch().GetValue().GetFields()["typed_config"].GetStructValue().GetFields()["disallowed_headers"].GetStructValue().GetFields()["patterns"].GetListValue().GetValues()
				if len(patterns) > 0 {
					lists++
				}
				for _, v := range patterns {
					fields := v.GetStructValue().GetFields()
					name := fields["exact"].GetStringValue()
					if len(fields) != 1 || name == "" || c.Authorizer.Looks(name) {
						t.Errorf("%s: %s: %v is kept from posternd", l.Release, o, v)
					}
				}
			}
		}
		for _, name := range []string{"Authorization", "cookie", "x-api-key", "kubeflow_userid", "x-auth-request-email", "X_Postern_Caller", "origin", "accept"} {
			if !c.Authorizer.Looks(name) {
				t.Errorf("%s: Looks does not know %s", l.Release, name)
			}
		}
	}
	if lists != 6 {
		t.Errorf("got %d lists, want one for each gateway of three releases", lists)
	}
}

// TestRolesAreTheStorys: the two roles stand in two places, for reading.
func TestRolesAreTheStorys(t *testing.T) {
	here, err := FS.ReadFile("base/roles.yaml")
	if err != nil {
		t.Fatal(err)
	}
	there, err := os.ReadFile(filepath.Join("..", "examples", "story", "4-postern", "roles.yaml"))
	if err != nil || !bytes.Equal(here, there) {
		t.Errorf("base/roles.yaml is not the story's (%v)", err)
	}
}
