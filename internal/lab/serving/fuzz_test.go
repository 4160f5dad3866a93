package serving_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"postern.dev/postern/internal/lab/serving"
)

// FuzzBody: whatever the body, both protocols answer with JSON and one of the statuses they know.
func FuzzBody(f *testing.F) {
	for _, body := range []string{
		instances, `{"instances":[[1,2,3,4],[1,2]]}`, `{"inputs":[["1",true,null,1e3]]}`, `{"instances":[[],[[]],{"a":1}]}`,
		input("[2,-1]", "INT64", "["+flat+"]"), input("[0,-1]", "FP32", "[[1],[2]]"), "[", `{"instances":"\ud800"}`,
	} {
		f.Add(body)
	}
	h := serving.New(serving.Config{Name: "sklearn-iris", Model: iris(f)})
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{predict, infer} {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("POST", path, strings.NewReader(body))
			h.ServeHTTP(w, r)
			switch w.Code {
			case http.StatusOK, http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusInternalServerError, http.StatusNotImplemented:
			default:
				t.Errorf("%s: got status %d", path, w.Code)
			}
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s: got %q, want JSON", path, w.Body)
			}
		}
	})
}
