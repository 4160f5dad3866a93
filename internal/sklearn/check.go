package sklearn

import (
	"fmt"
	"math"
)

// InputError says what is wrong with the rows given to Predict, in scikit-learn's or numpy's words.
//
// The texts are those of scikit-learn 1.9.1, sklearn/utils/validation.py: check_array,
// _assert_all_finite and _check_n_features, in the order in which they are checked there.
type InputError string

func (e InputError) Error() string { return string(e) }

func inputErrorf(format string, args ...any) error {
	return InputError(fmt.Sprintf(format, args...))
}

const nanText = "Input X contains NaN.\n%s does not accept missing values encoded as NaN natively. " +
	"For supervised learning, you might want to consider sklearn.ensemble.HistGradientBoostingClassifier and Regressor " +
	"which accept missing values encoded as NaNs natively. Alternatively, it is possible to preprocess the data, for instance " +
	"by using an imputer transformer in a pipeline or drop samples with missing values. " +
	"See https://scikit-learn.org/stable/modules/impute.html You can find a list of all estimators that handle NaN values " +
	"at the following page: https://scikit-learn.org/stable/modules/impute.html#estimators-that-handle-nan-values"

func checkShape(rows [][]float64, estimator string, features int) error {
	if len(rows) == 0 {
		return inputErrorf("Found array with 0 sample(s) (shape=(0, %d)) while a minimum of 1 is required by %s.", features, estimator)
	}
	for _, row := range rows {
		if len(row) != len(rows[0]) {
			return inputErrorf("setting an array element with a sequence. The requested array has an inhomogeneous shape "+
				"after 1 dimensions. The detected shape was (%d,) + inhomogeneous part.", len(rows))
		}
	}
	return nil
}

// checkRows refuses values that are not finite, and rows of the wrong width, in that order. The
// first value that is not finite names the error. A StandardScaler lets missing values through.
func checkRows(rows [][]float64, estimator string, want int, allowNaN bool) error {
	for _, row := range rows {
		for _, x := range row {
			switch {
			case math.IsNaN(x) && !allowNaN:
				return inputErrorf(nanText, estimator)
			case math.IsInf(x, 0):
				return inputErrorf("Input X contains infinity or a value too large for dtype('float64').")
			}
		}
	}
	switch got := len(rows[0]); got {
	case want:
		return nil
	case 0:
		return inputErrorf("Found array with 0 feature(s) (shape=(%d, 0)) while a minimum of 1 is required by %s.", len(rows), estimator)
	default:
		return inputErrorf("X has %d features, but %s is expecting %d features as input.", got, estimator, want)
	}
}
