package authorizer

import (
	"encoding/json"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"postern.dev/postern/internal/credential"
)

// Lines gets a JSON object and a line feed per decision, in one Write each: what
// a slog.JSONHandler writes of record's attributes (TestLine compares them), at a
// fraction of what it costs. The zero value discards.
type Lines struct {
	To io.Writer
	// From is the least level that is written: slog.LevelInfo for all, LevelError for
	// decisions that failed for want of a login or by a fault of Postern's.
	From slog.Level
}

// Failed tells whether a decision failed for want of a login or of keys, or by a
// fault of Postern's.
func Failed(v Verdict) bool {
	return v.Reason == Internal || v.Reason == LoginUnavailable || v.Reason == credential.KeysUnavailable
}

// levelOf is how serious a decision is.
func levelOf(v Verdict) slog.Level {
	if Failed(v) {
		return slog.LevelError
	}
	return slog.LevelInfo
}

// writeLine writes a decision's line, in a buffer that is used again.
func (a *Authorizer) writeLine(at time.Time, req Request, v Verdict, took time.Duration) {
	level := levelOf(v)
	if a.lines.To == nil || level < a.lines.From {
		return
	}
	b, ok := a.buffers.Get().(*[]byte)
	if !ok {
		b = new([]byte)
	}
	*b = appendLine((*b)[:0], at, level, req, v, took)
	_, _ = a.lines.To.Write(*b) // nobody to tell
	a.buffers.Put(b)
}

// appendLine has the keys, the order and the bounds of record.
func appendLine(b []byte, at time.Time, level slog.Level, req Request, v Verdict, took time.Duration) []byte {
	b = append(b, `{"time":"`...)
	b = at.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","level":"`...)
	b = append(b, level.String()...)
	b = append(b, `","msg":"decision","verdict":"`...)
	b = append(b, word(v.Allow)...)
	b = append(b, '"')
	b = pair(b, "reason", v.Reason)
	b = count(b, "status", int64(v.Status))
	b = pair(b, "territory", v.Territory.Kind.String())
	b = count(b, "door", int64(req.Door))
	b = append(b, `,"source":"`...)
	b = append(appendAddr(b, req), '"')
	b = pair(b, "method", short(req.Method))
	b = pair(b, "host", short(req.Host))
	b = pair(b, "path", short(req.Path))
	b = count(b, "took", int64(took))
	b = pairOrNone(b, "trace", traceID(req))
	b = pairOrNone(b, "caller", short(v.Caller.User))
	b = pairOrNone(b, "by", v.How)
	b = pairOrNone(b, "credential", v.Credential)
	if !v.Resource.IsZero() {
		b = append(b, `,"resource":`...)
		b = quote(b, v.Resource.Namespace, v.Resource.Resource, v.Resource.Name)
	}
	if v.Decision.Allowed {
		b = pair(b, "binding", v.Decision.Binding.String())
		b = pair(b, "role", v.Decision.Role.String())
		b = count(b, "rule", int64(v.Decision.Rule))
	}
	b = pairOrNone(b, "detail", short(v.Territory.Why()))
	if v.cause != nil {
		b = pair(b, "cause", v.cause.Error())
	}
	return append(b, '}', '\n')
}

func word(allow bool) string {
	if allow {
		return "allow"
	}
	return "refuse"
}

func appendAddr(b []byte, req Request) []byte {
	if !req.Source.IsValid() {
		return append(b, req.Source.String()...)
	}
	return req.Source.AppendTo(b)
}

func pairOrNone(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	return pair(b, key, value)
}

// pair writes a key, which needs no escape, and a string.
func pair(b []byte, key, value string) []byte {
	b = append(b, ',', '"')
	b = append(b, key...)
	b = append(b, '"', ':')
	return quote(b, value)
}

// quote writes a string of JSON: parts joined by slashes.
func quote(b []byte, parts ...string) []byte {
	begin := len(b)
	b = append(b, '"')
	for n, part := range parts {
		if n > 0 {
			b = append(b, '/')
		}
		for i := range len(part) {
			if c := part[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
				quoted, err := json.Marshal(strings.Join(parts, "/"))
				if err != nil {
					return append(b[:begin], `""`...) // cannot happen: a string
				}
				return append(b[:begin], quoted...)
			}
		}
		b = append(b, part...)
	}
	return append(b, '"')
}

func count(b []byte, key string, n int64) []byte {
	b = append(b, ',', '"')
	b = append(b, key...)
	b = append(b, '"', ':')
	return strconv.AppendInt(b, n, 10)
}
