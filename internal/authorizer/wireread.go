package authorizer

import (
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"postern.dev/postern/internal/credential"
)

const (
	maxHeaders   = 1000 // of one check; Envoy's own limit is 100 unless told otherwise
	usualHeaders = 32   // what there is room for at first
	maxDepth     = 64   // of metadata that is nested in itself
)

// readCheck takes from the bytes of an envoy.service.auth.v3.CheckRequest what
// RequestOf takes from the decoded message, and nothing else.
//
// It accepts a subset of what the generated decoder accepts, and then gives the
// same Request (FuzzReadCheck holds both). The subset is what a serializer
// writes: the fields that it does not need are gone through all the same, as deep
// as they are known; a field that occurs once in the definition occurs once, a
// map has a key once, a known field has its own wire type, and there are no
// groups. Unknown fields are stepped over, as anywhere in protobuf.
//
// The definitions, field numbers and types are those of
// envoy/service/auth/v3/attribute_context.proto, envoy/config/core/v3/address.proto
// and base.proto, google/protobuf/struct.proto; TestFieldsOfACheck compares them
// with the generated code.
func readCheck(raw []byte) (Request, error) { return new(scanner).read(raw) }

func (s *scanner) read(raw []byte) (Request, error) {
	*s = scanner{raw: raw, all: string(raw), values: s.values[:0], req: Request{Headers: s.req.Headers}}
	clear(s.req.Headers)
	for f := s.fields(raw); f.next(); {
		if f.num == 1 {
			s.attributes(f.once().message())
		}
	}
	if s.err != nil {
		return Request{}, s.err
	}
	if i := strings.IndexByte(s.req.Path, '?'); i >= 0 {
		s.req.Path, s.req.Query = s.req.Path[:i], s.req.Path[i:]
	}
	if s.req.Headers == nil {
		s.req.Headers = credential.Headers{}
	}
	return s.req, nil
}

// scanner goes through a check. The first error ends every loop over fields. It can
// be used again when nothing of the Request that it read is in use any longer but
// strings.
type scanner struct {
	raw    []byte
	all    string // raw; what is taken is a part of it, so that one copy is made
	err    error
	req    Request
	values []string // of the headers, in one piece
	mapped bool     // header_map was there
}

func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

func (s *scanner) attributes(b []byte) {
	for f := s.fields(b); f.next(); {
		switch f.num {
		case 1:
			s.req.Source, _ = s.peer(f.once().message())
		case 2:
			if _, port := s.peer(f.once().message()); port <= 65535 {
				s.req.Door = uint16(port)
			}
		case 4:
			s.request(f.once().message())
		case 10: // context_extensions
			s.entry(f.message())
		case 11: // metadata_context
			s.metadata(f.once().message())
		case 12: // tls_session: sni
			s.texts(f.once().message(), 1)
		case 13:
			s.req.RouteVirtualService = s.metadata(f.once().message())
		}
	}
}

// peer is AttributeContext.Peer: address, service, labels, principal, certificate.
func (s *scanner) peer(b []byte) (addr netip.Addr, port uint64) {
	for f := s.fields(b); f.next(); {
		switch f.num {
		case 1:
			addr, port = s.address(f.once().message())
		case 2, 4, 5:
			f.once().text()
		case 3:
			s.entry(f.message())
		}
	}
	return addr, port
}

// address is one of a socket address, a pipe (path, mode) and an internal one.
func (s *scanner) address(b []byte) (addr netip.Addr, port uint64) {
	one := false
	for f := s.fields(b); f.next(); {
		if f.num > 3 {
			continue
		}
		if one {
			s.fail("two kinds of address in one")
		}
		one = true
		switch m := f.message(); f.num {
		case 1:
			addr, port = s.socket(m)
		case 2:
			s.pipe(m)
		case 3:
			s.texts(m, 2)
		}
	}
	return addr, port
}

func (s *scanner) socket(b []byte) (addr netip.Addr, port uint64) {
	var text string
	named := false
	for f := s.fields(b); f.next(); {
		switch f.num {
		case 1, 6:
			f.once().varint()
		case 2:
			text = f.once().text()
		case 3:
			port = f.once().varint()
		case 4:
			f.once().text()
			named = true
		case 5, 7:
			f.once().text()
		}
	}
	if named || port > 1<<32-1 {
		s.fail("a port that is no number of 32 bits")
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, port
	}
	return addr.Unmap(), port
}

func (s *scanner) pipe(b []byte) {
	for f := s.fields(b); f.next(); {
		switch f.num {
		case 1:
			f.once().text()
		case 2:
			f.once().varint()
		}
	}
}

// request is AttributeContext.Request: time and http.
func (s *scanner) request(b []byte) {
	for f := s.fields(b); f.next(); {
		switch f.num {
		case 1: // a Timestamp: seconds and nanos
			for t := s.fields(f.once().message()); t.next(); {
				if t.num <= 2 {
					t.once().varint()
				}
			}
		case 2:
			s.http(f.once().message())
		}
	}
}

func (s *scanner) http(b []byte) {
	for f := s.fields(b); f.next(); {
		switch f.num {
		case 2:
			s.req.Method = f.once().text()
		case 3:
			s.header(s.entry(f.message()))
		case 4:
			s.req.Path = f.once().text()
		case 5:
			s.req.Host = f.once().text()
		case 1, 6, 7, 8, 10, 11: // id, scheme, query, fragment, protocol, body
			f.once().text()
		case 9: // size
			f.once().varint()
		case 12: // raw_body
			f.once().message()
		case 13:
			s.headerMap(f.once().message())
		}
	}
}

// header is one of the map: values of one name are joined by commas already.
func (s *scanner) header(name, value string) {
	name = strings.ToLower(name)
	if s.mapped || s.req.Headers.Has(name) {
		s.fail("a header twice, or in both forms")
		return
	}
	s.add(name, value)
}

// headerMap is the other form (encode_raw_headers): each value by itself.
func (s *scanner) headerMap(b []byte) {
	s.mapped = true
	for f := s.fields(b); f.next(); {
		if f.num != 1 {
			continue
		}
		var name, value string
		for h := s.fields(f.message()); h.next(); {
			switch h.num {
			case 1:
				name = h.once().text()
			case 2:
				text := h.once().text()
				if value == "" { // raw_value, when it is not empty, wins
					value = text
				}
			case 3:
				if raw := h.once().message(); len(raw) > 0 {
					value = s.part(raw)
				}
			}
		}
		s.add(strings.ToLower(name), value)
	}
}

func (s *scanner) add(name, value string) {
	if s.req.Headers == nil {
		s.req.Headers = make(credential.Headers, usualHeaders)
		s.values = make([]string, 0, usualHeaders)
	}
	if len(s.values) == maxHeaders {
		s.fail("more than %d headers", maxHeaders)
		return
	}
	s.values = append(s.values, value)
	have := s.req.Headers[name]
	if have == nil {
		n := len(s.values)
		s.req.Headers[name] = s.values[n-1 : n : n]
		return
	}
	s.req.Headers[name] = append(have, value)
}

// entry is an entry of a map of strings.
func (s *scanner) entry(b []byte) (key, value string) {
	for f := s.fields(b); f.next(); {
		switch f.num {
		case 1:
			key = f.once().text()
		case 2:
			value = f.once().text()
		}
	}
	return key, value
}

// texts are messages of strings, numbered from 1 to last.
func (s *scanner) texts(b []byte, last protowire.Number) {
	for f := s.fields(b); f.next(); {
		if f.num <= last {
			f.once().text()
		}
	}
}

// metadata goes through a Metadata and gives the string "config" of what is
// filed under "istio".
func (s *scanner) metadata(b []byte) (config string) {
	found := false
	for f := s.fields(b); f.next(); {
		switch f.num {
		case 1:
			key, value := s.messageEntry(f.message())
			text := s.structure(value, 0)
			if key != "istio" {
				continue
			}
			if found {
				s.fail("the route's metadata twice")
			}
			found, config = true, text
		case 2: // typed: an Any, of type_url and value
			_, value := s.messageEntry(f.message())
			for a := s.fields(value); a.next(); {
				switch a.num {
				case 1:
					a.once().text()
				case 2:
					a.once().message()
				}
			}
		}
	}
	return config
}

// messageEntry is an entry of a map of messages.
func (s *scanner) messageEntry(b []byte) (key string, value []byte) {
	for f := s.fields(b); f.next(); {
		switch f.num {
		case 1:
			key = f.once().text()
		case 2:
			value = f.once().message()
		}
	}
	return key, value
}

// structure goes through a Struct and gives its string "config".
func (s *scanner) structure(b []byte, depth int) (config string) {
	found := false
	for f := s.fields(b); f.next(); {
		if f.num != 1 {
			continue
		}
		key, v := s.messageEntry(f.message())
		text := s.value(v, depth+1)
		if key != "config" {
			continue
		}
		if found {
			s.fail("a field of metadata twice")
		}
		found, config = true, text
	}
	return config
}

// value goes through a Value, which is one of six, and gives its string.
func (s *scanner) value(b []byte, depth int) (text string) {
	if depth > maxDepth {
		s.fail("metadata nested more than %d deep", maxDepth)
		return ""
	}
	one := false
	for f := s.fields(b); f.next(); {
		if f.num > 6 {
			continue
		}
		if one {
			s.fail("two values in one")
		}
		one = true
		switch f.num {
		case 1, 4:
			f.varint()
		case 2:
			f.want(protowire.Fixed64Type)
		case 3:
			text = f.text()
		case 5:
			s.structure(f.message(), depth+1)
		case 6:
			for l := s.fields(f.message()); l.next(); {
				if l.num == 1 {
					s.value(l.message(), depth+1)
				}
			}
		}
	}
	return text
}

// part is a part of the check as a string. b is a part of s.raw with its
// capacity: how much of that is left tells where it begins.
func (s *scanner) part(b []byte) string {
	at := cap(s.raw) - cap(b)
	return s.all[at : at+len(b)]
}
