package sklearn

import "fmt"

// logistic is sklearn.linear_model.LogisticRegression, binary (one row of coefficients) or
// multinomial (one row for each class). Which class wins needs no probability.
type logistic struct {
	names     []any
	width     int
	coef      [][]float64
	intercept []float64
}

func newLogistic(o *object) (*logistic, error) {
	l := &logistic{}
	var err error
	if l.width, err = o.count("n_features_in_", 1); err != nil {
		return nil, err
	}
	if l.names, err = o.classes(); err != nil {
		return nil, err
	}
	rows := len(l.names)
	if rows == 2 {
		rows = 1
	}
	if l.coef, err = o.matrix("coef_", rows, l.width); err != nil {
		return nil, err
	}
	l.intercept, err = o.floats("intercept_", rows)
	return l, err
}

func (l *logistic) predict(rows [][]float64) []int {
	out := make([]int, len(rows))
	scores := make([]float64, len(l.coef))
	for i, row := range rows {
		for j, c := range l.coef {
			scores[j] = dot(row, c) + l.intercept[j]
		}
		switch {
		case len(scores) > 1:
			out[i] = largest(scores)
		case scores[0] > 0:
			out[i] = 1
		}
	}
	return out
}

func (l *logistic) labels() []any  { return l.names }
func (l *logistic) features() int  { return l.width }
func (l *logistic) name() string   { return "LogisticRegression" }
func (l *logistic) String() string { return l.name() }

const scalerName = "StandardScaler"

// scaler is sklearn.preprocessing.StandardScaler.
type scaler struct {
	width int
	mean  []float64 // nil: with_mean=False
	scale []float64 // nil: with_std=False
}

func newScaler(o *object) (*scaler, error) {
	s := &scaler{}
	var err error
	if s.width, err = o.count("n_features_in_", 1); err != nil {
		return nil, err
	}
	if o.flag("with_mean") {
		if s.mean, err = o.floats("mean_", s.width); err != nil {
			return nil, err
		}
	}
	if o.flag("with_std") {
		if s.scale, err = o.floats("scale_", s.width); err != nil {
			return nil, err
		}
		for i, x := range s.scale {
			if x == 0 {
				return nil, fmt.Errorf("scale_ is 0 for feature %d", i)
			}
		}
	}
	return s, nil
}

// transform gives scaled copies of the rows.
func (s *scaler) transform(rows [][]float64) [][]float64 {
	flat := make([]float64, len(rows)*s.width)
	out := make([][]float64, len(rows))
	for i, row := range rows {
		scaled := flat[i*s.width : (i+1)*s.width : (i+1)*s.width]
		for j, x := range row {
			if s.mean != nil {
				x -= s.mean[j]
			}
			if s.scale != nil {
				x /= s.scale[j]
			}
			scaled[j] = x
		}
		out[i] = scaled
	}
	return out
}
