package serving

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
)

// The form of a V2 request is checked as FastAPI and pydantic check KServe's InferenceRequest
// (kserve/protocol/rest/v2_datamodels.py): all problems at once, with status 422.

// problem is one of pydantic's errors.
type problem struct {
	Type  string            `json:"type"`
	Loc   []any             `json:"loc"`
	Msg   string            `json:"msg"`
	Input json.RawMessage   `json:"input"`
	Ctx   map[string]string `json:"ctx,omitempty"`
}

// maxEcho is how large an input may be to be repeated in the error about it.
const maxEcho = 64 << 10

func newProblem(kind, msg string, input json.RawMessage, loc ...any) problem {
	if len(input) > maxEcho || len(input) == 0 {
		input = json.RawMessage("null")
	}
	return problem{Type: kind, Loc: append([]any{"body"}, loc...), Msg: msg, Input: input}
}

// form collects what is wrong with a request.
type form struct{ problems []problem }

func (f *form) add(kind, msg string, input json.RawMessage, loc ...any) {
	f.problems = append(f.problems, newProblem(kind, msg, input, append([]any{"InferenceRequest"}, loc...)...))
}

// parseInference reads the body of an inference request, or gives a failure with status 422.
func parseInference(body []byte) (inferRequest, error) {
	if len(body) == 0 {
		return inferRequest{}, unprocessable(newProblem("missing", "Field required", nil))
	}
	var syntax *json.SyntaxError
	if err := checkJSON(body); err != nil {
		var whole json.RawMessage
		at := int64(0)
		if errors.As(json.Unmarshal(body, &whole), &syntax) {
			at = max(syntax.Offset-1, 0)
		}
		p := newProblem("json_invalid", "JSON decode error", json.RawMessage("{}"), at)
		p.Ctx = map[string]string{"error": err.Error()}
		return inferRequest{}, unprocessable(p)
	}
	var f form
	q := f.request(body)
	if len(f.problems) > 0 {
		// The endpoint also takes plain bytes, which this body is not either.
		return inferRequest{}, unprocessable(append(f.problems, newProblem("bytes_type", "Input should be a valid bytes", body, "bytes"))...)
	}
	return q, nil
}

func unprocessable(problems ...problem) error {
	return fail(http.StatusUnprocessableEntity, detail{problems}, nil)
}

func (f *form) request(body json.RawMessage) (q inferRequest) {
	fields, ok := f.object(body)
	if !ok {
		return q
	}
	if raw := fields["id"]; !isNull(raw) {
		q.id, _ = f.text(raw, "id")
	}
	if parameters := f.optionalObject(fields["parameters"], "parameters"); parameters != nil {
		q.pandas = string(parameters["content_type"]) == `"pd"`
	}
	for i, raw := range f.list(fields, body, "inputs") {
		q.inputs = append(q.inputs, f.input(raw, i))
	}
	if !isNull(fields["outputs"]) {
		for i, raw := range f.list(fields, body, "outputs") {
			output, ok := f.object(raw, "outputs", i)
			if ok {
				name, _ := f.requiredText(output, raw, "name", "outputs", i)
				q.outputs = append(q.outputs, name)
			}
		}
	}
	return q
}

func (f *form) input(raw json.RawMessage, i int) (in tensorInput) {
	fields, ok := f.object(raw, "inputs", i)
	if !ok {
		return in
	}
	in.name, _ = f.requiredText(fields, raw, "name", "inputs", i)
	for j, item := range f.list(fields, raw, "shape", "inputs", i) {
		in.shape = append(in.shape, f.integer(item, "inputs", i, "shape", j))
	}
	in.datatype, _ = f.requiredText(fields, raw, "datatype", "inputs", i)
	f.optionalObject(fields["parameters"], "inputs", i, "parameters")
	in.data = fields["data"]
	f.isList(fields, raw, "data", "inputs", i)
	return in
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func (f *form) object(raw json.RawMessage, loc ...any) (map[string]json.RawMessage, bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		f.add("model_attributes_type", "Input should be a valid dictionary or object to extract fields from", raw, loc...)
		return nil, false
	}
	return fields, true
}

func (f *form) optionalObject(raw json.RawMessage, loc ...any) map[string]json.RawMessage {
	if isNull(raw) {
		return nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		f.add("dict_type", "Input should be a valid dictionary", raw, loc...)
	}
	return fields
}

// isList checks a required field of parent that must be a list.
func (f *form) isList(fields map[string]json.RawMessage, parent json.RawMessage, name string, loc ...any) bool {
	raw, has := fields[name]
	loc = append(append([]any{}, loc...), name)
	switch {
	case !has:
		f.add("missing", "Field required", parent, loc...)
	case raw[0] != '[':
		f.add("list_type", "Input should be a valid list", raw, loc...)
	default:
		return true
	}
	return false
}

// maxItems bounds the inputs, outputs and dimensions of a request.
const maxItems = 256

func (f *form) list(fields map[string]json.RawMessage, parent json.RawMessage, name string, loc ...any) (items []json.RawMessage) {
	if !f.isList(fields, parent, name, loc...) {
		return nil
	}
	raw := fields[name]
	dec := json.NewDecoder(bytes.NewReader(raw))
	_, err := dec.Token() // the opening bracket
	for err == nil && dec.More() && len(items) <= maxItems {
		var item json.RawMessage
		if err = dec.Decode(&item); err == nil {
			items = append(items, item)
		}
	}
	if err != nil || len(items) > maxItems {
		f.add("too_long", fmt.Sprintf("List should have at most %d items", maxItems), raw, append(append([]any{}, loc...), name)...)
		return nil
	}
	return items
}

func (f *form) requiredText(fields map[string]json.RawMessage, parent json.RawMessage, name string, loc ...any) (string, bool) {
	loc = append(append([]any{}, loc...), name)
	raw, has := fields[name]
	if !has {
		f.add("missing", "Field required", parent, loc...)
		return "", false
	}
	return f.text(raw, loc...)
}

func (f *form) text(raw json.RawMessage, loc ...any) (s string, ok bool) {
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		f.add("string_type", "Input should be a valid string", raw, loc...)
		return "", false
	}
	return s, true
}

// integer takes a whole number, also one written as 2.0 or "2".
func (f *form) integer(raw json.RawMessage, loc ...any) int {
	text, quoted := string(raw), raw[0] == '"'
	if quoted {
		text, _ = f.text(raw, loc...)
	}
	x, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil && quoted:
		f.add("int_parsing", "Input should be a valid integer, unable to parse string as an integer", raw, loc...)
	case err != nil:
		f.add("int_type", "Input should be a valid integer", raw, loc...)
	case x != math.Trunc(x):
		f.add("int_from_float", "Input should be a valid integer, got a number with a fractional part", raw, loc...)
	case math.Abs(x) > math.MaxInt32:
		f.add("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size", raw, loc...)
	default:
		return int(x)
	}
	return 0
}
