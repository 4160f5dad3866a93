//go:build e2e

package serving_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"postern.dev/postern/internal/sklearn"
)

// TestPredictionsEqualScikitLearn fits every kind of model with the real scikit-learn and compares
// its predictions on 1,000 random rows each, from the model as joblib and as a pickle.
func TestPredictionsEqualScikitLearn(t *testing.T) {
	dir := t.TempDir()
	out, err := exec.Command(tool(t, "sklearn", "bin", "python"), "fit.py", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("fit.py: %v\n%s", err, out)
	}
	answers, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(answers) < 30 {
		t.Fatalf("got %d fitted models (%v), want 30 or more", len(answers), err)
	}
	for _, answer := range answers {
		base := strings.TrimSuffix(answer, ".json")
		t.Run(filepath.Base(base), func(t *testing.T) {
			var c struct {
				Rows [][]float64
				Want []any
			}
			raw, err := os.ReadFile(answer)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, &c); err != nil {
				t.Fatal(err)
			}
			if len(c.Rows) != 1000 || kinds(c.Want) < 2 {
				t.Fatalf("got %d rows with %d labels, want 1000 with 2 or more: the comparison would say little", len(c.Rows), kinds(c.Want))
			}
			for _, extension := range []string{".joblib", ".pkl"} {
				compare(t, base+extension, c.Rows, c.Want)
			}
		})
	}
}

func compare(t *testing.T, path string, rows [][]float64, want []any) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	m, err := sklearn.Read(file, 0)
	if err != nil {
		t.Fatal(err)
	}
	labels, err := m.Predict(rows)
	if err != nil {
		t.Fatal(err)
	}
	// Both through JSON, where every number is one type.
	raw, err := json.Marshal(labels)
	if err != nil {
		t.Fatal(err)
	}
	var got []any
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	wrong := 0
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			wrong++
			if wrong <= 3 {
				t.Errorf("%s: row %d %v: got %v, want %v", m, i, rows[i], got[i], want[i])
			}
		}
	}
	if wrong > 3 {
		t.Errorf("%s: %d of %d rows differ", m, wrong, len(want))
	}
}

// kinds counts the different labels.
func kinds(labels []any) int {
	seen := map[any]bool{}
	for _, l := range labels {
		seen[l] = true
	}
	return len(seen)
}
