package serving

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math"
	"mime"
	"net/http"
	"slices"
	"strings"
)

func (s *server) v2Server(*http.Request, []string) (any, error) {
	return struct {
		Name       string   `json:"name"`
		Version    string   `json:"version"`
		Extensions []string `json:"extensions"`
	}{"postern", "", []string{}}, nil
}

func (s *server) v2ServerReady(*http.Request, []string) (any, error) {
	if s.Model == nil {
		return nil, fail(http.StatusServiceUnavailable, message{fmt.Sprintf("Server is not ready. %v", s.Loaded)}, s.Loaded)
	}
	return map[string]bool{"ready": true}, nil
}

// v2Model is a model's metadata, without its tensors, as KServe and MLServer give it.
func (s *server) v2Model(_ *http.Request, vars []string) (any, error) {
	if err := s.model(vars[0]); err != nil {
		return nil, err
	}
	return struct {
		Name     string   `json:"name"`
		Versions []string `json:"versions"`
		Platform string   `json:"platform"`
		Inputs   []string `json:"inputs"`
		Outputs  []string `json:"outputs"`
	}{s.Name, nil, "", []string{}, []string{}}, nil
}

// outputName is the only output there is; MLServer names it so.
const outputName = "predict"

type output struct {
	Name       string            `json:"name"`
	Shape      []int             `json:"shape"`
	Datatype   string            `json:"datatype"`
	Parameters map[string]string `json:"parameters"`
	Data       []any             `json:"data"`
}

type inference struct {
	ModelName    string   `json:"model_name"`
	ModelVersion string   `json:"model_version,omitempty"`
	ID           string   `json:"id"`
	Parameters   struct{} `json:"parameters"`
	Outputs      []output `json:"outputs"`
}

// v2Infer is POST /v2/models/NAME/infer. The body's form is checked before the model's name, as
// FastAPI does.
func (s *server) v2Infer(r *http.Request, vars []string) (any, error) {
	if s.Model == nil {
		return nil, s.model(vars[0])
	}
	contentType := r.Header.Get("Content-Type")
	kind, _, _ := mime.ParseMediaType(contentType)
	isJSON := contentType == "" || kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json")
	if !isJSON && !isForm(contentType) {
		return nil, s.refuseBytes(r, vars[0])
	}
	body, err := s.body(r)
	if err != nil {
		return nil, err
	}
	req, err := parseInference(body)
	if err != nil {
		return nil, err
	}
	if err := s.model(vars[0]); err != nil {
		return nil, err
	}
	for _, name := range req.outputs {
		if name != outputName {
			return nil, failf(http.StatusBadRequest, "Unexpected inference output '%s' for model '%s'", name, s.Name)
		}
	}
	in, err := req.tensor()
	if err != nil {
		return nil, err
	}
	labels, err := s.predict(in)
	if err != nil {
		return nil, err
	}
	return s.inference(req.id, labels), nil
}

// refuseBytes answers a body that is not JSON: KServe would look for a binary tensor in it.
func (s *server) refuseBytes(r *http.Request, name string) error {
	if err := s.model(name); err != nil {
		return err
	}
	if r.Header.Get("Inference-Header-Content-Length") == "" {
		return failf(http.StatusBadRequest, "received byte inputs, but the'inference-header-content-length' header is missing.")
	}
	return failf(http.StatusNotImplemented, "binary tensors are not served here, want JSON")
}

func (s *server) inference(id string, labels []any) inference {
	datatype := map[string]string{"int64": "INT64", "serving.pyFloat": "FP64", "bool": "BOOL", "string": "BYTES"}[fmt.Sprintf("%T", labels[0])]
	if id == "" {
		id = newID()
	}
	return inference{
		ModelName: s.Name, ModelVersion: s.Version, ID: id,
		Outputs: []output{{
			Name: outputName, Shape: []int{len(labels), 1}, Datatype: datatype,
			Parameters: map[string]string{"content_type": "np"}, Data: labels,
		}},
	}
}

// newID is a random UUID, version 4.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// inferRequest is a V2 request whose form has been checked.
type inferRequest struct {
	id      string
	pandas  bool // parameters.content_type is pd
	inputs  []tensorInput
	outputs []string
}

type tensorInput struct {
	name, datatype string
	shape          []int
	data           json.RawMessage // a list
}

// datatypes are those of the protocol; only three are served.
var datatypes = []string{"BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"}

// tensor is the one input as an array of the shape it declares.
func (q inferRequest) tensor() (*array, error) {
	switch {
	case q.pandas:
		return nil, failf(http.StatusNotImplemented, "the content_type pd (a pandas DataFrame) is not served here, want np")
	case len(q.inputs) == 0:
		return nil, failf(http.StatusInternalServerError, "list index out of range") // Python's IndexError
	case len(q.inputs) > 1: // KServe would drop all but the first
		return nil, failf(http.StatusBadRequest, "a single input tensor is supported (%d were received)", len(q.inputs))
	}
	in := q.inputs[0]
	datatype := strings.ToUpper(in.datatype)
	switch {
	case datatype == "FP16":
		return nil, failf(http.StatusBadRequest, "Sending FP16 data via JSON is not supported. Please use the binary data format for input %s", in.name)
	case !slices.Contains(datatypes, datatype):
		return nil, failf(http.StatusInternalServerError, "invalid datatype None in the input") // KServe prints its lookup's result
	case datatype != "FP64" && datatype != "FP32" && datatype != "INT64":
		return nil, failf(http.StatusNotImplemented, "the datatype %s is not served here, want FP64, FP32 or INT64", datatype)
	}
	a, err := parseArray(in.data)
	if err != nil {
		return nil, err
	}
	if err := a.convert(datatype); err != nil {
		return nil, err
	}
	return a, a.reshape(in.shape)
}

// convert rounds the numbers as numpy does when it makes an array of the datatype.
func (a *array) convert(datatype string) error {
	for i, x := range a.data {
		switch {
		case datatype == "FP32":
			a.data[i] = float64(float32(x))
		case datatype != "INT64":
		case math.IsNaN(x):
			return failf(http.StatusInternalServerError, "cannot convert float NaN to integer")
		case math.IsInf(x, 0):
			return failf(http.StatusInternalServerError, "cannot convert float infinity to integer")
		case math.Abs(x) >= 1<<63:
			return failf(http.StatusInternalServerError, "Python int too large to convert to C long")
		default:
			a.data[i] = math.Trunc(x)
		}
	}
	return nil
}
