package sklearn

import "fmt"

// The attributes of an estimator that are arrays, checked for what the estimator needs.

// floats is an attribute that must be an array of floats of the given shape, in C order. Its
// size was checked against the file's when it was read.
func (o *object) floats(name string, shape ...int) ([]float64, error) {
	a, ok := o.get(name).(*array)
	if !ok || a.dtype == nil || a.dtype.kind != 'f' || !a.hasShape(shape) {
		return nil, fmt.Errorf("%s is %s, want an array of floats of shape %v", name, describe(o.get(name)), shape)
	}
	out := make([]float64, len(a.raw)/int(a.dtype.size))
	for i := range out {
		v, err := a.element(a.place(uint64(i)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[i], _ = v.(float64)
	}
	return out, nil
}

// matrix is floats in two dimensions, cut into rows.
func (o *object) matrix(name string, rows, columns int) ([][]float64, error) {
	flat, err := o.floats(name, rows, columns)
	if err != nil {
		return nil, err
	}
	out := make([][]float64, rows)
	for i := range out {
		out[i] = flat[i*columns : (i+1)*columns]
	}
	return out, nil
}

func (a *array) hasShape(want []int) bool {
	if len(a.shape) != len(want) {
		return false
	}
	for i, n := range want {
		if a.shape[i] != uint64(n) {
			return false
		}
	}
	return true
}

// place maps an element's number in C order to its place in the file.
func (a *array) place(i uint64) uint64 {
	if !a.fortran || len(a.shape) != 2 {
		return i
	}
	return (i%a.shape[1])*a.shape[0] + i/a.shape[1]
}

// rows is the first dimension of an attribute that must be an array of two.
func (o *object) rows(name string) (int, error) {
	a, ok := o.get(name).(*array)
	if !ok || len(a.shape) != 2 {
		return 0, fmt.Errorf("%s is %s, want an array of two dimensions", name, describe(o.get(name)))
	}
	return int(a.shape[0]), nil
}

// maxClasses bounds the labels of a classifier; one against one needs half its square of votes.
const maxClasses = 1 << 14

// classes is the attribute classes_: the labels, in order, 2 at least.
func (o *object) classes() ([]any, error) {
	a, ok := o.get("classes_").(*array)
	if !ok || len(a.shape) != 1 || a.shape[0] < 2 || a.shape[0] > maxClasses {
		return nil, fmt.Errorf("classes_ is %s, want an array of 2 to %d labels", describe(o.get("classes_")), maxClasses)
	}
	out := make([]any, a.shape[0])
	for i := range out {
		v, err := a.element(uint64(i))
		if err != nil {
			return nil, fmt.Errorf("classes_: label %d: %w", i, err)
		}
		out[i] = v
	}
	return out, nil
}

// supports is SVC's _n_support: how many support vectors each class has, total in all.
func (o *object) supports(classes, total int) ([]int, error) {
	a, ok := o.get("_n_support").(*array)
	if !ok || a.dtype == nil || a.dtype.kind != 'i' || !a.hasShape([]int{classes}) {
		return nil, fmt.Errorf("_n_support is %s, want an array of %d whole numbers", describe(o.get("_n_support")), classes)
	}
	out, sum := make([]int, classes), 0
	for i := range out {
		v, err := a.element(uint64(i))
		if err != nil {
			return nil, fmt.Errorf("_n_support: %w", err)
		}
		n, _ := v.(int64)
		if n < 0 || n > int64(total-sum) {
			return nil, fmt.Errorf("_n_support has %d for class %d, want %d in all", n, i, total)
		}
		out[i] = int(n)
		sum += int(n)
	}
	if sum != total {
		return nil, fmt.Errorf("_n_support is %d in all, want %d", sum, total)
	}
	return out, nil
}
