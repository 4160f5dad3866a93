package serving_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"postern.dev/postern/internal/lab/serving"
	"postern.dev/postern/internal/sklearn"
)

const (
	models    = "../../../examples/story/models"
	instances = `{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}`
	predict   = "/v1/models/sklearn-iris:predict"
	infer     = "/v2/models/sklearn-iris/infer"
)

// iris is the story's own model, found as `up` finds it.
func iris(t testing.TB) *sklearn.Model {
	t.Helper()
	file, err := serving.Storage{Mappings: []serving.Mapping{{Prefix: "gs://kfserving-examples/models", Dir: models}}}.
		Open("gs://kfserving-examples/models/sklearn/1.0/model")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	m, err := sklearn.Read(file, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func start(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// call sends one request, without following redirects.
func call(t testing.TB, method, url, contentType, body string) (status int, text string, header http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(raw), res.Header
}

const (
	scalar = `{"error":"Expected 2D array, got scalar array instead:\narray=nan.\nReshape your data either using array.reshape(-1, 1) if your data has a single feature or array.reshape(1, -1) if it contains a single sample."}`
	oneD   = `{"error":"Expected 2D array, got 1D array instead.\nReshape your data either using array.reshape(-1, 1) if your data has a single feature or array.reshape(1, -1) if it contains a single sample."}`
	form   = "application/x-www-form-urlencoded"
	js     = "application/json"
)

// The wanted bodies are what KServe 0.21.0's server with sklearnserver 0.20.0
// answered, but for the differences the package comment states.
func TestAnswersAsKServe(t *testing.T) {
	checkAll(t, []exchange{
		{"GET", "/", "", "", 200, `{"status":"alive"}`},
		{"GET", "/v1/models", "", "", 200, `{"models":["sklearn-iris"]}`},
		{"GET", "/v1/models/", "", "", 307, ``},
		{"GET", "/v1/models/sklearn-iris", "", "", 200, `{"name":"sklearn-iris","ready":true}`},
		{"GET", "/v1/models/nope", "", "", 404, `{"error":"Model with name nope does not exist."}`},
		{"GET", "/nothing", "", "", 404, `{"detail":"Not Found"}`},
		{"GET", "/v1/models/a/b", "", "", 404, `{"detail":"Not Found"}`},
		{"GET", predict, "", "", 404, `{"error":"Model with name sklearn-iris:predict does not exist."}`},
		{"PUT", predict, js, instances, 405, `{"detail":"Method Not Allowed"}`},
		{"POST", "/v1/models", js, instances, 405, `{"detail":"Method Not Allowed"}`},
		{"POST", "/v1/models/sklearn-iris", js, instances, 405, `{"detail":"Method Not Allowed"}`},
		{"POST", "/v1/models/nope:predict", js, instances, 404, `{"error":"Model with name nope does not exist."}`},
		{"POST", "/v1/models/sklearn-iris:explain", js, instances, 501, `{"error":"Could not find explainer_host."}`},
	})
}

func TestPredictsOverV1(t *testing.T) {
	checkAll(t, []exchange{
		{"POST", predict, js, instances, 200, `{"predictions":[1,1]}`},
		{"POST", predict, form, instances, 200, `{"predictions":[1,1]}`}, // KServe: 500
		{"POST", predict, "", instances, 200, `{"predictions":[1,1]}`},
		{"POST", predict, "application/octet-stream", instances, 200, `{"predictions":[1,1]}`},
		{"POST", predict, "text/plain", instances, 500, scalar},
		{"POST", predict, "application/json; charset=utf-8", instances, 500, scalar},
		{"POST", predict, js, `{"inputs":[[6.8,2.8,4.8,1.4]]}`, 200, `{"predictions":[1]}`},
		{"POST", predict, js, `{"instances":[[6.8,2.8,4.8,1.4]],"inputs":[[5,3,1.5,0.2]]}`, 200, `{"predictions":[0]}`},
		{"POST", predict, js, `{"instances":[[6.8,2.8,4.8,1.4]],"instances":[[5,3,1.5,0.2]]}`, 200, `{"predictions":[0]}`},
		{"POST", predict, js, `{"instances":[["6.8","2.8","4.8","1.4"]]}`, 200, `{"predictions":[1]}`},
		{"POST", predict, js, `{"instances":[[true,2,3,4],[6,2,4,1]]}`, 200, `{"predictions":[2,1]}`},
		{"POST", predict, js, `{"instances":[[6.8,2.8,4.8,123456789012345678901234567890]]}`, 200, `{"predictions":[2]}`},
	})
}

func TestRefusesOverV1(t *testing.T) {
	checkAll(t, []exchange{
		{"POST", predict, js, "not json", 400, `{"error":"Unrecognized request format: invalid character 'o' in literal null (expecting 'u'): line 1 column 2 (char 1)"}`},
		{"POST", predict, js, "", 400, `{"error":"Unrecognized request format: Input is a zero-length, empty document: line 1 column 1 (char 0)"}`},
		{"POST", predict, js, `{"instances":[[1,2,`, 400, `{"error":"Unrecognized request format: unexpected end of JSON input: line 1 column 20 (char 19)"}`},
		{"POST", predict, js, "{\"instances\":\n[]} x", 400, `{"error":"Unrecognized request format: invalid character 'x' after top-level value: line 2 column 5 (char 18)"}`},
		{"POST", predict, js, "\xff\xfe{}", 400, `{"error":"Unrecognized request format: str is not valid UTF-8"}`},
		{"POST", predict, js, `{"instances":[[NaN,2,3,4]]}`, 400, `{"error":"Unrecognized request format: ...`},
		{"POST", predict, js, `{"instances":[[1e400,2,3,4]]}`, 400, `{"error":"Unrecognized request format: number is infinity when parsed as double...`},
		{"POST", predict, js, `[1,2]`, 500, scalar},
		{"POST", predict, js, `"x"`, 500, scalar},
		{"POST", predict, js, `null`, 500, scalar},
		{"POST", predict, js, `{}`, 500, `{"error":"'instances'"}`},
		{"POST", predict, js, `{"Instances":[[1,2,3,4]]}`, 500, `{"error":"'instances'"}`},
		{"POST", predict, js, `{"instances":{}}`, 400, `{"error":"Expected \"instances\" to be a list"}`},
		{"POST", predict, js, `{"instances":null}`, 400, `{"error":"Expected \"instances\" to be a list"}`},
		{"POST", predict, js, `{"instances": "abc"}`, 400, `{"error":"Expected \"instances\" to be a list"}`},
		{"POST", predict, js, `{"instances":[]}`, 500, oneD},
		{"POST", predict, js, `{"instances":[1,2,3,4]}`, 500, oneD},
		{"POST", predict, js, `{"instances":[null]}`, 500, oneD},
		{"POST", predict, js, `{"instances":[[]]}`, 500, `{"error":"Found array with 0 feature(s) (shape=(1, 0)) while a minimum of 1 is required by SVC."}`},
		{"POST", predict, js, `{"instances":[[1,2,3],[1,2,3]]}`, 500, `{"error":"X has 3 features, but SVC is expecting 4 features as input."}`},
		{"POST", predict, js, `{"instances":[[[1,2,3,4]]]}`, 500, `{"error":"Found array with dim 3, while dim <= 2 is required by SVC."}`},
		{"POST", predict, js, `{"instances":[[1,2,3,4],[1,2,3]]}`, 500, inhomogeneous(1, "(2,)")},
		{"POST", predict, js, `{"instances":[[1,2,3,4],5]}`, 500, inhomogeneous(1, "(2,)")},
		{"POST", predict, js, `{"instances":[[],[1]]}`, 500, inhomogeneous(1, "(2,)")},
		{"POST", predict, js, `{"instances":[[6.8,2.8,4.8,[1]]]}`, 500, inhomogeneous(2, "(1, 4)")},
		{"POST", predict, js, `{"instances":["a"]}`, 500, `{"error":"could not convert string to float: 'a'"}`},
		{"POST", predict, js, `{"instances":[[1,2,3,"x\""]]}`, 500, `{"error":"could not convert string to float: 'x\"'"}`},
		{"POST", predict, js, `{"instances":[[null,2,3,4]]}`, 500, `{"error":"Input X contains NaN.\nSVC does not accept missing values encoded as NaN natively. ...`},
		{"POST", predict, js, `{"instances":[["inf",2,3,4]]}`, 500, `{"error":"Input X contains infinity or a value too large for dtype('float64')."}`},
		{"POST", predict, js, `{"instances":[{"a":[1],"b":[2]}]}`, 501, `{"error":"instances that are objects (a pandas DataFrame) are not served here, want lists of numbers"}`},
		{"POST", predict, js, `{"instances":[[1,2,3,{"a":1}]]}`, 500, `{"error":"float() argument must be a string or a real number, not 'dict'"}`},
		{"POST", predict, js, `{"instances":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}`, 500, `{"error":"setting an array element with a sequence. The requested array would exceed the maximum number of dimension of 64."}`},
	})
}

// exchange is one request and its answer.
type exchange struct {
	method, path, contentType, body string
	status                          int
	want                            string // a prefix if it ends in "..."
}

func checkAll(t *testing.T, exchanges []exchange) {
	t.Helper()
	url := start(t, serving.New(serving.Config{Name: "sklearn-iris", Model: iris(t)}))
	for _, x := range exchanges {
		check(t, url, x.method, x.path, x.contentType, x.body, x.status, x.want)
	}
}

func inhomogeneous(n int, shape string) string {
	raw, _ := json.Marshal(n)
	return `{"error":"setting an array element with a sequence. The requested array has an inhomogeneous shape after ` + string(raw) + ` dimensions. The detected shape was ` + shape + ` + inhomogeneous part."}`
}

func check(t *testing.T, url, method, path, contentType, body string, status int, want string) {
	t.Helper()
	gotStatus, got, _ := call(t, method, url+path, contentType, body)
	match := got == want
	if prefix, ok := strings.CutSuffix(want, "..."); ok {
		match = strings.HasPrefix(got, prefix)
	}
	if gotStatus != status || !match {
		t.Errorf("%s %s %.60s (%s):\ngot  %d %s\nwant %d %s", method, path, body, contentType, gotStatus, got, status, want)
	}
}

func TestErrorsCarryHeaders(t *testing.T) {
	url := start(t, serving.New(serving.Config{Name: "sklearn-iris", Model: iris(t)}))
	for _, c := range []struct{ method, path, header, want string }{
		{"DELETE", "/v2", "Allow", "GET"},
		{"GET", infer, "Allow", "POST"},
		{"GET", "/v2/?a=b", "Location", "/v2?a=b"},
		{"GET", "/v1/models", "Content-Type", "application/json"},
		{"GET", "/nothing", "Content-Type", "application/json"},
	} {
		if _, _, header := call(t, c.method, url+c.path, "", ""); header.Get(c.header) != c.want {
			t.Errorf("%s %s: got %s %q, want %q", c.method, c.path, c.header, header.Get(c.header), c.want)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	url := start(t, serving.New(serving.Config{Name: "sklearn-iris", Model: iris(t), MaxBody: 60}))
	check(t, url, "POST", predict, js, instances, 200, `{"predictions":[1,1]}`)
	for _, path := range []string{predict, infer} {
		check(t, url, "POST", path, js, instances+strings.Repeat(" ", 60), 413, `{"error":"request body is larger than the limit of 60 bytes"}`)
	}
}

// A body within its limit can still hold very many numbers.
func TestTooManyNumbers(t *testing.T) {
	url := start(t, serving.New(serving.Config{Name: "sklearn-iris", Model: iris(t)}))
	many := "[" + strings.Repeat("1,", 1<<20) + "1]"
	if len(many) > serving.DefaultMaxBody {
		t.Fatal("the body's own limit comes first")
	}
	const want = `{"error":"the request holds more numbers than the limit of 1048576"}`
	check(t, url, "POST", predict, js, `{"instances":`+many+`}`, 413, want)
	check(t, url, "POST", "/v2/models/sklearn-iris/infer", js, `{"inputs":[{"name":"x","shape":[1,1048577],"datatype":"FP64","data":`+many+`}]}`, 413, want)
}

func TestModelThatIsNotThere(t *testing.T) {
	for _, c := range []struct {
		loaded error
		want   string
	}{
		{serving.NoRuntime("xgboost"), `no runtime here serves the framework \"xgboost\", only sklearn: run its own server and give the InferenceService that server's URL`},
		{errors.New("sklearn: truncated"), "sklearn: truncated"},
		{nil, "no model was loaded"},
	} {
		url := start(t, serving.New(serving.Config{Name: "m", Loaded: c.loaded}))
		model := `{"error":"Model with name m is not ready. ` + c.want + `"}`
		check(t, url, "GET", "/v1/models/m", "", "", 503, model)
		check(t, url, "POST", "/v1/models/m:predict", js, instances, 503, model)
		check(t, url, "POST", "/v2/models/m/infer", js, "", 503, model)
		check(t, url, "GET", "/v2/models/m/ready", "", "", 503, model)
		check(t, url, "GET", "/v2/health/ready", "", "", 503, `{"error":"Server is not ready. `+c.want+`"}`)
		check(t, url, "GET", "/v2/health/live", "", "", 200, `{"live":true}`)
		check(t, url, "POST", "/v1/models/other:predict", js, instances, 404, `{"error":"Model with name other does not exist."}`)
	}
}

// labels is a model that answers the same for every row.
type labels struct{ value any }

func (l labels) Predict(rows [][]float64) ([]any, error) { return []any{l.value}, nil }
func (labels) Features() int                             { return 1 }
func (labels) Estimator() string                         { return "SVC" }

func TestLabelsOfEveryType(t *testing.T) {
	for _, c := range []struct {
		label          any
		text, datatype string
	}{
		{int64(7), "7", "INT64"},
		{2.0, "2.0", "FP64"},
		{0.25, "0.25", "FP64"},
		{"a<b", `"a<b"`, "BYTES"},
		{true, "true", "BOOL"},
	} {
		url := start(t, serving.New(serving.Config{Name: "m", Model: labels{c.label}, Version: "3"}))
		check(t, url, "POST", "/v1/models/m:predict", js, `{"instances":[[1]]}`, 200, `{"predictions":[`+c.text+`]}`)
		check(t, url, "POST", "/v2/models/m/infer", js, `{"id":"x","inputs":[{"name":"i","shape":[1,1],"datatype":"FP64","data":[1]}]}`, 200,
			`{"model_name":"m","model_version":"3","id":"x","parameters":{},"outputs":[{"name":"predict","shape":[1,1],"datatype":"`+c.datatype+`","parameters":{"content_type":"np"},"data":[`+c.text+`]}]}`)
	}
}

func TestIDsDiffer(t *testing.T) {
	url := start(t, serving.New(serving.Config{Name: "m", Model: labels{int64(1)}}))
	seen := map[string]bool{}
	for range 3 {
		_, text, _ := call(t, "POST", url+"/v2/models/m/infer", js, `{"inputs":[{"name":"i","shape":[1,1],"datatype":"FP64","data":[1]}]}`)
		var answer struct{ ID string }
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatal(err)
		}
		seen[answer.ID] = true
	}
	if len(seen) != 3 || seen[""] {
		t.Errorf("got the ids %v, want three that differ", reflect.ValueOf(seen).MapKeys())
	}
}
