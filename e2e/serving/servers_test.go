//go:build e2e

package serving_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"postern.dev/postern/internal/lab/serving"
	"postern.dev/postern/internal/sklearn"
)

const (
	modelName = "sklearn-iris"
	predict   = "/v1/models/sklearn-iris:predict"
	infer     = "/v2/models/sklearn-iris/infer"
	js        = "application/json"
	form      = "application/x-www-form-urlencoded"
	instances = `{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}`
	flat      = "[6.8,2.8,4.8,1.4,6.0,3.4,4.5,1.6]"
)

// servers are the three that serve the story's model, the real ones behind serving.Proxy.
type servers struct{ ours, kserve, mlserver string }

func startAll(t *testing.T) servers {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join(root, "examples/story/models/sklearn/1.0/model"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := serving.Storage{}.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	model, err := sklearn.Read(file, 0)
	if err != nil {
		t.Fatal(err)
	}
	return servers{
		ours:     serve(t, serving.New(serving.Config{Name: modelName, Model: model})),
		kserve:   proxy(t, startKServe(t, modelName, dir)),
		mlserver: proxy(t, startMLServer(t, modelName, file.Name())),
	}
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func proxy(t *testing.T, target string) string {
	t.Helper()
	h, err := serving.Proxy(target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, h)
}

// answer is a status and a body; redirects are not followed.
type answer struct {
	status int
	body   string
}

func call(t *testing.T, url, method, path, contentType, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
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
	return answer{res.StatusCode, string(raw)}
}

// predictions picks the labels out of a V1 or V2 answer.
func (a answer) predictions(t *testing.T) []any {
	t.Helper()
	var got struct {
		Predictions []any
		Outputs     []struct {
			Datatype string
			Data     []any
		}
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	if len(got.Outputs) == 1 && got.Outputs[0].Datatype == "INT64" {
		return got.Outputs[0].Data
	}
	return got.Predictions
}

func tensor(shape, datatype, data string) string {
	return fmt.Sprintf(`{"id":"42","inputs":[{"name":"input-0","shape":%s,"datatype":"%s","data":%s}]}`, shape, datatype, data)
}

// exchange is one request and the status it gets. Where a real server's status differs from
// ours, its own field says so, and why is in serving's package comment or in the note.
type exchange struct {
	method, path, contentType, body string
	ours                            int
	kserve, mlserver                int  // 0: as ours
	words                           bool // the body, too, is KServe's letter for letter
	note                            string
}

var exchanges = []exchange{
	{method: "GET", path: "/", ours: 200, mlserver: 404, words: true},
	{method: "GET", path: "/v1/models", ours: 200, mlserver: 404, words: true},
	{method: "GET", path: "/v1/models/sklearn-iris", ours: 200, mlserver: 404, words: true},
	{method: "GET", path: "/v1/models/nope", ours: 404, words: true},
	{method: "GET", path: "/v1/models/", ours: 307, mlserver: 404, words: true},
	{method: "GET", path: predict, ours: 404, words: true},
	{method: "PUT", path: predict, contentType: js, body: instances, ours: 405, mlserver: 404, words: true},
	{method: "HEAD", path: "/v1/models", ours: 405, mlserver: 404, words: true},
	{method: "POST", path: "/v1/models/sklearn-iris", contentType: js, body: instances, ours: 405, mlserver: 404, words: true},
	{method: "POST", path: "/v1/models/nope:predict", contentType: js, body: instances, ours: 404, words: true},
	{method: "POST", path: "/v1/models/sklearn-iris:explain", contentType: js, body: instances, ours: 501, mlserver: 404, words: true},
	{method: "GET", path: "/nothing", ours: 404, words: true},
	{method: "GET", path: "/v2", ours: 200, note: "each names itself"},
	{method: "GET", path: "/v2/", ours: 307, words: true},
	{method: "DELETE", path: "/v2", ours: 405, words: true},
	{method: "GET", path: "/v2/health/live", ours: 200, words: true},
	{method: "GET", path: "/v2/health/ready", ours: 200, words: true},
	{method: "GET", path: "/v2/models", ours: 200, mlserver: 404, words: true},
	{method: "GET", path: "/v2/models/sklearn-iris", ours: 200, words: true},
	{method: "GET", path: "/v2/models/nope", ours: 404, words: true},
	{method: "GET", path: "/v2/models/sklearn-iris/ready", ours: 200, words: true},
	{method: "GET", path: "/v2/models/nope/ready", ours: 404, words: true},
	{method: "GET", path: infer, ours: 405, words: true},
	{method: "GET", path: "/v2/models/sklearn-iris/versions/v1", ours: 501, mlserver: 404, words: true},
}

// v1 are bodies of V1 predictions, KServe's alone: MLServer has no V1.
var v1 = []exchange{
	{body: instances, ours: 200, words: true},
	{body: instances, contentType: "none", ours: 200, words: true},
	{body: instances, contentType: form, ours: 200, kserve: 500, note: "the stated difference: curl -d works"},
	{body: instances, contentType: "text/plain", ours: 500, words: true},
	{body: instances, contentType: "application/json; charset=utf-8", ours: 500, words: true},
	{body: instances, contentType: "application/octet-stream", ours: 200, words: true},
	{body: strings.Replace(instances, "instances", "inputs", 1), ours: 200, words: true},
	{body: `{"instances":[[6.8,2.8,4.8,1.4]],"inputs":[[5,3,1.5,0.2]]}`, ours: 200, words: true},
	{body: `{"instances":[[6.8,2.8,4.8,1.4]],"instances":[[5,3,1.5,0.2]]}`, ours: 200, words: true},
	{body: `{"instances":[["6.8","2.8","4.8","1.4"]]}`, ours: 200, words: true},
	{body: `{"instances":[[true,2,3,4]]}`, ours: 200, words: true},
	{body: `{"instances":[[6,2,4,1]]}`, ours: 200, words: true},
	{body: `{"instances":[[1e308,2,3,4]]}`, ours: 200, words: true},
	{body: `{"instances":[[6.8,2.8,4.8,123456789012345678901234567890]]}`, ours: 200, words: true},
	{body: `not json`, ours: 400},
	{body: ``, ours: 400, words: true},
	{body: `{"instances":[[1,2,`, ours: 400},
	{body: `{"instances":[]} x`, ours: 400},
	{body: "\xff\xfe{}", ours: 400},
	{body: `{"instances":[[NaN,2,3,4]]}`, ours: 400},
	{body: `{"instances":[[1e400,2,3,4]]}`, ours: 400},
	{body: `[1,2]`, ours: 500, words: true},
	{body: `"x"`, ours: 500, words: true},
	{body: `null`, ours: 500, words: true},
	{body: `3`, ours: 500, words: true},
	{body: `{}`, ours: 500, words: true},
	{body: `{"instances":{}}`, ours: 400, words: true},
	{body: `{"instances":3}`, ours: 400, words: true},
	{body: `{"instances":null}`, ours: 400, words: true},
	{body: `{"instances":"abc"}`, ours: 400, words: true},
	{body: `{"inputs":3}`, ours: 500, note: "Python's words for a number without a length"},
	{body: `{"instances":[]}`, ours: 500, note: "the array is not repeated"},
	{body: `{"instances":[1,2,3,4]}`, ours: 500, note: "the array is not repeated"},
	{body: `{"instances":[null]}`, ours: 500, note: "the array is not repeated"},
	{body: `{"instances":[[]]}`, ours: 500, words: true},
	{body: `{"instances":[[],[]]}`, ours: 500, words: true},
	{body: `{"instances":[[1,2,3]]}`, ours: 500, words: true},
	{body: `{"instances":[[[1,2,3,4]]]}`, ours: 500, words: true},
	{body: `{"instances":[[1,2,3,4],[1,2,3]]}`, ours: 500, words: true},
	{body: `{"instances":[[1,2,3,4],5]}`, ours: 500, words: true},
	{body: `{"instances":[[6.8,2.8,4.8,[1]]]}`, ours: 500, words: true},
	{body: `{"instances":["a"]}`, ours: 500, words: true},
	{body: `{"instances":[["a","b","c","d"]]}`, ours: 500, note: "numpy says np.str_('a')"},
	{body: `{"instances":[[null,2,3,4]]}`, ours: 500, words: true},
	{body: `{"instances":[{"a":[1],"b":[2],"c":[3],"d":[4]}]}`, ours: 501, kserve: 200, note: "no DataFrames here"},
}

// v2 are bodies of V2 inferences.
var v2 = []exchange{
	{body: tensor("[2,4]", "FP64", flat), ours: 200},
	{body: tensor("[2,4]", "FP32", flat), ours: 200},
	{body: tensor("[2,4]", "INT64", "[6,2,4,1,6,3,4,1]"), ours: 200},
	{body: tensor("[2,4]", "INT64", flat), ours: 200},
	{body: tensor("[2,4]", "FP64", "[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]"), ours: 200},
	{body: tensor("[-1,4]", "FP64", flat), ours: 200},
	{body: tensor("[2,4]", "fp64", flat), ours: 200, mlserver: 422},
	{body: tensor("[2,4]", "FP64", flat), contentType: "none", ours: 200, kserve: 400},
	{body: tensor("[2,4]", "FP64", flat), contentType: form, ours: 200, kserve: 400, mlserver: 422, note: "the stated difference: curl -d works"},
	{body: tensor("[2,4]", "FP64", flat), contentType: "application/octet-stream", ours: 400, mlserver: 422, words: true},
	{body: tensor("[2,3]", "FP64", flat), ours: 500, words: true},
	{body: tensor("[3,4]", "FP64", flat), ours: 500, words: true},
	{body: tensor("[]", "FP64", flat), ours: 500, words: true},
	{body: tensor("[8]", "FP64", flat), ours: 500, note: "the array is not repeated"},
	{body: tensor("[-1,-1]", "FP64", flat), ours: 500, words: true},
	{body: tensor("[1,2,4]", "FP64", flat), ours: 500, words: true},
	{body: tensor("[1,3]", "FP64", "[1,2,3]"), ours: 500, words: true},
	{body: tensor("[0,4]", "FP64", "[]"), ours: 500, words: true},
	{body: tensor("[2,4]", "FP64", `["a",1,2,3,4,5,6,7]`), ours: 500, words: true},
	{body: tensor("[1,4]", "FP64", `[null,1,2,3]`), ours: 500, words: true},
	{body: tensor("[1,4]", "FP99", `[0,1,2,3]`), ours: 500, mlserver: 422, words: true},
	{body: tensor("[1,4]", "FP16", `[0,1,2,3]`), ours: 400, mlserver: 200, words: true},
	{body: tensor("[1,4]", "INT8", `[0,1,2,3]`), ours: 501, kserve: 200, mlserver: 200, note: "three datatypes are served"},
	{body: `{"inputs":[]}`, ours: 500, mlserver: 400, words: true},
	{body: strings.Replace(tensor("[2,4]", "FP64", flat), "}]", `},{"name":"b","shape":[1],"datatype":"FP64","data":[1]}]`, 1), ours: 400, kserve: 200, note: "KServe drops the second tensor"},
	{body: strings.TrimSuffix(tensor("[2,4]", "FP64", flat), "}") + `,"outputs":[{"name":"nope"}]}`, ours: 400, words: true},
	{body: strings.TrimSuffix(tensor("[2,4]", "FP64", flat), "}") + `,"outputs":[{"name":"predict"}]}`, ours: 200, kserve: 400, note: "KServe names its output output-0"},
	{body: ``, ours: 422, words: true},
	{body: `x`, ours: 422},
	{body: `{}`, ours: 422, words: true},
	{body: `[]`, ours: 422, words: true},
	{body: `3`, ours: 422, words: true},
	{body: instances, ours: 422, words: true},
	{body: `{"id":42,"inputs":[]}`, ours: 422, words: true},
	{body: tensor("[2,4.5]", "FP64", flat), ours: 422, words: true},
	{body: tensor(`"x"`, "FP64", flat), ours: 422, words: true},
	{body: tensor("[2,4]", "FP64", "3"), ours: 422, mlserver: 500, words: true},
	{body: `{"inputs":[{"name":"input-0","datatype":"FP64","data":[1]}]}`, ours: 422, words: true},
	{body: `{"inputs":[{"shape":[1],"datatype":"FP64","data":[1]}]}`, ours: 422, words: true},
	{body: `{"inputs":[{}]}`, ours: 422, words: true},
}

// TestAnswersEqualTheRealServers sends the same requests to all three.
func TestAnswersEqualTheRealServers(t *testing.T) {
	all := startAll(t)
	for _, x := range exchanges {
		all.compare(t, x, true)
	}
	for _, x := range v1 {
		all.compare(t, x.to(predict), false)
	}
	for _, x := range v2 {
		all.compare(t, x.to(infer), true)
	}
	t.Run("random rows", func(t *testing.T) { all.compareRandom(t) })
}

// to makes a POST of JSON, unless the exchange says otherwise.
func (x exchange) to(path string) exchange {
	x.method, x.path = "POST", path
	switch x.contentType {
	case "":
		x.contentType = js
	case "none":
		x.contentType = ""
	}
	return x
}

func (s servers) compare(t *testing.T, x exchange, mlserver bool) {
	t.Helper()
	name := fmt.Sprintf("%s %s (%s) %.90s", x.method, x.path, x.contentType, x.body)
	ours := call(t, s.ours, x.method, x.path, x.contentType, x.body)
	kserve := call(t, s.kserve, x.method, x.path, x.contentType, x.body)
	status(t, name, "ours", ours, x.ours, 0)
	status(t, name, "KServe", kserve, x.ours, x.kserve)
	if x.words && ours.body != kserve.body {
		t.Errorf("%s:\nours   %s\nKServe %s", name, ours.body, kserve.body)
	}
	predicts := x.method == "POST"
	if predicts && ours.status == 200 && kserve.status == 200 {
		same(t, name, "KServe", ours, kserve)
	}
	if !mlserver {
		return
	}
	real := call(t, s.mlserver, x.method, x.path, x.contentType, x.body)
	status(t, name, "MLServer", real, x.ours, x.mlserver)
	if predicts && ours.status == 200 && real.status == 200 {
		same(t, name, "MLServer", ours, real)
		if x.body[0] == '{' && strings.Contains(x.body, `"id":"42"`) && ours.body != real.body {
			t.Errorf("%s:\nours     %s\nMLServer %s", name, ours.body, real.body)
		}
	}
}

func status(t *testing.T, name, who string, got answer, want, other int) {
	t.Helper()
	if other != 0 {
		want = other
	}
	if got.status != want {
		t.Errorf("%s: %s answered %d %.300s, want %d", name, who, got.status, got.body, want)
	}
}

func same(t *testing.T, name, who string, ours, theirs answer) {
	t.Helper()
	got, want := ours.predictions(t), theirs.predictions(t)
	if len(want) == 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, %s %v", name, got, who, want)
	}
}

// compareRandom sends 500 rows as V1 and as V2 in each datatype.
func (s servers) compareRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	rows := make([][]float64, 500)
	whole := make([][]int, len(rows))
	for i := range rows {
		for range 4 {
			x := r.Float64() * 8
			rows[i] = append(rows[i], x)
			whole[i] = append(whole[i], int(x))
		}
	}
	text := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	s.compare(t, exchange{body: `{"instances":` + text(rows) + `}`, ours: 200, words: true}.to(predict), false)
	for datatype, data := range map[string]string{"FP64": text(rows), "FP32": text(rows), "INT64": text(whole)} {
		s.compare(t, exchange{body: tensor("[500,4]", datatype, data), ours: 200}.to(infer), true)
	}
}
