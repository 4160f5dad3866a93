package snapshot

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/kserve"
	"postern.dev/postern/internal/manifest"
)

// BenchmarkMap is the part of a snapshot that takes longest: the routes of a thousand
// models, each with the objects that its controllers write.
func BenchmarkMap(b *testing.B) {
	cfg, err := authorizer.ParseConfig("c", []byte("doors: [{gateway: kubeflow/kubeflow-gateway, port: 8080}, {gateway: knative-serving/knative-local-gateway, port: 8081}]\nrouting: derived\n"))
	if err != nil {
		b.Fatal(err)
	}
	var text strings.Builder
	text.WriteString(good)
	for i := range 1000 {
		fmt.Fprintf(&text, "---\napiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: m%d, namespace: ns%d}\nspec: {predictor: {model: {modelFormat: {name: sklearn}, storageUri: 'gs://x'}}}\n", i, i%50)
	}
	set, err := manifest.Bytes("f.yaml", []byte(text.String()))
	if err != nil {
		b.Fatal(err)
	}
	derived, err := kserve.Derive(set)
	if err != nil {
		b.Fatal(err)
	}
	var live []*manifest.Object
	for o := range set.With(derived...).All() {
		var v map[string]any
		if err := json.Unmarshal(o.JSON, &v); err != nil {
			b.Fatal(err)
		}
		v["metadata"].(map[string]any)["namespace"] = o.Meta.Namespace
		if o, err := manifest.Live(v); err == nil && o.Kind != "Pod" {
			live = append(live, o)
		}
	}
	set, err = manifest.New(live...)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s, problems, err := Update(nil, Map, set, cfg)
		if err != nil || problems != nil {
			b.Fatal(s, problems, err)
		}
	}
}
