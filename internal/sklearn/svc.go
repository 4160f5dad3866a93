package sklearn

import (
	"fmt"
	"math"
)

// svc is sklearn.svm.SVC. Its prediction is libsvm's: one classifier for each pair of classes, each
// with one vote (sklearn/svm/src/libsvm/svm.cpp, svm_predict_values).
type svc struct {
	kernel    string
	value     func(x, y []float64) float64
	names     []any
	width     int
	vectors   [][]float64 // support vectors, those of the first class first
	supports  []int       // how many of them each class has
	dual      [][]float64 // coefficients: classes-1 rows, one column per support vector
	intercept []float64   // one per pair of classes
}

func newSVC(o *object) (*svc, error) {
	s := &svc{}
	var err error
	if s.width, err = o.count("n_features_in_", 1); err != nil {
		return nil, err
	}
	if s.names, err = o.classes(); err != nil {
		return nil, err
	}
	if o.flag("_sparse") {
		return nil, fmt.Errorf("fitted on sparse data, which is not read here")
	}
	if o.flag("break_ties") && len(s.names) > 2 {
		return nil, fmt.Errorf("break_ties is true, which is not read here")
	}
	if err := s.setKernel(o); err != nil {
		return nil, err
	}
	count, err := o.rows("support_vectors_")
	if err != nil {
		return nil, err
	}
	if s.vectors, err = o.matrix("support_vectors_", count, s.width); err != nil {
		return nil, err
	}
	if s.supports, err = o.supports(len(s.names), count); err != nil {
		return nil, err
	}
	n := len(s.names)
	if s.dual, err = o.matrix("_dual_coef_", n-1, count); err != nil {
		return nil, err
	}
	s.intercept, err = o.floats("_intercept_", n*(n-1)/2)
	return s, err
}

func (s *svc) setKernel(o *object) error {
	gamma, err := o.number("_gamma")
	if err != nil {
		return err
	}
	coef0, err := o.number("coef0")
	if err != nil {
		return err
	}
	degree, err := o.count("degree", 0)
	if err != nil {
		return err
	}
	s.kernel, _ = o.get("kernel").(string)
	switch s.kernel {
	case "linear":
		s.value = dot
	case "poly":
		s.value = func(x, y []float64) float64 { return power(gamma*dot(x, y)+coef0, degree) }
	case "rbf":
		s.value = func(x, y []float64) float64 { return math.Exp(-gamma * distance(x, y)) }
	case "sigmoid":
		s.value = func(x, y []float64) float64 { return math.Tanh(gamma*dot(x, y) + coef0) }
	default:
		return fmt.Errorf("the kernel %s is not read here, want linear, poly, rbf or sigmoid", describe(o.get("kernel")))
	}
	return nil
}

func (s *svc) predict(rows [][]float64) []int {
	out := make([]int, len(rows))
	values, votes := make([]float64, len(s.vectors)), make([]int, len(s.names))
	for i, row := range rows {
		for j, v := range s.vectors {
			values[j] = s.value(row, v)
		}
		clear(votes)
		s.vote(values, votes)
		out[i] = largest(votes)
	}
	return out
}

// vote counts, for one row's kernel values, which class wins each pair.
func (s *svc) vote(values []float64, votes []int) {
	pair, first := 0, 0 // first support vector of class i
	for i := range s.names {
		second := first + s.supports[i]
		for j := i + 1; j < len(s.names); j++ {
			sum := addDot(0, s.dual[j-1], values, first, s.supports[i])
			sum = addDot(sum, s.dual[i], values, second, s.supports[j])
			if sum+s.intercept[pair] > 0 {
				votes[i]++
			} else {
				votes[j]++
			}
			second += s.supports[j]
			pair++
		}
		first += s.supports[i]
	}
}

// addDot adds coefficient times kernel value of n support vectors to sum, one after the other as
// libsvm does, so that rounding is the same.
func addDot(sum float64, dual, values []float64, from, n int) float64 {
	for i := from; i < from+n; i++ {
		sum += dual[i] * values[i]
	}
	return sum
}

func (s *svc) labels() []any  { return s.names }
func (s *svc) features() int  { return s.width }
func (s *svc) name() string   { return "SVC" }
func (s *svc) String() string { return "SVC(kernel=" + s.kernel + ")" }

// largest is the position of the largest value, the first of several.
func largest[T int | float64](values []T) int {
	best := 0
	for i, v := range values {
		if v > values[best] {
			best = i
		}
	}
	return best
}

func dot(x, y []float64) float64 {
	var sum float64
	for i, v := range x {
		sum += v * y[i]
	}
	return sum
}

func distance(x, y []float64) float64 {
	var sum float64
	for i, v := range x {
		d := v - y[i]
		sum += d * d
	}
	return sum
}

// power is libsvm's powi.
func power(base float64, times int) float64 {
	result := 1.0
	for ; times > 0; times /= 2 {
		if times%2 == 1 {
			result *= base
		}
		base *= base
	}
	return result
}
