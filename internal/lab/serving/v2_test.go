package serving_test

import (
	"fmt"
	"strings"
	"testing"
)

const flat = "6.8,2.8,4.8,1.4,6.0,3.4,4.5,1.6"

// input is a V2 body with one tensor.
func input(shape, datatype, data string) string {
	return fmt.Sprintf(`{"id":"42","inputs":[{"name":"input-0","shape":%s,"datatype":"%s","data":%s}]}`, shape, datatype, data)
}

// pydantic is the body of a 422 as KServe gives it: one problem, then the alternative it is not either.
func pydantic(kind, loc, msg, in, body string) string {
	return fmt.Sprintf(`{"detail":[{"type":"%s","loc":["body","InferenceRequest"%s],"msg":"%s","input":%s},{"type":"bytes_type","loc":["body","bytes"],"msg":"Input should be a valid bytes","input":%s}]}`, kind, loc, msg, in, body)
}

// v2Answer is the answer to a request with the id 42.
func v2Answer(data string) string {
	return fmt.Sprintf(`{"model_name":"sklearn-iris","id":"42","parameters":{},"outputs":[{"name":"predict","shape":[2,1],"datatype":"INT64","parameters":{"content_type":"np"},"data":%s}]}`, data)
}

var good = input("[2,4]", "FP64", "["+flat+"]")

func TestPredictsOverV2(t *testing.T) {
	checkAll(t, []exchange{
		{"GET", "/v2", "", "", 200, `{"name":"postern","version":"","extensions":[]}`},
		{"GET", "/v2/health/live", "", "", 200, `{"live":true}`},
		{"GET", "/v2/health/ready", "", "", 200, `{"ready":true}`},
		{"GET", "/v2/models", "", "", 200, `{"models":["sklearn-iris"]}`},
		{"GET", "/v2/models/sklearn-iris", "", "", 200, `{"name":"sklearn-iris","versions":null,"platform":"","inputs":[],"outputs":[]}`},
		{"GET", "/v2/models/nope", "", "", 404, `{"error":"Model with name nope does not exist."}`},
		{"GET", "/v2/models/sklearn-iris/ready", "", "", 200, `{"name":"sklearn-iris","ready":true}`},
		{"GET", "/v2/models/nope/ready", "", "", 404, `{"error":"Model with name nope does not exist."}`},
		{"GET", "/v2/models/sklearn-iris/versions/v1", "", "", 501, `{"error":"Model versioning not supported yet."}`},
		{"POST", "/v2/models/sklearn-iris/versions/v1/infer", js, good, 501, `{"error":"Model versioning not supported yet."}`},
		{"POST", "/v2/models/nope/infer", js, good, 404, `{"error":"Model with name nope does not exist."}`},

		{"POST", infer, js, good, 200, v2Answer("[1,1]")},
		{"POST", infer, "application/json; charset=utf-8", good, 200, v2Answer("[1,1]")},
		{"POST", infer, "", good, 200, v2Answer("[1,1]")},
		{"POST", infer, form, good, 200, v2Answer("[1,1]")},
		{"POST", infer, js, input("[2,4]", "FP32", "["+flat+"]"), 200, v2Answer("[1,1]")},
		{"POST", infer, js, input("[2,4]", "fp64", "["+flat+"]"), 200, v2Answer("[1,1]")},
		{"POST", infer, js, input("[2,4]", "INT64", "[6,2,4,1,6,3,4,1]"), 200, v2Answer("[1,1]")},
		{"POST", infer, js, input("[2,4]", "INT64", "["+flat+"]"), 200, v2Answer("[1,1]")},
		{"POST", infer, js, input("[2,4]", "FP64", "[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]"), 200, v2Answer("[1,1]")},
		{"POST", infer, js, input("[-1,4]", "FP64", "["+flat+"]"), 200, v2Answer("[1,1]")},
		{"POST", infer, js, input(`[2.0,"4"]`, "FP64", "["+flat+"]"), 200, v2Answer("[1,1]")},
		{"POST", infer, js, strings.TrimSuffix(good, "}") + `,"outputs":[{"name":"predict"}]}`, 200, v2Answer("[1,1]")},
	})
}

func TestRefusesOverV2(t *testing.T) {
	checkAll(t, []exchange{
		{"POST", infer, js, strings.TrimSuffix(good, "}") + `,"outputs":[{"name":"nope"}]}`, 400, `{"error":"Unexpected inference output 'nope' for model 'sklearn-iris'"}`},
		{"POST", infer, "application/octet-stream", good, 400, `{"error":"received byte inputs, but the'inference-header-content-length' header is missing."}`},
		{"POST", infer, js, input("[2,3]", "FP64", "["+flat+"]"), 500, `{"error":"cannot reshape array of size 8 into shape (2,3)"}`},
		{"POST", infer, js, input("[3,4]", "FP64", "["+flat+"]"), 500, `{"error":"cannot reshape array of size 8 into shape (3,4)"}`},
		{"POST", infer, js, input("[]", "FP64", "["+flat+"]"), 500, `{"error":"cannot reshape array of size 8 into shape ()"}`},
		{"POST", infer, js, input("[-1,-1]", "FP64", "["+flat+"]"), 500, `{"error":"can only specify one unknown dimension"}`},
		{"POST", infer, js, input("[0,-1]", "FP64", "["+flat+"]"), 500, `{"error":"cannot reshape array of size 8 into shape (0,-1)"}`},
		{"POST", infer, js, input("[2147483647,2147483647,2147483647]", "FP64", "[1]"), 500, `{"error":"cannot reshape array of size 1 into shape (2147483647,2147483647,2147483647)"}`},
		{"POST", infer, js, input("[2147483647,0]", "FP64", "[]"), 500, `{"error":"Found array with 0 feature(s) (shape=(2147483647, 0)) while a minimum of 1 is required by SVC."}`},
		{"POST", infer, js, input("[0,4]", "FP64", "[]"), 500, `{"error":"Found array with 0 sample(s) (shape=(0, 4)) while a minimum of 1 is required by SVC."}`},
		{"POST", infer, js, input("[8]", "FP64", "["+flat+"]"), 500, oneD},
		{"POST", infer, js, input("[1,2,4]", "FP64", "["+flat+"]"), 500, `{"error":"Found array with dim 3, while dim <= 2 is required by SVC."}`},
		{"POST", infer, js, input("[1,3]", "FP64", "[1,2,3]"), 500, `{"error":"X has 3 features, but SVC is expecting 4 features as input."}`},
		{"POST", infer, js, input("[1,4]", "FP64", `["a",1,2,3]`), 500, `{"error":"could not convert string to float: 'a'"}`},
		{"POST", infer, js, input("[1,4]", "FP64", `[null,1,2,3]`), 500, `{"error":"Input X contains NaN.\n...`},
		{"POST", infer, js, input("[1,4]", "INT64", `[null,1,2,3]`), 500, `{"error":"cannot convert float NaN to integer"}`},
		{"POST", infer, js, input("[1,4]", "INT64", `[1e30,1,2,3]`), 500, `{"error":"Python int too large to convert to C long"}`},
		{"POST", infer, js, input("[1,4]", "FP99", `[0,1,2,3]`), 500, `{"error":"invalid datatype None in the input"}`},
		{"POST", infer, js, input("[1,4]", "FP16", `[0,1,2,3]`), 400, `{"error":"Sending FP16 data via JSON is not supported. Please use the binary data format for input input-0"}`},
		{"POST", infer, js, input("[1,4]", "INT8", `[0,1,2,3]`), 501, `{"error":"the datatype INT8 is not served here, want FP64, FP32 or INT64"}`},
		{"POST", infer, js, `{"inputs":[]}`, 500, `{"error":"list index out of range"}`},
		{"POST", infer, js, strings.Replace(good, "[{", `[{"name":"b","shape":[1],"datatype":"FP64","data":[1]},{`, 1), 400, `{"error":"a single input tensor is supported (2 were received)"}`},
		{"POST", infer, js, strings.TrimSuffix(good, "}") + `,"parameters":{"content_type":"pd"}}`, 501, `{"error":"the content_type pd (a pandas DataFrame) is not served here, want np"}`},
	})
}

func TestRefusesTheFormOverV2(t *testing.T) {
	missing := `{"name":"input-0","datatype":"FP64","data":[1]}`
	fraction := input("[2,4.5]", "FP64", "[1]")
	checkAll(t, []exchange{
		{"POST", infer, js, "", 422, `{"detail":[{"type":"missing","loc":["body"],"msg":"Field required","input":null}]}`},
		{"POST", infer, js, "x", 422, `{"detail":[{"type":"json_invalid","loc":["body",0],"msg":"JSON decode error","input":{},"ctx":{"error":"...`},
		{"POST", infer, js, "{}", 422, pydantic("missing", `,"inputs"`, "Field required", "{}", "{}")},
		{"POST", infer, js, "[]", 422, pydantic("model_attributes_type", "", "Input should be a valid dictionary or object to extract fields from", "[]", "[]")},
		{"POST", infer, js, instances, 422, pydantic("missing", `,"inputs"`, "Field required", instances, instances)},
		{"POST", infer, js, `{"id":42,"inputs":[]}`, 422, pydantic("string_type", `,"id"`, "Input should be a valid string", "42", `{"id":42,"inputs":[]}`)},
		{"POST", infer, js, `{"inputs":[` + missing + `]}`, 422, pydantic("missing", `,"inputs",0,"shape"`, "Field required", missing, `{"inputs":[`+missing+`]}`)},
		{"POST", infer, js, fraction, 422, pydantic("int_from_float", `,"inputs",0,"shape",1`, "Input should be a valid integer, got a number with a fractional part", "4.5", fraction)},
		{"POST", infer, js, input(`"x"`, "FP64", "[1]"), 422, pydantic("list_type", `,"inputs",0,"shape"`, "Input should be a valid list", `"x"`, input(`"x"`, "FP64", "[1]"))},
		{"POST", infer, js, input(`[1]`, "FP64", "3"), 422, pydantic("list_type", `,"inputs",0,"data"`, "Input should be a valid list", `3`, input(`[1]`, "FP64", "3"))},
		{"POST", infer, js, `{"inputs":[` + strings.Repeat("0,", 300) + `0]}`, 422, `{"detail":[{"type":"too_long","loc":["body","InferenceRequest","inputs"],...`},
	})
}
