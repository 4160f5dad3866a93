// Package trace sends a span for each decision to an OpenTelemetry collector
// (OTLP over HTTP), as a part of the trace that the check belongs to. It is the
// only importer of OpenTelemetry. A span holds what a decision's line holds and no
// secret: no header's value, no path, no query.
package trace

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"postern.dev/postern/internal/authorizer"
)

// Config says where spans go. The zero value sends none.
type Config struct {
	// Endpoint is the collector's URL, such as https://otel.observability:4318;
	// without a path, spans go to /v1/traces. Empty: no traces.
	Endpoint string `yaml:"endpoint"`
	// Sample is the share, from 0 to 1, of checks to trace that belong to no trace.
	// Those of a trace go by what whoever began it has decided. Default 0.
	Sample float64 `yaml:"sample"`
	// CAFile holds the certificates (PEM) that alone are trusted. Default: the
	// system's.
	CAFile string `yaml:"caFile"`
	// InsecureHTTP lets spans, which name callers, go by plain http.
	InsecureHTTP bool `yaml:"insecureHTTP"`
}

// Check reports what is wrong, by field.
func (c Config) Check(add func(field, format string, args ...any)) {
	u, err := url.Parse(c.Endpoint)
	switch {
	case c == Config{}:
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		add("endpoint", "got %q, want a URL: https://otel-collector.observability:4318", c.Endpoint)
	case u.Scheme == "http" && !c.InsecureHTTP:
		add("insecureHTTP", "spans, which name callers, would go by plain http: say true if that is meant")
	case u.Scheme == "http" && c.CAFile != "":
		add("caFile", "is for https")
	}
	if !(c.Sample >= 0 && c.Sample <= 1) {
		add("sample", "got %v, want 0 to 1", c.Sample)
	}
}

// Tracer sends spans in the background; what a collector does not take in time is
// dropped.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   api.Tracer
	parents  propagation.TraceContext
}

const (
	exportTimeout = 5 * time.Second
	tellAgain     = time.Minute // between two errors that are said
)

// New makes a Tracer. say is told when spans cannot be sent, now and then.
func New(ctx context.Context, c Config, say func(string, ...any)) (*Tracer, error) {
	client, err := c.client()
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("tracing.endpoint: %w", err)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()), otlptracehttp.WithHTTPClient(client), otlptracehttp.WithTimeout(exportTimeout))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	provider := sdk.NewTracerProvider(
		sdk.WithBatcher(&telling{SpanExporter: exporter, say: say}),
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(c.Sample))),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "posternd"))),
	)
	return &Tracer{provider: provider, tracer: provider.Tracer("postern.dev/postern")}, nil
}

// client follows no redirect: spans go where the configuration says.
func (c Config) client() (*http.Client, error) {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("the default HTTP transport is none of net/http's")
	}
	t = t.Clone()
	if c.CAFile != "" {
		text, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s: got no certificate, want PEM", c.CAFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: t, Timeout: exportTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

// telling says that spans could not be sent. The SDK would tell a handler that all
// of the process shares.
type telling struct {
	sdk.SpanExporter
	say  func(string, ...any)
	mu   sync.Mutex
	last time.Time
}

// ExportSpans is SpanExporter's.
func (t *telling) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := t.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.last) >= tellAgain {
		t.last = now
		t.say("tracing: %d spans are lost: %v", len(spans), err)
	}
	return nil
}

// Decision makes a span of a decision: a child of the gateway's own span of the
// check, where the gateway traces (it puts a traceparent into the call's metadata),
// else of the one that the request names.
func (t *Tracer) Decision(ctx context.Context, req authorizer.Request, v authorizer.Verdict, begin, end time.Time) {
	ctx, span := t.tracer.Start(t.parents.Extract(context.WithoutCancel(ctx), parent(ctx, req)), "postern.decision", api.WithSpanKind(api.SpanKindServer), api.WithTimestamp(begin))
	_ = ctx // nothing is done below this span
	if span.IsRecording() {
		span.SetAttributes(attributes(req, v)...)
		if authorizer.Failed(v) {
			span.SetStatus(codes.Error, v.Reason)
		}
	}
	span.End(api.WithTimestamp(end))
}

// parent holds the W3C trace context that a check belongs to.
func parent(ctx context.Context, req authorizer.Request) propagation.MapCarrier {
	out := propagation.MapCarrier{}
	if v := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(v) == 1 {
		out["traceparent"] = v[0]
		if s := metadata.ValueFromIncomingContext(ctx, "tracestate"); len(s) == 1 {
			out["tracestate"] = s[0]
		}
		return out
	}
	for _, name := range []string{"traceparent", "tracestate"} {
		if v, ok := req.Headers.Only(name); ok {
			out[name] = v
		}
	}
	return out
}

func attributes(req authorizer.Request, v authorizer.Verdict) []attribute.KeyValue {
	word := "refuse"
	if v.Allow {
		word = "allow"
	}
	out := []attribute.KeyValue{
		attribute.String("postern.verdict", word), attribute.String("postern.reason", v.Reason),
		attribute.String("postern.territory", v.Territory.Kind.String()), attribute.Int("postern.door", int(req.Door)),
		attribute.Int("http.response.status_code", v.Status),
	}
	for _, a := range [][2]string{{"postern.by", v.How}, {"postern.credential", v.Credential}, {"postern.caller", v.Caller.User}} {
		if a[1] != "" {
			out = append(out, attribute.String(a[0], a[1]))
		}
	}
	if !v.Resource.IsZero() {
		out = append(out, attribute.String("postern.resource", v.Resource.String()))
	}
	return out
}

// Close sends what is left, as long as ctx lasts.
func (t *Tracer) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }
