package authorizer

import (
	"context"
	"log/slog"
	"time"
)

// record writes the line of a decision. No header's value, no query and no body
// goes into it: they may hold secrets. The caller's name is no secret.
func (a *Authorizer) record(ctx context.Context, req Request, v Verdict, took time.Duration) {
	level := slog.LevelInfo
	if v.Reason == Internal || v.Reason == LoginUnavailable {
		level = slog.LevelError
	}
	if !a.log.Enabled(ctx, level) {
		return
	}
	verdict := "refuse"
	if v.Allow {
		verdict = "allow"
	}
	attrs := []slog.Attr{
		slog.String("verdict", verdict), slog.String("reason", v.Reason), slog.Int("status", v.Status),
		slog.String("territory", v.Territory.Kind.String()),
		slog.Int("door", int(req.Door)), slog.String("source", req.Source.String()),
		slog.String("method", short(req.Method)), slog.String("host", short(req.Host)), slog.String("path", short(req.Path)),
		slog.Duration("took", took),
	}
	if v.Caller.User != "" {
		attrs = append(attrs, slog.String("caller", short(v.Caller.User)))
	}
	if v.How != "" {
		attrs = append(attrs, slog.String("by", v.How))
	}
	if !v.Resource.IsZero() {
		attrs = append(attrs, slog.String("resource", v.Resource.String()))
	}
	if v.Decision.Allowed {
		attrs = append(attrs, slog.String("binding", v.Decision.Binding.String()), slog.String("role", v.Decision.Role.String()), slog.Int("rule", v.Decision.Rule))
	}
	if v.cause != nil {
		attrs = append(attrs, slog.String("cause", v.cause.Error()))
	}
	a.log.LogAttrs(ctx, level, "decision", attrs...)
}

// short bounds what a client can write into the log.
func short(s string) string {
	if len(s) > 256 {
		return s[:256] + "..."
	}
	return s
}
