package authorizer

import (
	"net/http"
	"strings"
	"unicode/utf8"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
)

// appendResponse writes the bytes of Response(v), without the objects in between
// (TestAppendResponse and FuzzAppendResponse compare them). The numbers are those
// of envoy/service/auth/v3/external_auth.proto, envoy/config/core/v3/base.proto,
// google/rpc/status.proto and google/protobuf/struct.proto.
func appendResponse(b []byte, v Verdict) []byte {
	if v.Allow {
		b = message(b, 1, nil) // status: code OK is zero, and zero is not written
		b = message(b, 3, func(b []byte) []byte {
			b = appendOptions(b, 2, v.Set)
			for _, name := range v.Remove {
				b = text(b, 5, name)
			}
			return appendOptions(b, 6, v.Response)
		})
		return appendMetadata(b, v)
	}
	code := v.Status
	if code < 200 || code > 599 {
		code = http.StatusServiceUnavailable
	}
	status := codes.PermissionDenied
	if code == http.StatusUnauthorized {
		status = codes.Unauthenticated
	}
	b = message(b, 1, func(b []byte) []byte { return number(b, 1, uint64(status)) })
	b = message(b, 2, func(b []byte) []byte {
		b = message(b, 1, func(b []byte) []byte { return number(b, 1, uint64(code)) })
		b = appendOptions(b, 2, v.Headers)
		return textOrNone(b, 3, string(v.Body))
	})
	return appendMetadata(b, v)
}

// appendOptions writes HeaderValueOptions: field 2 of either answer, or 6 of OK.
func appendOptions(b []byte, num protowire.Number, list []Header) []byte {
	for _, h := range list {
		action := core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		if num == 6 {
			action = actionOf(h.Name)
		}
		b = message(b, num, func(b []byte) []byte {
			b = message(b, 1, func(b []byte) []byte {
				b = textOrNone(b, 1, h.Name)
				return textOrNone(b, 2, h.Value)
			})
			if action == core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
				return b // zero is not written
			}
			return number(b, 3, uint64(action))
		})
	}
	return b
}

// appendMetadata writes dynamic_metadata: a Struct of Structs.
func appendMetadata(b []byte, v Verdict) []byte {
	word := "refuse"
	if v.Allow {
		word = "allow"
	}
	return message(b, 4, func(b []byte) []byte {
		return structField(b, "postern", func(b []byte) []byte {
			return message(b, 5, func(b []byte) []byte {
				b = stringField(b, "verdict", word)
				b = stringField(b, "reason", v.Reason)
				if v.Caller.User != "" {
					b = stringField(b, "caller", strings.ToValidUTF8(v.Caller.User, "?"))
				}
				if v.Credential != "" {
					b = stringField(b, "credential", strings.ToValidUTF8(v.Credential, "?"))
				}
				if !v.Resource.IsZero() {
					b = stringField(b, "resource", v.Resource.Namespace, "/", v.Resource.Resource, "/", v.Resource.Name)
				}
				return b
			})
		})
	})
}

func stringField(b []byte, name string, value ...string) []byte {
	return structField(b, name, func(b []byte) []byte { return text(b, 3, value...) })
}

// structField writes one field of a Struct, an entry of a map.
func structField(b []byte, name string, value func([]byte) []byte) []byte {
	return message(b, 1, func(b []byte) []byte {
		b = text(b, 1, name)
		return message(b, 2, value)
	})
}

// message writes a nested message; its length is known when it is written.
func message(b []byte, num protowire.Number, fill func([]byte) []byte) []byte {
	b = append(protowire.AppendTag(b, num, protowire.BytesType), 0)
	begin := len(b)
	if fill != nil {
		b = fill(b)
	}
	n := uint64(len(b) - begin)
	if more := protowire.SizeVarint(n) - 1; more > 0 {
		b = append(b, make([]byte, more)...)
		copy(b[begin+more:], b[begin:])
	}
	protowire.AppendVarint(b[:begin-1], n) // in place: there is room for it now
	return b
}

func number(b []byte, num protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), n)
}

// text writes a string, which in protobuf is UTF-8, in parts.
func text(b []byte, num protowire.Number, parts ...string) []byte {
	n := 0
	for i, p := range parts {
		if !utf8.ValidString(p) {
			parts[i] = strings.ToValidUTF8(p, "\uFFFD")
		}
		n += len(parts[i])
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, num, protowire.BytesType), uint64(n))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// textOrNone leaves an empty string out, as a serializer does where the field is
// neither repeated nor one of several.
func textOrNone(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return text(b, num, s)
}
