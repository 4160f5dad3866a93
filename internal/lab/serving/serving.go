// Package serving answers for a model as the predictor pod of an InferenceService does.
//
// New serves a model that was read in this process over KServe's V1 protocol and the REST half of
// the V2 (Open Inference) protocol; gRPC is not served. Statuses and error bodies are those of
// KServe's Python server, kserve 0.21.0 (kserve/errors.py, kserve/protocol/rest) with sklearnserver
// of github.com/kserve/kserve v0.20.0; V2 answers have the form of MLServer 1.7.1, which KServe
// prefers for scikit-learn models over V2. Both were run beside this package (e2e/serving).
//
// Known differences, all on purpose:
//   - a body with curl's form Content-Type is taken as JSON (KServe answers 500), and over V2 one
//     without a Content-Type too (MLServer takes it, KServe answers 400);
//   - a body has a size limit, and so has the count of its numbers (413);
//   - instances that are objects (a pandas DataFrame), V2's binary tensors and datatypes other than
//     FP64, FP32 and INT64 are refused with 501, a second V2 input with 400;
//   - what follows "Unrecognized request format: " is worded by this package, and an array of the
//     wrong dimensions is not repeated in the error;
//   - CloudEvents, the model repository extension and /metrics are not there.
//
// Proxy points at a real model server instead. Storage finds the file a storageUri names.
package serving

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
)

// Predictor is a model: *sklearn.Model.
type Predictor interface {
	// Predict gives a label per row, each an int64, float64, bool or string. Its error is the
	// caller's to read.
	Predict(rows [][]float64) ([]any, error)
	// Features is the number of values in a row.
	Features() int
	// Estimator names the model in errors about its input.
	Estimator() string
}

// DefaultMaxBody is the size of the largest request body when Config says nothing, in bytes.
const DefaultMaxBody = 8 << 20

// maxNumbers limits the numbers of one request: decoded they take four times the
// memory of the shortest text, and each row takes more.
const maxNumbers = 1 << 20

// Config describes the predictor of one InferenceService.
type Config struct {
	// Name is the model's, the InferenceService's name. The server knows one model.
	Name string
	// Model answers. Nil when it could not be loaded, or no runtime here can.
	Model Predictor
	// Loaded says why Model is nil. Every request for the model answers 503 with it.
	Loaded error
	// Version is echoed as model_version over V2; empty leaves it out.
	Version string
	// MaxBody limits request bodies; 0 means DefaultMaxBody.
	MaxBody int64
	// Log gets one record for each answer of 500 and above; nil drops them.
	Log *slog.Logger
}

// NoRuntime is the Loaded error of a model whose framework nothing here can serve.
func NoRuntime(framework string) error {
	return fmt.Errorf("no runtime here serves the framework %q, only sklearn: run its own server and give the InferenceService that server's URL", framework)
}

// New makes the handler of a predictor.
func New(c Config) http.Handler {
	if c.MaxBody <= 0 {
		c.MaxBody = DefaultMaxBody
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Model == nil && c.Loaded == nil {
		c.Loaded = errors.New("no model was loaded")
	}
	s := &server{Config: c}
	s.routes = s.table()
	return s
}

type server struct {
	Config
	routes []route
}

// route is a method and a path; "{}" stands for one segment, "{}:verb" for one that ends so.
type route struct {
	method, path string
	// answer gives a value to be written as JSON with status 200. vars are what "{}" stood for.
	answer func(r *http.Request, vars []string) (any, error)
}

func (s *server) table() []route {
	return []route{
		{"GET", "/", s.live(map[string]string{"status": "alive"})},
		{"GET", "/v1/models", s.list},
		{"GET", "/v1/models/{}", s.v1Ready},
		{"POST", "/v1/models/{}:predict", s.v1Predict},
		{"POST", "/v1/models/{}:explain", s.v1Explain},
		{"GET", "/v2", s.v2Server},
		{"GET", "/v2/health/live", s.live(map[string]bool{"live": true})},
		{"GET", "/v2/health/ready", s.v2ServerReady},
		{"GET", "/v2/models", s.list},
		{"GET", "/v2/models/{}", s.v2Model},
		{"GET", "/v2/models/{}/versions/{}", versioned},
		{"GET", "/v2/models/{}/ready", s.v1Ready},
		{"GET", "/v2/models/{}/versions/{}/ready", versioned},
		{"POST", "/v2/models/{}/infer", s.v2Infer},
		{"POST", "/v2/models/{}/versions/{}/infer", versioned},
	}
}

// match reports whether a path is the route's, and what its "{}" stand for.
func (rt route) match(path string) (vars []string, ok bool) {
	want, got := strings.Split(rt.path, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return nil, false
	}
	for i, w := range want {
		suffix, isVar := strings.CutPrefix(w, "{}")
		switch {
		case !isVar && w != got[i]:
			return nil, false
		case isVar:
			name, ok := strings.CutSuffix(got[i], suffix)
			if !ok || name == "" {
				return nil, false
			}
			vars = append(vars, name)
		}
	}
	return vars, true
}

// find picks the route of a request, or says why there is none as FastAPI does: the first route
// whose path matches names the allowed method, and a slash too many or too few is a redirect.
func (s *server) find(r *http.Request) (route, []string, error) {
	allow := ""
	for _, rt := range s.routes {
		vars, ok := rt.match(r.URL.Path)
		if ok && rt.method == r.Method {
			return rt, vars, nil
		}
		if ok && allow == "" {
			allow = rt.method
		}
	}
	if allow != "" {
		f := fail(http.StatusMethodNotAllowed, detail{"Method Not Allowed"}, nil)
		f.header = http.Header{"Allow": {allow}}
		return route{}, nil, f
	}
	other, hadSlash := strings.CutSuffix(r.URL.Path, "/")
	if !hadSlash {
		other += "/"
	}
	for _, rt := range s.routes {
		if _, ok := rt.match(other); ok && r.URL.Path != "/" && r.URL.Path != "" {
			f := fail(http.StatusTemporaryRedirect, nil, nil)
			target := *r.URL
			target.Path, target.RawPath, target.Scheme, target.Host = other, "", "", ""
			f.header = http.Header{"Location": {target.String()}}
			return route{}, nil, f
		}
	}
	return route{}, nil, fail(http.StatusNotFound, detail{"Not Found"}, nil)
}

// ServeHTTP is the one place that writes answers and errors, and logs.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt, vars, err := s.find(r)
	var answer any
	if err == nil {
		r.Body = http.MaxBytesReader(w, r.Body, s.MaxBody)
		answer, err = rt.answer(r, vars)
	}
	status := http.StatusOK
	if err != nil {
		var f *failure
		if !errors.As(err, &f) {
			f = fail(http.StatusInternalServerError, message{err.Error()}, err)
		}
		for name, values := range f.header {
			w.Header()[name] = values
		}
		if f.status >= http.StatusInternalServerError {
			s.Log.Warn("prediction failed", "model", s.Name, "path", r.URL.Path, "status", f.status, "error", f.Error())
		}
		status, answer = f.status, f.body
	}
	writeJSON(w, status, answer)
}

// writeJSON writes compact JSON as Python's servers do: no HTML escapes, no line end.
func writeJSON(w http.ResponseWriter, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		status = http.StatusInternalServerError
		text.Reset()
		text.WriteString(`{"error":"the answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The client may be gone; nothing is left to tell it then.
	_, _ = w.Write(bytes.TrimSuffix(text.Bytes(), []byte("\n")))
}

// failure is an answer other than 200: a body for the client, a cause for the log.
type failure struct {
	status int
	body   any
	header http.Header
	cause  error
}

// message is the form of errors KServe raises, detail of those FastAPI raises.
type (
	message struct {
		Error string `json:"error"`
	}
	detail struct {
		Detail any `json:"detail"`
	}
)

func fail(status int, body any, cause error) *failure {
	return &failure{status: status, body: body, cause: cause}
}

func failf(status int, format string, args ...any) *failure {
	return fail(status, message{fmt.Sprintf(format, args...)}, nil)
}

func (f *failure) Error() string {
	if f.cause != nil {
		return f.cause.Error()
	}
	return fmt.Sprint(f.body)
}

// model checks that the model asked for is this one, and ready.
func (s *server) model(name string) error {
	if name != s.Name {
		return failf(http.StatusNotFound, "Model with name %s does not exist.", name)
	}
	if s.Model == nil {
		return fail(http.StatusServiceUnavailable, message{fmt.Sprintf("Model with name %s is not ready. %v", name, s.Loaded)}, s.Loaded)
	}
	return nil
}

func (s *server) body(r *http.Request) ([]byte, error) {
	raw, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, failf(http.StatusRequestEntityTooLarge, "request body is larger than the limit of %d bytes", tooLarge.Limit)
	case err != nil:
		return nil, fail(http.StatusBadRequest, message{"the request body could not be read"}, err)
	}
	return raw, nil
}

// live answers the same whatever happened to the model: the process is there.
func (s *server) live(body any) func(*http.Request, []string) (any, error) {
	return func(*http.Request, []string) (any, error) { return body, nil }
}

func (s *server) list(*http.Request, []string) (any, error) {
	return map[string][]string{"models": {s.Name}}, nil
}

func versioned(*http.Request, []string) (any, error) {
	return nil, failf(http.StatusNotImplemented, "Model versioning not supported yet.")
}
