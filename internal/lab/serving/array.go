package serving

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// array is what numpy would make of nested lists of numbers.
type array struct {
	shape []int
	data  []float64
}

// maxDims bounds how deep lists may be nested, as numpy does.
const maxDims = 64

// errScalar is what scikit-learn says about a body that is no array at all; KServe hands it the
// bytes as they are.
var errScalar = failf(http.StatusInternalServerError, "Expected 2D array, got scalar array instead:\narray=nan.\n"+reshapeAdvice)

const reshapeAdvice = "Reshape your data either using array.reshape(-1, 1) if your data has a single feature or array.reshape(1, -1) if it contains a single sample."

// rows cuts the array into rows, or says as scikit-learn's check_array why it cannot. Of rows of a
// wrong width only one is made: the model will refuse it.
func (a *array) rows(estimator string, features int) ([][]float64, error) {
	switch n := len(a.shape); {
	case n == 0:
		return nil, failf(http.StatusInternalServerError, "Expected 2D array, got scalar array instead.\n%s", reshapeAdvice)
	case n == 1:
		return nil, failf(http.StatusInternalServerError, "Expected 2D array, got 1D array instead.\n%s", reshapeAdvice)
	case n > 2:
		return nil, failf(http.StatusInternalServerError, "Found array with dim %d, while dim <= 2 is required by %s.", n, estimator)
	}
	rows, width := a.shape[0], a.shape[1]
	switch {
	case rows == 0:
		return nil, failf(http.StatusInternalServerError, "Found array with 0 sample(s) (shape=(0, %d)) while a minimum of 1 is required by %s.", width, estimator)
	case width == 0:
		return nil, failf(http.StatusInternalServerError, "Found array with 0 feature(s) (shape=(%d, 0)) while a minimum of 1 is required by %s.", rows, estimator)
	case width != features:
		rows = 1
	}
	out := make([][]float64, rows)
	for i := range out {
		out[i] = a.data[i*width : (i+1)*width : (i+1)*width]
	}
	return out, nil
}

// parseArray reads nested lists from raw, which must be valid JSON that begins with '['.
func parseArray(raw json.RawMessage) (*array, error) {
	p := &arrayParser{dims: []int{}, ragged: maxDims + 1, leaves: -1}
	for at := 0; at < len(raw); {
		n, err := p.next(raw[at:])
		if err != nil {
			return nil, err
		}
		if at += n; len(p.data) > maxNumbers {
			return nil, failf(http.StatusRequestEntityTooLarge, "the request holds more numbers than the limit of %d", maxNumbers)
		}
	}
	if p.ragged <= maxDims {
		var shape strings.Builder
		for _, n := range p.dims[:p.ragged] {
			fmt.Fprintf(&shape, "%d, ", n)
		}
		text := strings.TrimSuffix(shape.String(), " ")
		if p.ragged > 1 {
			text = strings.TrimSuffix(text, ",")
		}
		return nil, failf(http.StatusInternalServerError, "setting an array element with a sequence. The requested array has an inhomogeneous shape "+
			"after %d dimensions. The detected shape was (%s) + inhomogeneous part.", p.ragged, text)
	}
	return &array{p.dims, p.data}, nil
}

// arrayParser walks over valid JSON once, without building it.
type arrayParser struct {
	data   []float64
	counts []int // of the lists that are open, how many items they have so far
	dims   []int // length of the lists at each depth, -1 not known yet
	leaves int   // the depth at which numbers are, -1 not known yet
	ragged int   // the smallest depth at which the lists differ
}

// next takes one token and says how many bytes it was.
func (p *arrayParser) next(raw []byte) (int, error) {
	switch c := raw[0]; c {
	case ' ', '\t', '\r', '\n', ',':
		return 1, nil
	case '[':
		return 1, p.open()
	case ']':
		p.close()
		return 1, nil
	case '{':
		return 0, p.object()
	case '"':
		return p.text(raw)
	case 't', 'f', 'n':
		word := map[byte]string{'t': "true", 'f': "false", 'n': "null"}[c]
		p.leaf(map[byte]float64{'t': 1, 'f': 0, 'n': math.NaN()}[c])
		return len(word), nil
	default:
		n := bytes.IndexAny(raw, " \t\r\n,]")
		if n < 0 {
			n = len(raw)
		}
		f, err := strconv.ParseFloat(string(raw[:n]), 64)
		if err != nil {
			return 0, failf(http.StatusBadRequest, "Unrecognized request format: number is infinity when parsed as double: %.40s", raw[:n])
		}
		p.leaf(f)
		return n, nil
	}
}

func (p *arrayParser) open() error {
	depth := len(p.counts)
	if depth == maxDims {
		return failf(http.StatusInternalServerError, "setting an array element with a sequence. The requested array would exceed the maximum number of dimension of %d.", maxDims)
	}
	if depth > 0 {
		p.counts[depth-1]++
	}
	if depth == p.leaves { // a list where numbers were
		p.differ(depth)
	}
	p.counts = append(p.counts, 0)
	if depth == len(p.dims) {
		p.dims = append(p.dims, -1)
	}
	return nil
}

func (p *arrayParser) close() {
	depth := len(p.counts) - 1
	n := p.counts[depth]
	p.counts = p.counts[:depth]
	if n == 0 && p.leaves < 0 { // an empty list ends the dimensions as a number does
		p.leaves = depth + 1
	}
	switch {
	case p.dims[depth] < 0:
		p.dims[depth] = n
	case p.dims[depth] != n:
		p.differ(depth)
	}
}

func (p *arrayParser) leaf(f float64) {
	depth := len(p.counts)
	p.counts[depth-1]++
	if p.leaves < 0 {
		p.leaves = depth
	}
	if depth != p.leaves || depth < len(p.dims) {
		p.differ(min(depth, p.leaves))
	}
	if p.ragged > maxDims {
		p.data = append(p.data, f)
	}
}

func (p *arrayParser) differ(depth int) { p.ragged = min(p.ragged, depth) }

// text converts a number that is quoted, as numpy does for an array of floats.
func (p *arrayParser) text(raw []byte) (int, error) {
	n := 1
	for raw[n] != '"' {
		if raw[n] == '\\' {
			n++
		}
		n++
	}
	n++
	var s string
	if err := json.Unmarshal(raw[:n], &s); err != nil {
		return 0, failf(http.StatusBadRequest, "Unrecognized request format: %v", err)
	}
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || strings.ContainsAny(s, "xX_") {
		if len(s) > 40 {
			s = s[:40] + "..."
		}
		return 0, failf(http.StatusInternalServerError, "could not convert string to float: '%s'", s)
	}
	p.leaf(f)
	return n, nil
}

// object refuses a DataFrame, or what is no number among numbers.
func (p *arrayParser) object() error {
	if p.leaves < 0 && len(p.counts) <= 2 {
		return failf(http.StatusNotImplemented, "instances that are objects (a pandas DataFrame) are not served here, want lists of numbers")
	}
	return failf(http.StatusInternalServerError, "float() argument must be a string or a real number, not 'dict'")
}

// reshape gives the array another shape, in which one dimension may be -1.
func (a *array) reshape(shape []int) error {
	known, open := 1, -1
	for i, n := range shape {
		switch {
		case n < 0 && open >= 0:
			return failf(http.StatusInternalServerError, "can only specify one unknown dimension")
		case n < 0:
			open = i
		case n > 0 && known > math.MaxInt32/n:
			return cannotReshape(len(a.data), shape)
		default:
			known *= n
		}
	}
	shape = append([]int{}, shape...)
	switch {
	case open >= 0 && (known == 0 || len(a.data)%known != 0):
		return cannotReshape(len(a.data), shape)
	case open >= 0:
		shape[open] = len(a.data) / known
	case known != len(a.data):
		return cannotReshape(len(a.data), shape)
	}
	a.shape = shape
	return nil
}

func cannotReshape(size int, shape []int) error {
	parts := make([]string, len(shape))
	for i, n := range shape {
		parts[i] = strconv.Itoa(n)
	}
	text := strings.Join(parts, ",")
	if len(shape) == 1 {
		text += ","
	}
	return failf(http.StatusInternalServerError, "cannot reshape array of size %d into shape (%s)", size, text)
}

// locate words a syntax error with its line, column and byte.
func locate(body []byte, err *json.SyntaxError) error {
	at := int(max(err.Offset-1, 0))
	if strings.HasPrefix(err.Error(), "unexpected end") {
		at = len(body)
	}
	before := body[:min(at, len(body))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - bytes.LastIndexByte(before, '\n')
	return fmt.Errorf("%w: line %d column %d (char %d)", err, line, column, at)
}

// pyFloat is written as Python writes it: 2.0 and not 2.
type pyFloat float64

// MarshalJSON writes null for what JSON cannot hold, as orjson does.
func (f pyFloat) MarshalJSON() ([]byte, error) {
	switch x := float64(f); {
	case math.IsNaN(x) || math.IsInf(x, 0):
		return []byte("null"), nil
	case x == math.Trunc(x) && math.Abs(x) < 1e16:
		return strconv.AppendFloat(nil, x, 'f', 1, 64), nil
	default:
		return strconv.AppendFloat(nil, x, 'g', -1, 64), nil
	}
}
