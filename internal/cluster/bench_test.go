package cluster

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// BenchmarkRead is the reading of one pod as it comes from a watch, stripped already.
func BenchmarkRead(b *testing.B) {
	raw, err := yaml.YAMLToJSON([]byte(aPod))
	if err != nil {
		b.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(raw); err != nil {
		b.Fatal(err)
	}
	s := newStore(kind{of: podKind}, func() {}, func(string, error) {})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.read(o); err != nil {
			b.Fatal(err)
		}
	}
}
