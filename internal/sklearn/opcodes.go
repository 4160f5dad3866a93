package sklearn

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// step runs one opcode. It is split by what an opcode does; each part says whether it knew it.
func (m *machine) step(op byte) error {
	for _, part := range []func(byte) (bool, error){m.stepConstant, m.stepSized, m.stepContainer, m.stepStack, m.stepObject} {
		if known, err := part(op); known || err != nil {
			return err
		}
	}
	return fmt.Errorf("the opcode 0x%02x is not read here", op)
}

// stepConstant: values of a fixed size.
func (m *machine) stepConstant(op byte) (bool, error) {
	switch op {
	case 'N':
		m.push(nil)
	case 0x88:
		m.push(true)
	case 0x89:
		m.push(false)
	case 'K': // BININT1
		return true, m.integer(1, false)
	case 'M': // BININT2
		return true, m.integer(2, false)
	case 'J': // BININT
		return true, m.integer(4, true)
	case 0x8a: // LONG1
		n, err := m.in.byte()
		if err != nil {
			return true, err
		}
		return true, m.integer(uint64(n), true)
	case 'G': // BINFLOAT, the only number that is big endian
		b, err := m.in.take(8)
		if err != nil {
			return true, err
		}
		m.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	case 'I', 'L', 'F': // protocol 0's text forms, which later protocols may still use
		text, err := m.in.line()
		if err != nil {
			return true, err
		}
		return true, m.textNumber(op, text)
	default:
		return false, nil
	}
	return true, nil
}

// integer pushes a little endian integer of n bytes.
func (m *machine) integer(n uint64, signed bool) error {
	if n > 8 {
		return fmt.Errorf("an integer of %d bytes, want at most 8", n)
	}
	b, err := m.in.take(n)
	if err != nil {
		return err
	}
	var u uint64
	for i, x := range b {
		u |= uint64(x) << (8 * i)
	}
	if signed && n > 0 && b[n-1]&0x80 != 0 {
		for i := n; i < 8; i++ {
			u |= 0xff << (8 * i)
		}
	}
	m.push(int64(u))
	return nil
}

func (m *machine) textNumber(op byte, text string) error {
	switch {
	case op == 'F':
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("got %.40q, want a number", text)
		}
		m.push(f)
		return nil
	case op == 'I' && (text == "00" || text == "01"):
		m.push(text == "01")
		return nil
	case op == 'L' && text != "" && text[len(text)-1] == 'L':
		text = text[:len(text)-1]
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("got %.40q, want an integer of 64 bits", text)
	}
	m.push(n)
	return nil
}

// stepSized: text and bytes that follow their own length.
func (m *machine) stepSized(op byte) (bool, error) {
	width, text := uint64(0), false
	switch op {
	case 0x8c: // SHORT_BINUNICODE
		width, text = 1, true
	case 'X': // BINUNICODE
		width, text = 4, true
	case 0x8d: // BINUNICODE8
		width, text = 8, true
	case 'C': // SHORT_BINBYTES
		width = 1
	case 'B': // BINBYTES
		width = 4
	case 0x8e, 0x96: // BINBYTES8, BYTEARRAY8
		width = 8
	default:
		return false, nil
	}
	size, err := m.in.take(width)
	if err != nil {
		return true, err
	}
	var n uint64
	for i, x := range size {
		n |= uint64(x) << (8 * i)
	}
	raw, err := m.in.take(n)
	switch {
	case err != nil:
		return true, err
	case !text:
		m.push(raw)
	case !utf8.Valid(raw):
		return true, fmt.Errorf("text that is not UTF-8")
	default:
		m.push(string(raw))
	}
	return true, nil
}

// stepContainer: tuples, lists and dictionaries.
func (m *machine) stepContainer(op byte) (bool, error) {
	switch op {
	case ')':
		m.push(tuple{})
	case ']':
		m.push(&list{})
	case '}':
		m.push(&dict{entries: map[string]any{}})
	case 0x85, 0x86, 0x87: // TUPLE1 to TUPLE3
		items, err := m.popN(int(op) - 0x84)
		m.push(tuple(items))
		return true, err
	case 'a', 's': // APPEND, SETITEM
		items, err := m.popN(map[byte]int{'a': 1, 's': 2}[op])
		if err != nil {
			return true, err
		}
		if op == 'a' {
			return true, m.appendTo(items)
		}
		return true, m.setItems(items)
	case 't', 'l', 'd', 'e', 'u': // TUPLE, LIST, DICT, APPENDS, SETITEMS
		items, err := m.popMark()
		if err != nil {
			return true, err
		}
		return true, m.collect(op, items)
	default:
		return false, nil
	}
	return true, nil
}

// collect puts the items above a mark into a container.
func (m *machine) collect(op byte, items []any) error {
	switch op {
	case 't':
		m.push(tuple(items))
	case 'l':
		m.push(&list{items: items})
	case 'd':
		m.push(&dict{entries: map[string]any{}})
		return m.setItems(items)
	case 'e':
		return m.appendTo(items)
	case 'u':
		return m.setItems(items)
	}
	return nil
}

// stepStack: the stack, the memo and framing. A frame only says how much to read ahead.
func (m *machine) stepStack(op byte) (bool, error) {
	switch op {
	case '(':
		m.marks++
		m.push(mark{})
	case '0':
		_, err := m.pop()
		return true, err
	case 'q', 'r', 'h', 'j': // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
		width := map[byte]uint64{'q': 1, 'h': 1, 'r': 4, 'j': 4}[op]
		b, err := m.in.take(width)
		if err != nil {
			return true, err
		}
		at := uint64(b[0])
		if width == 4 {
			at = uint64(binary.LittleEndian.Uint32(b))
		}
		if op == 'q' || op == 'r' {
			return true, m.memoize(at)
		}
		return true, m.recall(at)
	case 0x94: // MEMOIZE
		return true, m.memoize(uint64(len(m.memo)))
	case 0x80: // PROTO
		version, err := m.in.byte()
		if err == nil && (version < 3 || version > 5) {
			err = fmt.Errorf("pickle protocol %d, want 3 to 5", version)
		}
		return true, err
	case 0x95: // FRAME
		b, err := m.in.take(8)
		if err == nil {
			if n, left := binary.LittleEndian.Uint64(b), len(m.in.data)-m.in.at; n > uint64(left) {
				err = fmt.Errorf("truncated: a frame of %d bytes where %d are left", n, left)
			}
		}
		return true, err
	default:
		return false, nil
	}
	return true, nil
}

// stepObject: names of classes and functions, and what is made of them.
func (m *machine) stepObject(op byte) (bool, error) {
	switch op {
	case 'c', 'i': // GLOBAL, INST
		module, err := m.in.line()
		if err != nil {
			return true, err
		}
		name, err := m.in.line()
		if err != nil {
			return true, err
		}
		if err := m.global(module, name); err != nil || op == 'c' {
			return true, err
		}
		return true, fmt.Errorf("an instance of %s.%s in the style of protocol 0, want protocol 3 to 5", module, name)
	case 0x93: // STACK_GLOBAL
		names, err := m.popN(2)
		if err != nil {
			return true, err
		}
		module, ok1 := names[0].(string)
		name, ok2 := names[1].(string)
		if !ok1 || !ok2 {
			return true, fmt.Errorf("a class named by %s and %s, want text", describe(names[0]), describe(names[1]))
		}
		return true, m.global(module, name)
	case 0x81: // NEWOBJ
		return true, m.newObject()
	case 'R':
		return true, m.reduce()
	case 'b':
		return true, m.build()
	default:
		return false, nil
	}
}
