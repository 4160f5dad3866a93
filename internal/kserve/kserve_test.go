package kserve

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"postern.dev/postern/internal/manifest"

	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// corpus is where the lead keeps the real objects; it is not part of the repository.
const corpus = "../../../shared/corpus"

const model = `
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: isvc-sklearn, namespace: kubeflow-user-example-com}
spec:
  predictor:
    model:
      modelFormat: {name: sklearn}
      storageUri: gs://kfserving-examples/models/sklearn/1.0/model
`

const gateways = `
apiVersion: v1
kind: ConfigMap
metadata: {name: inferenceservice-config, namespace: kubeflow}
data:
  ingress: |
    {"ingressGateway": "kubeflow/kubeflow-gateway", "ingressService": "istio-ingressgateway.istio-system.svc.cluster.local",
     "localGateway": "knative-serving/knative-local-gateway", "localGatewayService": "knative-local-gateway.istio-system.svc.cluster.local"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: config-istio, namespace: knative-serving}
data:
  gateway.kubeflow.kubeflow-gateway: istio-ingressgateway.istio-system.svc.cluster.local
---
`

const exampleCom = `
apiVersion: v1
kind: ConfigMap
metadata: {name: config-domain, namespace: knative-serving}
data:
  example.com: ""
---
`

func set(t *testing.T, text string) *manifest.Set {
	t.Helper()
	s, err := manifest.Bytes("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func derived(t *testing.T, text string) *manifest.Set {
	t.Helper()
	objects, err := Derive(set(t, text))
	if err != nil {
		t.Fatal(err)
	}
	s, err := manifest.New(objects...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCorpus holds what is derived against what KServe and net-istio made of the
// same InferenceService: every field, K-Network-Hash included.
func TestCorpus(t *testing.T) {
	// The corpus' own ConfigMaps, of the releases its derived files name.
	config := func(t *testing.T, release string) string {
		var out []string
		for _, f := range []string{"kserve-config.yaml", "knative-config.yaml"} {
			raw, err := os.ReadFile(filepath.Join(corpus, release, f))
			if os.IsNotExist(err) {
				t.Skipf("no corpus of real objects here: %v", err)
			} else if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(raw))
		}
		return strings.Join(out, "\n---\n")
	}
	for _, tt := range []struct {
		file, release string
		edit          func(string) string
		missing       bool // the file holds no such object: it must not be derived either
	}{
		{file: "kserve-vs-external.yaml", release: "v1.10.2"},
		{file: "knative-vs-external.yaml", release: "v1.10.2"},
		{file: "kserve-vs-26.03-pathtemplate.yaml", release: "26.03"},
		{file: "kserve-vs-internal.yaml", release: "v1.8.1-shared"},
		{file: "knative-vs-internal.yaml", release: "v1.8.1-shared"},
		// the same by label, whatever the domain
		{file: "kserve-vs-internal.yaml", release: "v1.10.2", edit: localOnly},
		{file: "knative-vs-internal.yaml", release: "v1.10.2", edit: localOnly},
	} {
		t.Run(tt.file+"/"+tt.release, func(t *testing.T) {
			text := model
			if tt.edit != nil {
				text = tt.edit(text)
			}
			got := derived(t, config(t, tt.release)+"\n---\n"+text)
			want, err := manifest.Files([]string{filepath.Join(corpus, "derived", tt.file)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for o, vs := range manifest.Of[*networking.VirtualService](want) {
				n++
				same(t, got, o, vs)
			}
			if n == 0 {
				t.Fatal("no VirtualService in the corpus file")
			}
		})
	}
}

func localOnly(text string) string {
	return strings.Replace(text, "metadata: {", "metadata: {labels: {networking.knative.dev/visibility: cluster-local}, ", 1)
}

// same compares one derived VirtualService with the corpus', through its JSON too.
func same(t *testing.T, got *manifest.Set, want *manifest.Object, spec *networking.VirtualService) {
	t.Helper()
	o, vs, ok := manifest.Find[*networking.VirtualService](got, want.Meta.Namespace, want.Meta.Name)
	if !ok {
		t.Errorf("%s is not derived", want)
		return
	}
	if o.APIVersion != want.APIVersion || !maps.Equal(o.Meta.Labels, want.Meta.Labels) {
		t.Errorf("%s: got %s %v, want %s %v", want, o.APIVersion, o.Meta.Labels, want.APIVersion, want.Meta.Labels)
	}
	if !proto.Equal(vs, spec) {
		t.Errorf("%s:\ngot  %s\nwant %s", want, protojson.Format(vs), protojson.Format(spec))
	}
	again, err := manifest.Bytes("derived.json", o.JSON)
	if err != nil {
		t.Fatalf("%s: its JSON: %v", o, err)
	}
	if _, vs, _ := manifest.Find[*networking.VirtualService](again, o.Meta.Namespace, o.Meta.Name); !proto.Equal(vs, spec) {
		t.Errorf("%s: JSON and value differ", o)
	}
}

// TestRuntime holds the Service and pod against corpus/derived/isvc-runtime.yaml.
func TestRuntime(t *testing.T) {
	want, err := manifest.Files([]string{filepath.Join(corpus, "derived/isvc-runtime.yaml")}, nil)
	if err != nil {
		t.Skipf("no corpus of real objects here: %v", err)
	}
	got := derived(t, gateways+exampleCom+model)
	const ns = "kubeflow-user-example-com"
	for _, svc := range manifest.Of[*corev1.Service](want) {
		_, g, ok := manifest.Find[*corev1.Service](got, ns, svc.Name)
		if !ok || g.Spec.Type != svc.Spec.Type || g.Spec.ExternalName != svc.Spec.ExternalName {
			t.Errorf("Service %s: got %+v", svc.Name, g)
		}
	}
	for _, pod := range manifest.Of[*corev1.Pod](want) {
		_, g, ok := manifest.Find[*corev1.Pod](got, ns, pod.Name+"-deployment-1")
		if !ok {
			t.Fatalf("no pod %s-deployment-1", pod.Name)
		}
		for k, v := range pod.Labels {
			if g.Labels[k] != v {
				t.Errorf("pod label %s: got %q, want %q", k, g.Labels[k], v)
			}
		}
		if g.Spec.ServiceAccountName != pod.Spec.ServiceAccountName || !reflect.DeepEqual(ports(g), ports(pod)) {
			t.Errorf("got %s %v, want %s %v", g.Spec.ServiceAccountName, ports(g), pod.Spec.ServiceAccountName, ports(pod))
		}
	}
}

func ports(p *corev1.Pod) map[string]map[string]int32 {
	out := map[string]map[string]int32{}
	for _, c := range p.Spec.Containers {
		out[c.Name] = map[string]int32{}
		for _, port := range c.Ports {
			out[c.Name][port.Name] = port.ContainerPort
		}
	}
	return out
}

func TestObjects(t *testing.T) {
	got := derived(t, gateways+exampleCom+model)
	var list []string
	for o := range got.Sorted() {
		list = append(list, o.Kind+" "+o.Meta.Name)
		if o.Derived != "InferenceService kubeflow-user-example-com/isvc-sklearn" || o.Source.Line == 0 {
			t.Errorf("%s: derived from %q at %s", o, o.Derived, o.Source)
		}
		if _, err := manifest.Bytes("derived.json", o.JSON); err != nil {
			t.Errorf("%s does not load: %v", o, err)
		}
	}
	want := []string{
		"Pod isvc-sklearn-predictor-00001-deployment-1",
		"Service isvc-sklearn", "Service isvc-sklearn-predictor", "Service isvc-sklearn-predictor-00001",
		"VirtualService isvc-sklearn", "VirtualService isvc-sklearn-predictor-ingress", "VirtualService isvc-sklearn-predictor-mesh",
	}
	if !reflect.DeepEqual(list, want) {
		t.Errorf("got %q, want %q", list, want)
	}
	pod, _ := got.Get("", "Pod", "kubeflow-user-example-com", "isvc-sklearn-predictor-00001-deployment-1")
	uri := pod.Value.(*corev1.Pod).Annotations["internal.serving.kserve.io/storage-initializer-sourceuri"]
	if uri != "gs://kfserving-examples/models/sklearn/1.0/model" {
		t.Errorf("storage URI: got %q", uri)
	}
}

// TestComponents: a transformer is called first, an explainer only for :explain.
func TestComponents(t *testing.T) {
	got := derived(t, gateways+exampleCom+model+`
  transformer: {containers: [{name: mine, image: transformer:1}], minReplicas: 2, serviceAccountName: mover}
  explainer: {containers: [{name: why, image: explainer:1}]}
`)
	_, vs, _ := manifest.Find[*networking.VirtualService](got, "kubeflow-user-example-com", "isvc-sklearn")
	if len(vs.Http) != 2 {
		t.Fatalf("got %d routes, want 2", len(vs.Http))
	}
	for i, want := range []struct{ uri, host string }{
		{`^/v1/models/[\w-]+:explain$`, "isvc-sklearn-explainer.kubeflow-user-example-com.svc.cluster.local"},
		{"", "isvc-sklearn-transformer.kubeflow-user-example-com.svc.cluster.local"},
	} {
		r := vs.Http[i]
		if host := r.Headers.Request.Set["Host"]; host != want.host || r.Match[0].GetUri().GetRegex() != want.uri {
			t.Errorf("route %d: got %q %q, want %q %q", i, r.Match[0].GetUri().GetRegex(), host, want.uri, want.host)
		}
	}
	if want := "isvc-sklearn.kubeflow-user-example-com.example.com"; vs.Hosts[1] != want {
		t.Errorf("host: got %q, want %q", vs.Hosts[1], want)
	}
	o, ok := got.Get("", "Pod", "kubeflow-user-example-com", "isvc-sklearn-transformer-00001-deployment-2")
	if !ok {
		t.Fatal("no second transformer pod")
	}
	if p := o.Value.(*corev1.Pod).Spec; p.ServiceAccountName != "mover" || p.Containers[0].Image != "transformer:1" {
		t.Errorf("got %s %s", p.ServiceAccountName, p.Containers[0].Image)
	}
}

// TestHost: the public host, with KServe's own surprises.
func TestHost(t *testing.T) {
	for _, tt := range []struct{ name, namespace, domains, want string }{
		{"sklearn-iris", "kserve-test", `{example.com: ""}`, "sklearn-iris.kserve-test.example.com"},
		{"sklearn-iris", "kserve-test", `{a.com: "", b.com: "selector: {team: ds}"}`, "sklearn-iris.kserve-test.b.com"},
		{"sklearn-iris", "kserve-test", `{b.com: "", a.com: "selector: {team: other}"}`, "sklearn-iris.kserve-test.b.com"},
		{"sklearn-iris", "kserve-test", `{}`, ""},
		{"sklearn-iris", "kserve-test", `{a.com: "selector: {team: other}"}`, ""},
		{"my-predictor-x", "kserve-test", `{example.com: ""}`, "my-x-predictor.kserve-test.example.com"},
		{"iris", "my-default", `{example.com: ""}`, "iris-predictor.my-default.example.com"},
	} {
		t.Run(tt.name+"/"+tt.domains, func(t *testing.T) {
			text := strings.ReplaceAll(model, "kubeflow-user-example-com", tt.namespace)
			text = strings.Replace(text, "{name: isvc-sklearn", "{labels: {team: ds}, name: "+tt.name, 1)
			config := strings.Replace(exampleCom, "\n  example.com: \"\"", " "+tt.domains, 1)
			got := derived(t, gateways+config+text)
			_, vs, _ := manifest.Find[*networking.VirtualService](got, tt.namespace, tt.name)
			want := []string{tt.name + "." + tt.namespace + ".svc.cluster.local"}
			if tt.want != "" {
				want = append(want, tt.want)
			}
			if !reflect.DeepEqual(vs.Hosts, want) {
				t.Errorf("got %q, want %q", vs.Hosts, want)
			}
		})
	}
}

// TestOthersStay: an InferenceService that cannot be derived takes nothing from the others.
func TestOthersStay(t *testing.T) {
	raw := strings.Replace(model, "metadata: {name: isvc-sklearn", "metadata: {annotations: {serving.kserve.io/deploymentMode: Standard}, name: raw", 1)
	objects, err := Derive(set(t, gateways+raw+"---"+model))
	if err == nil || !strings.Contains(err.Error(), "InferenceService kubeflow-user-example-com/raw: metadata.annotations") {
		t.Errorf("got %v", err)
	}
	if len(objects) != 7 {
		t.Errorf("got %d objects, want the other one's 7", len(objects))
	}
}

// TestRefused: what is not known is an error that names the field.
func TestRefused(t *testing.T) {
	istio := func(data string) string {
		return strings.Replace(gateways, "  gateway.kubeflow", data+"\n  gateway.kubeflow", 1)
	}
	ingress := func(field string) string {
		return strings.Replace(gateways, `{"ingressGateway"`, `{`+field+`, "ingressGateway"`, 1)
	}
	annotated := func(a string) string {
		return strings.Replace(model, "metadata: {", "metadata: {annotations: {"+a+"}, ", 1)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"raw", gateways + annotated("serving.kserve.io/deploymentMode: RawDeployment"), "deploymentMode]: RawDeployment is not supported yet"},
		{"serverless", gateways + annotated("serving.kserve.io/deploymentMode: Serverless"), ""},
		{"modelmesh", gateways + annotated("serving.kserve.io/deploymentMode: ModelMesh"), "ModelMesh is not supported yet"},
		{"default mode", strings.Replace(gateways, "data:\n", "data:\n  deploy: '{\"defaultDeploymentMode\": \"Standard\"}'\n", 1) + model, "defaultDeploymentMode: Standard is not"},
		{"status", gateways + model + "status: {deploymentMode: RawDeployment}\n", "status.deploymentMode: RawDeployment"},
		{"tags", gateways + annotated(`serving.kserve.io/enable-tag-routing: "true"`), "tag routing"},
		{"canary", gateways + model + "    canaryTrafficPercent: 10\n", "spec.predictor.canaryTrafficPercent"},
		{"a component's labels", gateways + model + "    labels: {team: a}\n    annotations: {x: y}\n", ""},
		{"a component's visibility", gateways + model + "    labels: {networking.knative.dev/visibility: cluster-local}\n", "spec.predictor.labels[networking.knative.dev/visibility]"},
		{"a component's domain", gateways + "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-domain, namespace: knative-serving}\ndata: {a.com: 'selector: {team: a}'}\n---\n" + model + "    labels: {team: a}\n", "spec.predictor.labels[team]"},
		{"a component's tags", gateways + model + "    annotations: {serving.kserve.io/enable-tag-routing: \"true\"}\n", "tag routing"},
		{"whole canary", gateways + model + "    canaryTrafficPercent: 100\n", ""},
		{"h2c", gateways + model + "      ports: [{name: h2c, containerPort: 9000}]\n", ""},
		{"a port's name that Knative refuses", gateways + model + "      ports: [{name: grpc, containerPort: 9000}]\n", "spec.predictor.ports: port grpc"},
		{"path template", ingress(`"pathTemplate": "/serving/{{ .Name }}", "ingressDomain": "a.com"`) + model, ""},
		{"no domain for it", ingress(`"pathTemplate": "/serving/{{ .Name }}"`) + model, "data.ingress.ingressDomain: required"},
		{"broken template", ingress(`"pathTemplate": "/serving/{{ .Name", "ingressDomain": "a.com"`) + model, "data.ingress.pathTemplate: template"},
		{"unknown field in it", ingress(`"pathTemplate": "/serving/{{ .UID }}", "ingressDomain": "a.com"`) + model, "pathTemplate: template"},
		{"no path", ingress(`"pathTemplate": "https://a/{{ .Name }}", "ingressDomain": "a.com"`) + model, "want a path"},
		{"no ingress", ingress(`"disableIngressCreation": true`) + model, "data.ingress.disableIngressCreation"},
		{"more domains", ingress(`"additionalIngressDomains": ["a.com"]`) + model, "data.ingress.additionalIngressDomains"},
		{"no virtual host", ingress(`"disableIstioVirtualHost": true`) + model, "data.ingress.disableIstioVirtualHost"},
		{"other fields", ingress(`"domainTemplate": "{{ .Name }}-{{ .Namespace }}", "urlScheme": "https"`) + model, ""},
		{"broken config", strings.Replace(gateways, `{"ingressGateway"`, `{ingressGateway`, 1) + model, "data.ingress: invalid character"},
		{"no gateway", strings.Replace(gateways, `"localGateway"`, `"localGatewayX"`, 1) + model, "data.ingress.localGateway: required"},
		{"no config", model, "needs ConfigMap inferenceservice-config"},
		{"two configs", gateways + strings.ReplaceAll(gateways, "config, namespace: kubeflow", "config, namespace: kserve") + model, ""},
		{"two local gateways", istio("  local-gateway.a.b: x.y.svc\n  local-gateway.c.d: x.y.svc") + model, "2 local gateways"},
		{"mesh only", istio("  local-gateways: '[]'") + model, "mesh-only"},
		{"selector", istio("  local-gateways: '[{namespace: a, name: b, service: c.d.svc, labelSelector: {matchLabels: {x: y}}}]'") + model, "labelSelector"},
		{"domain template", gateways + "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-network, namespace: knative-serving}\ndata: {domainTemplate: '{{.Name}}.{{.Domain}}'}\n---\n" + model, "data.domainTemplate"},
		{"long name", gateways + strings.Replace(model, "isvc-sklearn", strings.Repeat("a", 50), 1), "at most 63"},
		{"two for one name", gateways + model + "---" + strings.Replace(model, "isvc-sklearn", "isvc-sklearn-predictor", 1), "would also be that of"},
		{"stopped", gateways + annotated(`serving.kserve.io/stop: "true"`), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "two configs" {
				// config-istio is in both texts: keep one
				tt.text = strings.Replace(tt.text, "name: config-istio", "name: config-other", 1)
				tt.want = "another one is at"
			}
			_, err := Derive(set(t, tt.text))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestHTTP2: a port named h2c is served over HTTP/2, at Knative's other port.
func TestHTTP2(t *testing.T) {
	for _, tt := range []struct {
		ports  string
		number uint32
		name   string
		target int
	}{
		{"", 80, "http", 8012},
		{"      ports: [{name: h2c, containerPort: 9000}]\n", 81, "http2", 8013},
		{"      ports: [{name: http1, containerPort: 9000}]\n", 80, "http", 8012},
	} {
		objects, err := Derive(set(t, gateways+model+tt.ports))
		if err != nil {
			t.Fatal(err)
		}
		routes, services := 0, 0
		for _, o := range objects {
			switch v := o.Value.(type) {
			case *networking.VirtualService:
				for _, r := range v.Http {
					if d := r.Route[0].Destination; strings.Contains(d.Host, "-00001.") {
						if routes++; d.Port.Number != tt.number {
							t.Errorf("%s: %s leads to port %d, want %d", tt.ports, o, d.Port.Number, tt.number)
						}
					}
				}
			case *corev1.Service:
				if strings.HasSuffix(o.Meta.Name, "-00001") {
					services++
					if p := v.Spec.Ports[0]; p.Name != tt.name || uint32(p.Port) != tt.number || p.TargetPort.IntValue() != tt.target {
						t.Errorf("%s: got %v", tt.ports, p)
					}
				}
			}
		}
		if routes == 0 || services != 1 {
			t.Errorf("%s: got %d routes and %d Services of the revision", tt.ports, routes, services)
		}
	}
}
