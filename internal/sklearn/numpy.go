package sklearn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// dtype is the type of an array's elements: kind f, i, u, b (bool), U (text) or O (Python objects).
type dtype struct {
	kind  byte
	size  uint64 // in bytes
	order binary.ByteOrder
}

func (t *dtype) String() string {
	if t == nil {
		return "unknown"
	}
	return fmt.Sprintf("%c%d", t.kind, t.size)
}

// newDtype is numpy.dtype(text, align, copy), as numpy pickles it: "f8", "i8", "b1", "U10", "O8".
func newDtype(args tuple) (*dtype, error) {
	if len(args) == 0 {
		return nil, errors.New("numpy.dtype without a type")
	}
	text, ok := args[0].(string)
	if !ok || len(text) < 2 {
		return nil, fmt.Errorf("numpy.dtype of %s, want a type such as \"f8\"", describe(args[0]))
	}
	size, err := strconv.ParseUint(text[1:], 10, 24)
	t := &dtype{kind: text[0], size: size, order: binary.LittleEndian}
	switch {
	case err != nil:
	case strings.Contains(" f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1 O8 ", " "+text+" "):
		return t, nil
	case t.kind == 'U' && size > 0:
		t.size *= 4
		return t, nil
	}
	return nil, fmt.Errorf("numpy's type %.20q is not read here", text)
}

// setState takes (version, byte order, subarray, names, fields, size, alignment, flags).
func (t *dtype) setState(state any) error {
	s, ok := state.(tuple)
	if !ok || len(s) < 5 {
		return fmt.Errorf("the state of a numpy.dtype is %s, want a tuple of 8", describe(state))
	}
	if s[2] != nil || s[3] != nil || s[4] != nil {
		return errors.New("numpy's structured types are not read here")
	}
	switch order, _ := s[1].(string); order {
	case "<", "|", "=":
		t.order = binary.LittleEndian
	case ">":
		t.order = binary.BigEndian
	default:
		return fmt.Errorf("numpy's byte order %s is not known", describe(s[1]))
	}
	return nil
}

// array is a numpy array. Its bytes alias the file's; they are decoded when an estimator wants them.
type array struct {
	shape   []uint64
	dtype   *dtype
	fortran bool
	raw     []byte
	objects []any // of an array of kind O
}

// maxElements bounds an array, whatever its elements' size.
const maxElements = 1 << 26

func newShape(value any) (shape []uint64, count uint64, err error) {
	t, ok := value.(tuple)
	if n, isInt := value.(int64); isInt {
		t, ok = tuple{n}, true
	}
	if !ok || len(t) > 32 {
		return nil, 0, fmt.Errorf("an array's shape is %s, want a tuple of at most 32", describe(value))
	}
	count = 1
	for _, item := range t {
		n, ok := item.(int64)
		if !ok || n < 0 || n > maxElements || count*uint64(n) > maxElements {
			return nil, 0, fmt.Errorf("an array's shape has %s, want at most %d elements", describe(item), maxElements)
		}
		shape = append(shape, uint64(n))
		count *= uint64(n)
	}
	return shape, count, nil
}

// newArray is _reconstruct(numpy.ndarray, (0,), b"b"): an empty array that waits for its state.
func newArray(args tuple) (*array, error) {
	if len(args) != 3 || args[0] != any(classArray) {
		return nil, errors.New("_reconstruct of something that is no numpy.ndarray")
	}
	return &array{}, nil
}

// setState takes (version, shape, dtype, fortran order, bytes or list of objects).
func (a *array) setState(state any) error {
	s, ok := state.(tuple)
	if !ok || len(s) != 5 {
		return fmt.Errorf("the state of an array is %s, want a tuple of 5", describe(state))
	}
	fortran, _ := s[3].(bool)
	return a.fill(s[1], s[2], fortran, s[4])
}

// arrayFromBuffer is _frombuffer(bytes, dtype, shape, order), protocol 5's form.
func arrayFromBuffer(args tuple) (*array, error) {
	if len(args) < 4 || len(args) > 5 {
		return nil, fmt.Errorf("_frombuffer with %d arguments, want 4", len(args))
	}
	order, _ := args[3].(string)
	if order != "C" && order != "F" {
		return nil, fmt.Errorf("an array in the order %s, want C or F", describe(args[3]))
	}
	a := &array{}
	return a, a.fill(args[2], args[1], order == "F", args[0])
}

func (a *array) fill(shape, typ any, fortran bool, content any) error {
	t, ok := typ.(*dtype)
	if !ok {
		return fmt.Errorf("an array's type is %s, want a numpy.dtype", describe(typ))
	}
	dims, count, err := newShape(shape)
	if err != nil {
		return err
	}
	var got uint64
	switch c := content.(type) {
	case []byte:
		got = uint64(len(c))
		if t.kind == 'O' {
			return errors.New("an array of objects that is bytes")
		}
		a.raw = c
	case *list:
		got = uint64(len(c.items)) * t.size
		if t.kind != 'O' {
			return errors.New("an array of numbers that is a list")
		}
		a.objects = c.items
	default:
		return fmt.Errorf("an array holds %s, want bytes or a list", describe(content))
	}
	if want := count * t.size; got != want {
		return fmt.Errorf("an array of shape %v and type %s holds %d bytes, want %d", dims, t, got, want)
	}
	a.shape, a.dtype, a.fortran = dims, t, fortran
	return nil
}

// newScalar is numpy's scalar(dtype, bytes).
func newScalar(args tuple) (any, error) {
	a := &array{}
	if len(args) != 2 {
		return nil, fmt.Errorf("a scalar from %d values, want 2", len(args))
	}
	if err := a.fill(tuple{}, args[0], false, args[1]); err != nil {
		return nil, err
	}
	return a.element(0)
}

// rawArray reads the bytes that follow a NumpyArrayWrapper, padding first, or the pickle that
// follows the wrapper of an array of objects (joblib's NumpyArrayWrapper.read_array).
func (m *machine) rawArray(w *object) error {
	t, ok := w.get("dtype").(*dtype)
	if !ok || w.get("subclass") != any(classArray) {
		return fmt.Errorf("a NumpyArrayWrapper of type %s and class %s, want a numpy.ndarray", describe(w.get("dtype")), describe(w.get("subclass")))
	}
	if t.kind == 'O' {
		v, err := run(m.in, m.steps, m.depth+1)
		if _, ok := v.(*array); err == nil && !ok {
			err = fmt.Errorf("an array of objects is %s", describe(v))
		}
		m.push(v)
		return err
	}
	if w.get("numpy_array_alignment_bytes") != nil { // joblib 1.2 and later
		n, err := m.in.byte()
		if err != nil {
			return err
		}
		if _, err := m.in.take(uint64(n)); err != nil {
			return err
		}
	}
	_, count, err := newShape(w.get("shape"))
	if err != nil {
		return err
	}
	raw, err := m.in.take(count * t.size)
	if err != nil {
		return err
	}
	a := &array{}
	m.push(a)
	return a.fill(w.get("shape"), t, w.get("order") == any("F"), raw)
}

// element is the i-th element as it lies in the file: int64, float64, bool or string.
func (a *array) element(i uint64) (any, error) {
	t := a.dtype
	if t.kind == 'O' {
		switch v := a.objects[i].(type) {
		case string, int64, float64, bool:
			return v, nil
		default:
			return nil, fmt.Errorf("got %s, want a number or text", describe(v))
		}
	}
	b := a.raw[i*t.size : (i+1)*t.size]
	switch t.kind {
	case 'b':
		return b[0] != 0, nil
	case 'f':
		if t.size == 4 {
			return float64(math.Float32frombits(t.order.Uint32(b))), nil
		}
		return math.Float64frombits(t.order.Uint64(b)), nil
	case 'U':
		return decodeText(b, t.order)
	default:
		return decodeInteger(b, t)
	}
}

// decodeText decodes UTF-32, padded with zeros.
func decodeText(b []byte, order binary.ByteOrder) (string, error) {
	var text strings.Builder
	for ; len(b) > 0; b = b[4:] {
		r := order.Uint32(b)
		if r == 0 {
			break
		}
		if r > utf8.MaxRune || !utf8.ValidRune(rune(r)) {
			return "", fmt.Errorf("0x%x is no character", r)
		}
		text.WriteRune(rune(r))
	}
	return text.String(), nil
}

func decodeInteger(b []byte, t *dtype) (int64, error) {
	var u uint64
	switch t.size {
	case 1:
		u = uint64(b[0])
	case 2:
		u = uint64(t.order.Uint16(b))
	case 4:
		u = uint64(t.order.Uint32(b))
	default:
		u = t.order.Uint64(b)
	}
	if t.kind == 'i' {
		unused := 64 - 8*t.size
		return int64(u<<unused) >> unused, nil
	}
	if u > math.MaxInt64 {
		return 0, fmt.Errorf("the integer %d does not fit into 64 bits with a sign", u)
	}
	return int64(u), nil
}
