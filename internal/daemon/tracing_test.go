package daemon

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// TestTracing: with a collector every sampled decision is a span there, the last
// ones too; one that is away stops nothing.
func TestTracing(t *testing.T) {
	spans := make(chan string, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		in := &collector.ExportTraceServiceRequest{}
		if err != nil || proto.Unmarshal(body, in) != nil {
			t.Errorf("got no spans: %v", err)
		}
		for _, rs := range in.GetResourceSpans() {
			for _, ss := range rs.GetScopeSpans() {
				for _, s := range ss.GetSpans() {
					spans <- s.String()
				}
			}
		}
	}))
	defer srv.Close()
	for _, endpoint := range []string{srv.URL, "http://127.0.0.1:1"} {
		r := start(t, storyDirs(t), func(c *Config) {
			c.Tracing.Endpoint, c.Tracing.InsecureHTTP, c.Tracing.Sample = endpoint, true, 1
		})
		r.ready(t)
		expect(t, r.dial(t, insecure.NewCredentials()), check(podAddress(t), inside, modelHost, modelPath), "allow")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if lost := strings.Contains(r.said.String(), "spans are lost"); lost != (endpoint != srv.URL) {
			t.Errorf("%s: got talk %q", endpoint, r.said.String())
		}
	}
	if len(spans) != 1 {
		t.Fatalf("got %d spans, want 1", len(spans))
	}
	if s := <-spans; !strings.Contains(s, "kserve-test/inferenceservices/sklearn-iris") {
		t.Errorf("got %s", s)
	}
}
