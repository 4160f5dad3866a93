package authorizer

import (
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// fields goes through the fields of one message.
type fields struct {
	s    *scanner
	rest []byte
	seen uint64 // the numbers that once was asked about

	num   protowire.Number
	typ   protowire.Type
	bytes []byte // of a BytesType
	n     uint64 // of a VarintType
}

func (s *scanner) fields(b []byte) fields { return fields{s: s, rest: b} }

var errGroup = errors.New("a group")

// next steps to the next field; false at the end and on an error.
func (f *fields) next() bool {
	if f.s.err != nil || len(f.rest) == 0 {
		return false
	}
	num, typ, n := protowire.ConsumeTag(f.rest)
	if n < 0 || num > protowire.MaxValidNumber {
		f.s.fail("a field's tag is malformed")
		return false
	}
	b := f.rest[n:]
	f.num, f.typ, f.bytes, f.n = num, typ, nil, 0
	switch typ {
	case protowire.VarintType:
		f.n, n = protowire.ConsumeVarint(b)
	case protowire.BytesType:
		f.bytes, n = protowire.ConsumeBytes(b)
	case protowire.Fixed32Type:
		_, n = protowire.ConsumeFixed32(b)
	case protowire.Fixed64Type:
		_, n = protowire.ConsumeFixed64(b)
	default:
		f.s.fail("%w in field %d", errGroup, num)
		return false
	}
	if n < 0 {
		f.s.fail("field %d: %w", num, protowire.ParseError(n))
		return false
	}
	f.rest = b[n:]
	return true
}

// once refuses a second field of this number. Numbers are below 64 wherever it
// is asked.
func (f *fields) once() *fields {
	if bit := uint64(1) << f.num; f.seen&bit != 0 {
		f.s.fail("field %d twice", f.num)
	} else {
		f.seen |= bit
	}
	return f
}

func (f *fields) want(t protowire.Type) {
	if f.typ != t {
		f.s.fail("field %d: got wire type %d, want %d", f.num, f.typ, t)
	}
}

// message is a nested message, or bytes.
func (f *fields) message() []byte {
	f.want(protowire.BytesType)
	return f.bytes
}

func (f *fields) text() string {
	if f.want(protowire.BytesType); f.s.err != nil || len(f.bytes) == 0 {
		return ""
	}
	if !utf8.Valid(f.bytes) {
		f.s.fail("field %d is no UTF-8", f.num)
		return ""
	}
	return f.s.part(f.bytes)
}

func (f *fields) varint() uint64 {
	f.want(protowire.VarintType)
	return f.n
}
