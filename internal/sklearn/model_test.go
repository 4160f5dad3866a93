package sklearn_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"postern.dev/postern/internal/sklearn"
)

// fixture is one entry of testdata/cases.json: what the real scikit-learn predicted.
type fixture struct {
	Rows [][]float64
	Want []any
}

func fixtures(t *testing.T) map[string]fixture {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]fixture{}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

func load(t *testing.T, name string) *sklearn.Model {
	t.Helper()
	m, err := sklearn.Read(bytes.NewReader(bytesOf(t, name)), 0)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

func bytesOf(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestPredictsAsScikitLearn(t *testing.T) {
	for name, c := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			m := load(t, name)
			got, err := m.Predict(c.Rows)
			if err != nil {
				t.Fatal(err)
			}
			// Through JSON, as served: the types of the labels must survive it.
			raw, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			var back []any
			if err := json.Unmarshal(raw, &back); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back, c.Want) {
				t.Errorf("got %v\nwant %v", back, c.Want)
			}
		})
	}
}

func TestLabelTypes(t *testing.T) {
	for _, c := range []struct {
		file string
		want any
	}{
		{"svc-rbf.joblib", int64(0)},
		{"svc-rbf-words.joblib", ""},
		{"svc-rbf-floats.joblib", 0.0},
		{"svc-rbf-bool.joblib", false},
		{"logistic-objects.joblib", ""},
	} {
		got, err := load(t, c.file).Predict([][]float64{{0, 0, 0}})
		if err != nil {
			t.Fatal(err)
		}
		if reflect.TypeOf(got[0]) != reflect.TypeOf(c.want) {
			t.Errorf("%s: got a label of type %T, want %T", c.file, got[0], c.want)
		}
	}
}

func TestDescribesItself(t *testing.T) {
	for _, c := range []struct {
		file, text, estimator string
		features              int
	}{
		{"svc-poly.joblib", "SVC(kernel=poly), 3 features, 3 classes, scikit-learn 1.9.1", "SVC", 3},
		{"logistic-binary.joblib", "LogisticRegression, 3 features, 2 classes, scikit-learn 1.9.1", "LogisticRegression", 3},
		{"scaler-nested.joblib", "Pipeline(StandardScaler, StandardScaler, SVC(kernel=rbf)), 3 features, 3 classes, scikit-learn 1.9.1", "StandardScaler", 3},
	} {
		m := load(t, c.file)
		if m.String() != c.text || m.Estimator() != c.estimator || m.Features() != c.features {
			t.Errorf("%s: got %q, %q, %d\nwant %q, %q, %d", c.file, m, m.Estimator(), m.Features(), c.text, c.estimator, c.features)
		}
	}
}

func TestRefusesRowsAsScikitLearn(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(-1)
	for _, c := range []struct {
		file string
		rows [][]float64
		want string // the beginning of the error
	}{
		{"svc-rbf.joblib", [][]float64{{1, 2, 3}}, ""},
		{"svc-rbf.joblib", [][]float64{{1, 2, 3, 4}}, "X has 4 features, but SVC is expecting 3 features as input."},
		{"logistic.joblib", [][]float64{{1, 2}}, "X has 2 features, but LogisticRegression is expecting 3 features as input."},
		{"scaler-svc.joblib", [][]float64{{1}}, "X has 1 features, but StandardScaler is expecting 3 features as input."},
		{"svc-rbf.joblib", nil, "Found array with 0 sample(s) (shape=(0, 3)) while a minimum of 1 is required by SVC."},
		{"svc-rbf.joblib", [][]float64{{}}, "Found array with 0 feature(s) (shape=(1, 0)) while a minimum of 1 is required by SVC."},
		{"svc-rbf.joblib", [][]float64{{1, 2, 3}, {1, 2}}, "setting an array element with a sequence. The requested array has an inhomogeneous shape after 1 dimensions. The detected shape was (2,)"},
		{"svc-rbf.joblib", [][]float64{{1, 2, nan}}, "Input X contains NaN.\nSVC does not accept missing values"},
		{"svc-rbf.joblib", [][]float64{{1, inf, nan}}, "Input X contains infinity or a value too large for dtype('float64')."},
		{"svc-rbf.joblib", [][]float64{{nan}}, "Input X contains NaN."},
		{"scaler-svc.joblib", [][]float64{{1, 2, nan}}, "Input X contains NaN.\nSVC does not accept missing values"},
		{"scaler-logistic.joblib", [][]float64{{nan, inf, 0}}, "Input X contains infinity"},
	} {
		_, err := load(t, c.file).Predict(c.rows)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s %v: got error %v, want none", c.file, c.rows, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
			t.Errorf("%s %v:\ngot  %v\nwant %s", c.file, c.rows, err, c.want)
		}
	}
}

func TestPredictLeavesRowsAlone(t *testing.T) {
	rows := [][]float64{{1, 2, 3}}
	if _, err := load(t, "scaler-svc.joblib").Predict(rows); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(rows, [][]float64{{1, 2, 3}}) {
		t.Errorf("got %v after Predict, want the rows unchanged", rows)
	}
}
