package serving

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"slices"
	"unicode/utf8"
)

// jsonTypes are the Content-Types whose body KServe's V1 reads as JSON, letter for letter
// (kserve/protocol/dataplane.py, JSON_HEADERS); none at all is one of them.
var jsonTypes = []string{"", "application/json", "application/cloudevents+json", "application/ld+json", "application/octet-stream"}

// isForm reports what `curl -d` sends, which the document's own call does.
func isForm(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == "application/x-www-form-urlencoded"
}

type ready struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
}

func (s *server) v1Ready(_ *http.Request, vars []string) (any, error) {
	if err := s.model(vars[0]); err != nil {
		return nil, err
	}
	return ready{s.Name, true}, nil
}

func (s *server) v1Explain(_ *http.Request, vars []string) (any, error) {
	if err := s.model(vars[0]); err != nil {
		return nil, err
	}
	return nil, failf(http.StatusNotImplemented, "Could not find explainer_host.")
}

// v1Predict is POST /v1/models/NAME:predict. What a model cannot digest is 500 in KServe
// (InferenceError), only bad JSON and instances that are no list are 400.
func (s *server) v1Predict(r *http.Request, vars []string) (any, error) {
	if err := s.model(vars[0]); err != nil {
		return nil, err
	}
	contentType := r.Header.Get("Content-Type")
	if !slices.Contains(jsonTypes, contentType) && !isForm(contentType) {
		return nil, errScalar
	}
	body, err := s.body(r)
	if err != nil {
		return nil, err
	}
	instances, err := v1Instances(body)
	if err != nil {
		return nil, err
	}
	in, err := parseArray(instances)
	if err != nil {
		return nil, err
	}
	labels, err := s.predict(in)
	if err != nil {
		return nil, err
	}
	return map[string][]any{"predictions": labels}, nil
}

// v1Instances picks the rows out of the body: "inputs" before "instances".
func v1Instances(body []byte) (json.RawMessage, error) {
	if err := checkJSON(body); err != nil {
		return nil, failf(http.StatusBadRequest, "Unrecognized request format: %v", err)
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil || fields == nil {
		return nil, errScalar // some other JSON
	}
	instances, ok := fields["instances"]
	if ok && instances[0] != '[' {
		return nil, failf(http.StatusBadRequest, `Expected "instances" to be a list`)
	}
	if inputs, has := fields["inputs"]; has {
		if inputs[0] != '[' {
			return nil, failf(http.StatusInternalServerError, `Expected "inputs" to be a list`)
		}
		return inputs, nil
	}
	if !ok {
		return nil, failf(http.StatusInternalServerError, "'instances'") // Python's KeyError
	}
	return instances, nil
}

// emptyDocument is orjson's text.
const emptyDocument = "Input is a zero-length, empty document: line 1 column 1 (char 0)"

// checkJSON accepts what orjson does, and words its errors.
func checkJSON(body []byte) error {
	if len(body) == 0 {
		return errors.New(emptyDocument)
	}
	if !utf8.Valid(body) {
		return errors.New("str is not valid UTF-8")
	}
	if json.Valid(body) { // makes no copy
		return nil
	}
	var whole json.RawMessage
	err := json.Unmarshal(body, &whole)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return locate(body, syntax)
	}
	return err
}

// predict checks the dimensions and asks the model.
func (s *server) predict(in *array) ([]any, error) {
	rows, err := in.rows(s.Model.Estimator(), s.Model.Features())
	if err != nil {
		return nil, err
	}
	labels, err := s.Model.Predict(rows)
	if err != nil {
		return nil, fail(http.StatusInternalServerError, message{err.Error()}, err)
	}
	for i, l := range labels {
		if f, ok := l.(float64); ok {
			labels[i] = pyFloat(f)
		}
	}
	return labels, nil
}
