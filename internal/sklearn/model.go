// Package sklearn reads a classifier that scikit-learn saved through joblib or pickle, and predicts
// with it, without Python.
//
// A pickle is a program that names Python functions to call. Nothing of it is executed here: the
// reader knows the opcodes that build plain values and a short list of classes and functions (see
// allowed), and refuses every other one by its name. Sizes are checked against the bytes that are
// there before anything is allocated, so a file costs at most a small multiple of its own size.
//
// It reads SVC, LogisticRegression, StandardScaler and Pipelines of these, no more.
package sklearn

import (
	"fmt"
	"io"
	"strings"
)

// DefaultLimit is the size of the largest model Read takes when its limit is 0, in bytes, before
// and after decompression.
const DefaultLimit = 64 << 20

// Model is a fitted classifier, perhaps behind scalers. It is immutable and safe for concurrent use.
type Model struct {
	scalers []*scaler
	last    classifier
	version string // of scikit-learn, empty if the file does not say
}

// classifier is the last step of a model.
type classifier interface {
	// predict gives, for each row, its class's position in the labels.
	predict(rows [][]float64) []int
	labels() []any
	features() int
	// name is the class's, as scikit-learn's messages have it.
	name() string
	String() string
}

// Read reads a model from r: an uncompressed joblib file, one compressed with zlib or gzip, or a
// pickle of protocol 3 to 5 (Python 3's own). A file of more than limit bytes (0: DefaultLimit) is refused.
func Read(r io.Reader, limit int64) (*Model, error) {
	if limit <= 0 {
		limit = DefaultLimit
	}
	data, err := readAll(r, limit)
	if err != nil {
		return nil, fmt.Errorf("sklearn: %w", err)
	}
	root, err := unpickle(data)
	if err != nil {
		return nil, fmt.Errorf("sklearn: %w", err)
	}
	model, err := newModel(root)
	if err != nil {
		return nil, fmt.Errorf("sklearn: %w", err)
	}
	return model, nil
}

// Features is the number of values in a row.
func (m *Model) Features() int {
	if len(m.scalers) > 0 {
		return m.scalers[0].width
	}
	return m.last.features()
}

// Estimator names the class that sees a row first, as scikit-learn's messages about input do.
func (m *Model) Estimator() string {
	if len(m.scalers) > 0 {
		return scalerName
	}
	return m.last.name()
}

// String describes the model in one line.
func (m *Model) String() string {
	text := m.last.String()
	if len(m.scalers) > 0 {
		text = "Pipeline(" + strings.Repeat(scalerName+", ", len(m.scalers)) + text + ")"
	}
	text += fmt.Sprintf(", %d features, %d classes", m.Features(), len(m.last.labels()))
	if m.version != "" {
		text += ", scikit-learn " + m.version
	}
	return text
}

// Predict gives the label of each row: int64, float64, bool or string. It refuses rows with
// an InputError and does not change them.
func (m *Model) Predict(rows [][]float64) ([]any, error) {
	if err := checkShape(rows, m.Estimator(), m.Features()); err != nil {
		return nil, err
	}
	for _, s := range m.scalers {
		if err := checkRows(rows, scalerName, s.width, true); err != nil {
			return nil, err
		}
		rows = s.transform(rows)
	}
	if err := checkRows(rows, m.last.name(), m.last.features(), false); err != nil {
		return nil, err
	}
	names := m.last.labels()
	answer := make([]any, len(rows))
	for i, class := range m.last.predict(rows) {
		answer[i] = names[class]
	}
	return answer, nil
}

// maxPipelines bounds how deep pipelines may be nested; a hostile one may contain itself.
const maxPipelines = 8

func newModel(root any) (*Model, error) {
	m := &Model{}
	if err := m.add(root, "the model", 0); err != nil {
		return nil, err
	}
	if m.last == nil {
		return nil, fmt.Errorf("the model has no classifier as its last step")
	}
	width := m.last.features()
	for _, s := range m.scalers {
		if s.width != width {
			return nil, fmt.Errorf("a StandardScaler of %d features goes before a classifier of %d", s.width, width)
		}
	}
	return m, nil
}

// add appends one step, or all steps of a pipeline. what names it in errors.
func (m *Model) add(value any, what string, depth int) error {
	obj, ok := value.(*object)
	if !ok {
		return fmt.Errorf("%s is %s, want an estimator", what, describe(value))
	}
	if m.last != nil {
		return fmt.Errorf("%s comes after a classifier", what)
	}
	if m.version == "" {
		m.version, _ = obj.get("_sklearn_version").(string)
	}
	var err error
	switch obj.class {
	case classSVC:
		m.last, err = newSVC(obj)
	case classLogistic:
		m.last, err = newLogistic(obj)
	case classScaler:
		var s *scaler
		s, err = newScaler(obj)
		m.scalers = append(m.scalers, s)
	case classPipeline:
		return m.addSteps(obj, what, depth)
	default:
		return fmt.Errorf("%s is a %s, want an estimator", what, obj.class)
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", what, obj.class, err)
	}
	return nil
}

func (m *Model) addSteps(obj *object, what string, depth int) error {
	if depth == maxPipelines {
		return fmt.Errorf("pipelines are nested deeper than %d", maxPipelines)
	}
	steps, ok := obj.get("steps").(*list)
	if !ok {
		return fmt.Errorf("%s: a pipeline without its list of steps", what)
	}
	for i, item := range steps.items {
		step, ok := item.(tuple)
		if !ok || len(step) != 2 {
			return fmt.Errorf("%s: step %d is %s, want a pair of name and estimator", what, i, describe(item))
		}
		if err := m.add(step[1], fmt.Sprintf("step %d of %s", i, what), depth+1); err != nil {
			return err
		}
	}
	return nil
}
