package sklearn

import (
	"errors"
	"fmt"
)

// The values a pickle builds here are nil, bool, int64, float64, string, []byte and the types
// below. Numbers beyond int64 are refused.
type (
	tuple []any
	list  struct{ items []any }
	// dict keeps the entries whose key is a string; no estimator read here needs another.
	dict struct{ entries map[string]any }
	// global is the name of a class or function. It names something, it never is it.
	global string
	// object is an instance of an allowed class, with the attributes the file gives it.
	object struct {
		class global
		state *dict
	}
	mark struct{}
)

// The classes and functions a model may name, by module and name. Everything else is refused.
const (
	classSVC      global = "sklearn.svm._classes.SVC"
	classLogistic global = "sklearn.linear_model._logistic.LogisticRegression"
	classScaler   global = "sklearn.preprocessing._data.StandardScaler"
	classPipeline global = "sklearn.pipeline.Pipeline"
	classWrapper  global = "joblib.numpy_pickle.NumpyArrayWrapper"
	classArray    global = "numpy.ndarray"
	classDtype    global = "numpy.dtype"
	funcArray     global = "numpy._core.multiarray._reconstruct"
	funcScalar    global = "numpy._core.multiarray.scalar"
	funcBuffer    global = "numpy._core.numeric._frombuffer"
)

// allowed maps each name to the one it goes by here: numpy 1 says core where numpy 2 says _core.
var allowed = map[string]global{
	string(classSVC): classSVC, string(classLogistic): classLogistic,
	string(classScaler): classScaler, string(classPipeline): classPipeline,
	string(classWrapper): classWrapper, string(classArray): classArray, string(classDtype): classDtype,
	string(funcArray): funcArray, "numpy.core.multiarray._reconstruct": funcArray,
	string(funcScalar): funcScalar, "numpy.core.multiarray.scalar": funcScalar,
	string(funcBuffer): funcBuffer, "numpy.core.numeric._frombuffer": funcBuffer,
}

// errRefused is wrapped by the error about a class or function that is not allowed.
var errRefused = errors.New("is not read here (only SVC, LogisticRegression, StandardScaler and Pipeline are; nothing of the file was executed)")

func findGlobal(module, name string) (global, error) {
	full := module + "." + name
	if g, ok := allowed[full]; ok {
		return g, nil
	}
	if len(full) > 200 {
		full = full[:200] + "..."
	}
	return "", fmt.Errorf("the class or function %q %w", full, errRefused)
}

// get is an attribute; nil when the file does not give it.
func (o *object) get(name string) any {
	if o.state == nil {
		return nil
	}
	return o.state.entries[name]
}

func (o *object) flag(name string) bool {
	b, _ := o.get(name).(bool)
	return b
}

// number is an attribute that must be a number.
func (o *object) number(name string) (float64, error) {
	switch n := o.get(name).(type) {
	case int64:
		return float64(n), nil
	case float64:
		return n, nil
	default:
		return 0, fmt.Errorf("%s is %s, want a number", name, describe(n))
	}
}

// count is an attribute that must be a whole number from low to 2^31-1.
func (o *object) count(name string, low int64) (int, error) {
	n, ok := o.get(name).(int64)
	if !ok || n < low || n > 1<<31-1 {
		return 0, fmt.Errorf("%s is %s, want a whole number of at least %d", name, describe(o.get(name)), low)
	}
	return int(n), nil
}

// describe says what a value is, for errors.
func describe(value any) string {
	switch v := value.(type) {
	case nil:
		return "missing"
	case bool, int64, float64:
		return fmt.Sprint(v)
	case string:
		if len(v) > 40 {
			v = v[:40] + "..."
		}
		return fmt.Sprintf("%q", v)
	case *object:
		return "an object " + string(v.class)
	case global:
		return "the name " + string(v)
	case *array:
		return fmt.Sprintf("an array of shape %v and type %s", v.shape, v.dtype)
	case tuple:
		return fmt.Sprintf("a tuple of %d", len(v))
	case *list:
		return fmt.Sprintf("a list of %d", len(v.items))
	case *dict:
		return "a dictionary"
	case []byte:
		return fmt.Sprintf("%d bytes", len(v))
	default:
		return fmt.Sprintf("a %T", v)
	}
}
