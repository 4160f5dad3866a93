package authorizer

import (
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
)

// BenchmarkRead compares readCheck with the generated decoder.
func BenchmarkRead(b *testing.B) {
	in := marshal(b, wholeCheck(b))
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m := new(auth.CheckRequest)
			if err := proto.Unmarshal(in, m); err != nil {
				b.Fatal(err)
			}
			RequestOf(m)
		}
	})
	b.Run("codec", func(b *testing.B) {
		b.ReportAllocs()
		s := new(scanner) // used again, as NewServer does
		for b.Loop() {
			if _, err := s.read(in); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkAnswer compares appendResponse with the generated encoder, on the
// verdict of a pod's call.
func BenchmarkAnswer(b *testing.B) {
	f := newFixture(b, testConfig())
	v := f.Decide(b.Context(), RequestOf(check(podAddr, 8081, "POST", openIn, predictPath, nil)))
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := proto.Marshal(Response(v)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("codec", func(b *testing.B) {
		b.ReportAllocs()
		room := make([]byte, 0, usualAnswer)
		for b.Loop() {
			appendResponse(room[:0], v)
		}
	})
}

// BenchmarkDecide is the judgement alone, of a pod's call.
func BenchmarkDecide(b *testing.B) {
	f := newFixture(b, testConfig())
	req := RequestOf(check(podAddr, 8081, "POST", openIn, predictPath, map[string]string{"user-agent": "curl/8", "content-type": "application/json", "content-length": "80"}))
	b.ReportAllocs()
	for b.Loop() {
		if v := f.Decide(b.Context(), req); !v.Allow {
			b.Fatal(v.Reason)
		}
	}
}
