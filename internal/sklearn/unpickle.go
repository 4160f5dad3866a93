package sklearn

import (
	"errors"
	"fmt"
)

// Why there is a pickle machine here and not github.com/nlpodyssey/gopickle v0.2.0: that one
// allocates whatever length an opcode declares before it looks at the file (a 12 byte file asks for
// exabytes and panics), panics on opcode 0xff and on an empty LONG1, puts no bound on stack or memo, and offers
// no hook after BUILD, where joblib's raw array bytes begin.

// Bounds of one file, nested pickles included. scikit-learn's models need a few thousand steps;
// one step allocates at most a few hundred bytes that the file does not hold itself.
const (
	maxSteps = 1 << 18
	maxDepth = 4 // of the pickles inside a joblib file, one per array of objects
)

// machine runs the opcodes of one pickle.
type machine struct {
	in    *cursor
	steps *int
	depth int
	stack []any
	marks int
	memo  map[uint64]any
}

// unpickle builds the value of a pickle, or of joblib's variant of one. Opcodes are documented in
// Python's Lib/pickletools.py, joblib's variant in joblib/numpy_pickle.py.
func unpickle(data []byte) (any, error) {
	return run(&cursor{data: data}, new(int), 0)
}

func run(in *cursor, steps *int, depth int) (any, error) {
	if depth == maxDepth {
		return nil, fmt.Errorf("pickles are nested deeper than %d", maxDepth)
	}
	m := &machine{in: in, steps: steps, depth: depth, memo: map[uint64]any{}}
	for {
		if *steps++; *steps > maxSteps {
			return nil, fmt.Errorf("the pickle takes more than %d steps", maxSteps)
		}
		at := in.at
		op, err := in.byte()
		if err != nil {
			return nil, err
		}
		if op == opStop {
			value, err := m.pop()
			if err == nil && len(m.stack) > 0 {
				err = errors.New("values are left over at the end")
			}
			return value, err
		}
		if err := m.step(op); err != nil {
			return nil, fmt.Errorf("byte %d: %w", at, err)
		}
	}
}

const opStop = '.'

var errStack = errors.New("the pickle takes a value that is not there")

func (m *machine) push(v any) { m.stack = append(m.stack, v) }

func (m *machine) pop() (any, error) {
	v, err := m.top()
	if err == nil {
		m.stack = m.stack[:len(m.stack)-1]
	}
	return v, err
}

func (m *machine) top() (any, error) {
	if len(m.stack) == 0 {
		return nil, errStack
	}
	v := m.stack[len(m.stack)-1]
	if _, ok := v.(mark); ok {
		return nil, errStack
	}
	return v, nil
}

// popMark takes everything above the last mark, and the mark.
func (m *machine) popMark() ([]any, error) {
	for i := len(m.stack) - 1; i >= 0 && m.marks > 0; i-- {
		if _, ok := m.stack[i].(mark); ok {
			items := append([]any(nil), m.stack[i+1:]...)
			m.stack = m.stack[:i]
			m.marks--
			return items, nil
		}
	}
	return nil, errStack
}

// popN takes the n topmost values.
func (m *machine) popN(n int) ([]any, error) {
	items := make([]any, n)
	for i := n - 1; i >= 0; i-- {
		v, err := m.pop()
		if err != nil {
			return nil, err
		}
		items[i] = v
	}
	return items, nil
}

func (m *machine) memoize(at uint64) error {
	v, err := m.top()
	if err == nil {
		m.memo[at] = v
	}
	return err
}

func (m *machine) recall(at uint64) error {
	v, ok := m.memo[at]
	if !ok {
		return fmt.Errorf("the pickle refers to value %d, which is not there", at)
	}
	m.push(v)
	return nil
}

// global pushes the name of a class or function, if it is allowed.
func (m *machine) global(module, name string) error {
	g, err := findGlobal(module, name)
	if err == nil {
		m.push(g)
	}
	return err
}

// appendTo adds items to the list on top.
func (m *machine) appendTo(items []any) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	l, ok := v.(*list)
	if !ok {
		return fmt.Errorf("append to %s, want a list", describe(v))
	}
	l.items = append(l.items, items...)
	return nil
}

// setItems adds keys and values to the dictionary on top.
func (m *machine) setItems(items []any) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	d, ok := v.(*dict)
	if !ok || len(items)%2 != 0 {
		return fmt.Errorf("set items of %s, want pairs for a dictionary", describe(v))
	}
	for i := 0; i < len(items); i += 2 {
		if key, ok := items[i].(string); ok {
			d.entries[key] = items[i+1]
		}
	}
	return nil
}

// newObject makes an instance of an allowed class, without arguments and without calling anything.
func (m *machine) newObject() error {
	args, err := m.popN(2)
	if err != nil {
		return err
	}
	class, ok := args[0].(global)
	switch class {
	case classSVC, classLogistic, classScaler, classPipeline, classWrapper:
	default:
		ok = false
	}
	if t, isTuple := args[1].(tuple); !ok || !isTuple || len(t) != 0 {
		return fmt.Errorf("make an instance of %s, want an estimator's class without arguments", describe(args[0]))
	}
	m.push(&object{class: class})
	return nil
}

// build gives the object below the top its state. Raw bytes follow a NumpyArrayWrapper: the array
// takes its place on the stack (joblib's NumpyUnpickler.load_build).
func (m *machine) build() error {
	state, err := m.pop()
	if err != nil {
		return err
	}
	v, err := m.pop()
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case *object:
		d, ok := state.(*dict)
		if !ok {
			return fmt.Errorf("the state of %s is %s, want a dictionary", describe(v), describe(state))
		}
		v.state = d
		if v.class == classWrapper {
			return m.rawArray(v)
		}
	case *dtype:
		err = v.setState(state)
	case *array:
		err = v.setState(state)
	default:
		err = fmt.Errorf("%s takes no state", describe(v))
	}
	m.push(v)
	return err
}

// reduce calls one of the few functions that make numpy's values.
func (m *machine) reduce() error {
	args, err := m.popN(2)
	if err != nil {
		return err
	}
	t, ok := args[1].(tuple)
	if !ok {
		return fmt.Errorf("call with %s, want a tuple", describe(args[1]))
	}
	var v any
	switch args[0] {
	case classDtype:
		v, err = newDtype(t)
	case funcArray:
		v, err = newArray(t)
	case funcScalar:
		v, err = newScalar(t)
	case funcBuffer:
		v, err = arrayFromBuffer(t)
	default:
		err = fmt.Errorf("call of %s, which is no function read here", describe(args[0]))
	}
	m.push(v)
	return err
}
