package authorizer

import (
	"context"
	"log/slog"
	"time"
)

// record tells of a decision: Observe, Trace, Lines, and the log. No header's value, no
// query and no body goes into a line: they may hold secrets. The caller's name is
// no secret.
func (a *Authorizer) record(ctx context.Context, req Request, v Verdict, at time.Time, took time.Duration) {
	if a.observe != nil {
		a.observe(v, took)
	}
	if a.trace != nil {
		a.trace(ctx, req, v, at.Add(-took), at)
	}
	a.writeLine(at, req, v, took)
	level := levelOf(v)
	if !a.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("verdict", word(v.Allow)), slog.String("reason", v.Reason), slog.Int("status", v.Status),
		slog.String("territory", v.Territory.Kind.String()),
		slog.Int("door", int(req.Door)), slog.String("source", req.Source.String()),
		slog.String("method", short(req.Method)), slog.String("host", short(req.Host)), slog.String("path", short(req.Path)),
		slog.Duration("took", took),
	}
	if id := traceID(req); id != "" {
		attrs = append(attrs, slog.String("trace", id))
	}
	if v.Caller.User != "" {
		attrs = append(attrs, slog.String("caller", short(v.Caller.User)))
	}
	if v.How != "" {
		attrs = append(attrs, slog.String("by", v.How))
	}
	if v.Credential != "" {
		attrs = append(attrs, slog.String("credential", v.Credential))
	}
	if !v.Resource.IsZero() {
		attrs = append(attrs, slog.String("resource", v.Resource.String()))
	}
	if v.Decision.Allowed {
		attrs = append(attrs, slog.String("binding", v.Decision.Binding.String()), slog.String("role", v.Decision.Role.String()), slog.Int("rule", v.Decision.Rule))
	}
	if why := v.Territory.Why(); why != "" {
		attrs = append(attrs, slog.String("detail", short(why)))
	}
	if v.cause != nil {
		attrs = append(attrs, slog.String("cause", v.cause.Error()))
	}
	a.log.LogAttrs(ctx, level, "decision", attrs...)
}

// traceID is the trace that a request belongs to (W3C traceparent: version,
// trace, parent, flags), by which the line is found from Envoy's own spans, one of
// which is the check. It is the client's word and says nothing else.
func traceID(req Request) string {
	v, _ := req.Headers.Only("traceparent")
	if len(v) < 55 || v[2] != '-' || v[35] != '-' {
		return ""
	}
	id := v[3:35]
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return id
}

// short bounds what a client can write into the log.
func short(s string) string {
	if len(s) > 256 {
		return s[:256] + "..."
	}
	return s
}
