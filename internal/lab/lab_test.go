package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/lab/serving"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
	"postern.dev/postern/internal/translate"
)

// storyConfig is a system of the bundled story in Postern's state.
func storyConfig(t *testing.T) Config {
	t.Helper()
	translated, err := fs.Sub(story.FS, "translated")
	if err != nil {
		t.Fatal(err)
	}
	models, remove, err := BundledModels(story.FS, "models", "gs://kfserving-examples/models")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	states := story.States()
	return Config{
		Load:      func() (*manifest.Set, error) { return manifest.FS(story.FS, states[3].Dirs...) },
		Translate: translate.Options{Bundled: translated, Dir: t.TempDir()},
		Storage:   serving.Storage{Mappings: []serving.Mapping{models}},
		Ports:     map[string]int{"kubeflow/kubeflow-gateway": 0, "knative-serving/knative-local-gateway": 0},
	}
}

func start(t *testing.T, c Config) *System {
	t.Helper()
	s, err := Start(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

type call struct {
	pod, method, url, host, body string
	header                       http.Header
}

// do sends a call from a pod ("namespace/name") or from outside.
func (s *System) do(t *testing.T, c call) (int, string, http.Header) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	if c.pod != "" {
		ns, name, _ := strings.Cut(c.pod, "/")
		proxy, err := s.PodProxy(ns, name)
		if err != nil {
			t.Fatal(err)
		}
		transport.Proxy = http.ProxyURL(proxy)
	}
	if c.method == "" {
		c.method = http.MethodGet
	}
	req, err := http.NewRequest(c.method, c.url, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = c.host
	for k, v := range c.header {
		req.Header[k] = v
	}
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

const (
	iris      = "http://sklearn-iris.kserve-test.svc.cluster.local"
	instances = `{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}`
)

// The document's call, as curl sends it.
func TestTheDocumentsCall(t *testing.T) {
	s := start(t, storyConfig(t))
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	for _, url := range []string{iris, "http://sklearn-iris.kserve-test", "http://sklearn-iris.kserve-test.svc:80"} {
		status, body, _ := s.do(t, call{pod: "default/myapp-pod", method: "POST", url: url + "/v1/models/sklearn-iris:predict", body: instances, header: form})
		if url == iris && (status != 200 || body != `{"predictions":[1,1]}`) {
			t.Errorf("%s: got %d %s", url, status, body)
		}
		if url != iris && status == 200 {
			t.Errorf("%s: got 200: KServe's VirtualService does not know that host", url)
		}
	}
	status, body, _ := s.do(t, call{pod: "default/myapp-pod", method: "POST", url: iris + "/v2/models/sklearn-iris/infer",
		body: `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP64","data":[6.8,2.8,4.8,1.4]}]}`, header: http.Header{"Content-Type": {"application/json"}}})
	if status != 200 || !strings.Contains(body, `"data":[1]`) {
		t.Errorf("V2: got %d %s", status, body)
	}
}

func TestWhoGetsThroughInPosternsState(t *testing.T) {
	var last http.Header
	c := storyConfig(t)
	c.Observe = func(pod *topology.Pod, r *http.Request) {
		if pod.Labels["app"] == "orders" || pod.Labels["serving.kserve.io/inferenceservice"] != "" {
			last = r.Header.Clone()
		}
	}
	s := start(t, c)
	outside, local := s.Doors()[0].URL, s.Doors()[1].URL
	model := "/v1/models/sklearn-iris:predict"
	json := http.Header{"Content-Type": {"application/json"}}
	with := func(kv ...string) http.Header {
		h := json.Clone()
		for i := 0; i < len(kv); i += 2 {
			h.Add(kv[i], kv[i+1])
		}
		return h
	}
	for _, test := range []struct {
		name string
		call call
		want int
	}{
		{"a pod", call{pod: "default/myapp-pod", method: "POST", url: iris + model, body: instances, header: json}, 200},
		{"a pod, to another tenant", call{pod: "default/myapp-pod", method: "POST", url: "http://fraud.team-b.svc.cluster.local/v1/models/fraud:predict", body: instances, header: json}, 401},
		{"a pod, with a bearer token nobody can judge", call{pod: "default/myapp-pod", method: "POST", url: iris + model, body: instances, header: with("Authorization", "Bearer x")}, 401},
		{"outside, local door, the in-cluster name", call{method: "POST", url: local + model, host: "sklearn-iris.kserve-test.svc.cluster.local", body: instances, header: json}, 401},
		{"outside, local door, the second hop's name", call{method: "POST", url: local + model, host: "sklearn-iris-predictor.kserve-test.svc.cluster.local", body: instances, header: json}, 401},
		{"outside, forged X-Forwarded-For of a pod", call{method: "POST", url: local + model, host: "sklearn-iris.kserve-test.svc.cluster.local", body: instances, header: with("X-Forwarded-For", "10.244.150.239")}, 401},
		{"outside, a stolen passport", call{method: "POST", url: outside + model, host: "sklearn-iris.kserve-test.example.com", body: instances, header: with("X-Postern-Passport", "x.y.z")}, 401},
		// The virtual host is found in any case; KServe's authority regex is not: no route.
		{"outside, mixed case", call{method: "POST", url: outside + model, host: "SKLEARN-iris.kserve-test.EXAMPLE.com", body: instances, header: json}, 404},
		{"outside, with a port", call{method: "POST", url: outside + model, host: "sklearn-iris.kserve-test.example.com:80", body: instances, header: json}, 401},
		{"outside, OPTIONS", call{method: "OPTIONS", url: outside + model, host: "sklearn-iris.kserve-test.example.com", header: json}, 401},
		{"outside, the backend team, bound for pods only", call{url: outside + "/", host: "orders.example.com", header: json}, 401},
		{"outside, the dashboard", call{url: outside + "/", header: json}, 302},
		{"outside, a host nobody has, the path of a model", call{method: "POST", url: outside + model, host: "x.example.org", body: instances, header: json}, 302},
		{"Dex is reachable", call{url: outside + "/dex/.well-known/openid-configuration"}, 200},
	} {
		last = nil
		status, body, header := s.do(t, test.call)
		if status != test.want {
			t.Errorf("%s: got %d %s, want %d", test.name, status, body, test.want)
		}
		if status == 401 && (header.Get("WWW-Authenticate") == "" || !strings.Contains(header.Get("Content-Type"), "json") || last != nil) {
			t.Errorf("%s: got headers %v and the backend saw %v", test.name, header, last)
		}
	}
}

func TestForgedHeadersAreGoneAtTheBackend(t *testing.T) {
	var last http.Header
	c := storyConfig(t)
	c.Observe = func(pod *topology.Pod, r *http.Request) {
		if pod.Labels["serving.kserve.io/inferenceservice"] != "" {
			last = r.Header.Clone()
		}
	}
	s := start(t, c)
	status, body, _ := s.do(t, call{pod: "default/myapp-pod", method: "POST", url: iris + "/v1/models/sklearn-iris:predict", body: instances, header: http.Header{
		"Content-Type": {"application/json"}, "Kubeflow-Userid": {"admin@example.com"}, "Kubeflow_userid": {"admin@example.com"}, "X-Auth-Request-Email": {"a@b"},
		"X-Forwarded-User": {"a"}, "Kubeflow-Groups": {"admins"}, "X-Postern-Caller": {"system:admin"}, "Cookie": {"theme=dark; authservice_session=stale"},
	}})
	if status != 200 {
		t.Fatalf("got %d %s", status, body)
	}
	for _, name := range []string{"Kubeflow-Userid", "Kubeflow_userid", "X-Auth-Request-Email", "X-Forwarded-User", "Kubeflow-Groups"} {
		if v, ok := last[name]; ok {
			t.Errorf("%s: %q reached the model", name, v)
		}
	}
	if last.Get("X-Postern-Caller") != "postern:pod:default:default" || last.Get("Cookie") != "theme=dark" {
		t.Errorf("got caller %q and cookie %q", last.Get("X-Postern-Caller"), last.Get("Cookie"))
	}
}

// sending is what a browser with these cookies sends.
func sending(cookies []*http.Cookie) http.Header {
	var all []string
	for _, c := range cookies {
		all = append(all, c.Name+"="+c.Value)
	}
	return http.Header{"Cookie": {strings.Join(all, "; ")}}
}

func TestPeople(t *testing.T) {
	s := start(t, storyConfig(t))
	outside := s.Doors()[0].URL
	cookies, err := LogIn(context.Background(), outside, "user@example.com", "12341234")
	if err != nil {
		t.Fatal(err)
	}
	session := sending(cookies)
	for _, c := range cookies {
		if c.Secure || strings.HasPrefix(c.Name, "__Host-") {
			t.Errorf("cookie %s cannot be set on plain http", c.Name)
		}
	}
	if _, err := LogIn(context.Background(), outside, "user@example.com", "wrong"); err == nil {
		t.Error("a wrong password logs in")
	}
	if status, body, _ := s.do(t, call{url: outside + "/jupyter/notebooks", header: session}); status != 503 || !strings.Contains(body, "jupyter-web-app") {
		t.Errorf("jupyter: got %d %s, want 503 by name", status, body)
	}
	for _, test := range []struct {
		name   string
		header http.Header
		want   int
	}{
		{"a session calls the owner's model", http.Header{}, 200},
		{"as the same site's page", http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {outside}}, 200},
		{"as another site's page", http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.example"}}, 403},
	} {
		header := http.Header{"Cookie": session["Cookie"], "Content-Type": {"application/json"}}
		for k, v := range test.header {
			header[k] = v
		}
		status, body, _ := s.do(t, call{method: "POST", url: outside + "/v1/models/sklearn-iris:predict", host: "sklearn-iris.kserve-test.example.com", body: instances, header: header})
		if status != test.want {
			t.Errorf("%s: got %d %s, want %d", test.name, status, body, test.want)
		}
	}
	if status, _, _ := s.do(t, call{method: "POST", url: outside + "/v1/models/fraud:predict", host: "fraud.team-b.example.com", body: instances, header: session}); status != 200 {
		t.Errorf("a model nobody is bound to stays behind login: got %d with a session, want 200", status)
	}
	status, _, _ := s.do(t, call{method: "POST", url: outside + "/authservice/logout", header: http.Header{"Cookie": session["Cookie"], "Sec-Fetch-Site": {"same-origin"}}})
	if status >= 400 {
		t.Errorf("logout: got %d", status)
	}
	if status, _, _ := s.do(t, call{url: outside + "/", header: session}); status != 302 {
		t.Errorf("after logging out the session opens the dashboard: got %d, want 302", status)
	}
}

func TestAModelMayBeServedElsewhere(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "served elsewhere: %s", r.URL.Path)
	}))
	defer elsewhere.Close()
	c := storyConfig(t)
	load := c.Load
	c.Load = func() (*manifest.Set, error) {
		set, err := load()
		if err == nil {
			o, _, _ := manifest.Find[*manifest.InferenceService](set, "kserve-test", "sklearn-iris")
			o.Meta.Annotations = map[string]string{ServerAnnotation: elsewhere.URL}
		}
		return set, err
	}
	s := start(t, c)
	if status, body, _ := s.do(t, call{pod: "default/myapp-pod", url: iris + "/v1/models"}); status != 200 || body != "served elsewhere: /v1/models" {
		t.Errorf("got %d %s", status, body)
	}
}

// onDisk copies the story's manifests to files that a test may change.
func onDisk(t *testing.T) (dirs []string) {
	t.Helper()
	root := t.TempDir()
	for _, d := range story.States()[3].Dirs {
		sub, err := fs.Sub(story.FS, d)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(root, d)
		if err := os.CopyFS(dir, sub); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

func TestReload(t *testing.T) {
	c := storyConfig(t)
	dirs := onDisk(t)
	c.Load = func() (*manifest.Set, error) { return manifest.Files(dirs, nil) }
	s := start(t, c)
	pod := call{pod: "default/myapp-pod", method: "POST", url: iris + "/v1/models/sklearn-iris:predict", body: instances, header: http.Header{"Content-Type": {"application/json"}}}
	want := func(when string, status int) {
		t.Helper()
		if got, body, _ := s.do(t, pod); got != status {
			t.Errorf("%s: got %d %s, want %d", when, got, body, status)
		}
	}
	want("before", 200)
	session, err := LogIn(context.Background(), s.Doors()[0].URL, "user@example.com", "12341234")
	if err != nil {
		t.Fatal(err)
	}

	file := filepath.Join(dirs[1], "access.yaml")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, strings.Replace(string(good), "kind: RoleBinding", "kind: RoleBinding\nsubject: []", 1))
	err = s.Reload(context.Background())
	if err == nil || !strings.Contains(err.Error(), "access.yaml:") || !strings.Contains(err.Error(), `subject: unknown field, did you mean "subjects"?`) {
		t.Errorf("got error %v, want one that names file, line and field", err)
	}
	want("after a bad change", 200)

	write(t, file, strings.Replace(string(good), "name: postern:pods", "name: postern:pods:elsewhere", 1))
	if err := s.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	want("after the binding went to other pods", 401)
	cookie := sending(session)
	if status, body, _ := s.do(t, call{url: s.Doors()[0].URL + "/", header: cookie}); status != 200 || !strings.Contains(body, "user@example.com") {
		t.Errorf("a session did not survive the change: got %d", status)
	}

	write(t, file, string(good))
	if err := s.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	want("after the binding came back", 200)
}

// swapped is committed translations of which one file may be replaced.
type swapped struct {
	fs.FS
	name string
	data []byte // nil: as committed
}

func (s *swapped) Open(name string) (fs.File, error) {
	if name == s.name && s.data != nil {
		return fstest.MapFS{name: {Data: s.data}}.Open(name)
	}
	return s.FS.Open(name)
}

// A translation that Envoy would refuse is an error that says where, and what was in
// force stays in force.
func TestReloadOfWhatEnvoyRefuses(t *testing.T) {
	c := storyConfig(t)
	files := &swapped{FS: c.Translate.Bundled, name: "4-postern.json"}
	c.Translate.Bundled = files
	s := start(t, c)
	good, err := fs.ReadFile(files, files.name)
	if err != nil {
		t.Fatal(err)
	}
	pod := call{pod: "default/myapp-pod", method: "POST", url: iris + "/v1/models/sklearn-iris:predict", body: instances, header: http.Header{"Content-Type": {"application/json"}}}
	for _, tt := range []struct{ old, new, want string }{
		{`"prefix": "/"`, `"dynamicMetadata": []`, ": invalid Route.Match: RouteMatch.PathSpecifier: value is required"},
		{`"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"`, ``, "no typed_config"},
	} {
		files.data = bytes.Replace(good, []byte(tt.old), []byte(tt.new), 1)
		if bytes.Equal(files.data, good) {
			t.Fatalf("%s is not in %s", tt.old, files.name)
		}
		if err := s.Reload(context.Background()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s for %s: got %v, want an error with %q", tt.new, tt.old, err, tt.want)
		}
		if status, body, _ := s.do(t, pod); status != 200 {
			t.Errorf("%s for %s: got %d %s afterwards, want 200", tt.new, tt.old, status, body)
		}
	}
	files.data = nil
	if err := s.Reload(context.Background()); err != nil {
		t.Error(err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWatchSeesAnEditorsReplacement(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write(t, file, "a")
	ctx, cancel := context.WithCancel(context.Background())
	changed, done := make(chan struct{}, 8), make(chan error, 1)
	go func() { done <- Watch(ctx, []string{file}, func() { changed <- struct{}{} }) }()
	deadline := time.After(20 * time.Second)
	for seen := false; !seen; {
		write(t, filepath.Join(dir, "tmp"), strconv.FormatInt(time.Now().UnixNano(), 10))
		if err := os.Rename(filepath.Join(dir, "tmp"), file); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
			seen = true
		case <-time.After(time.Second):
		case <-deadline:
			t.Fatal("the change was not seen")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPorts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	c := storyConfig(t)
	c.Ports["kubeflow/kubeflow-gateway"] = port
	if s, err := Start(context.Background(), c); err == nil {
		s.Close(context.Background())
		t.Error("a port asked for that is taken: got no error")
	}
	d := &Door{Gateway: "x", Port: uint16(port)}
	s := &System{config: Config{Listen: "127.0.0.1"}}
	if err := s.open(d); err != nil {
		t.Fatal(err)
	}
	defer d.close(context.Background())
	if d.Moved != port {
		t.Errorf("a default port that is taken: got Moved %d, want %d", d.Moved, port)
	}
}

// Each bad input is an error that names its place, or a note and a model that
// says so; the rest of the system runs.
func TestBadInput(t *testing.T) {
	models := t.TempDir()
	write(t, filepath.Join(models, "truncated", "model.joblib"), "\x80\x04\x95")
	big := filepath.Join(models, "big", "model.joblib")
	write(t, big, "x")
	if err := os.Truncate(big, 1<<30); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(models, "hostile", "model.pkl"), "cos\nsystem\n(S'touch /tmp/owned'\ntR.")
	for _, test := range []struct{ name, uri, want string }{
		{"unmapped", "s3://nowhere/model", "--storage"},
		{"missing", "file://" + models + "/none", "none"},
		{"truncated", "file://" + models + "/truncated", "truncated"},
		{"big", "file://" + models + "/big", "big"},
		{"hostile", "file://" + models + "/hostile", "os.system"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := storyConfig(t)
			load := c.Load
			c.Load = func() (*manifest.Set, error) {
				set, err := load()
				if err != nil {
					return nil, err
				}
				_, isvc, _ := manifest.Find[*manifest.InferenceService](set, "kserve-test", "sklearn-iris")
				_, spec := isvc.Spec.Predictor.Framework()
				spec.StorageURI = &test.uri
				return set, nil
			}
			s := start(t, c)
			if notes := strings.Join(s.Notes(), "\n"); !strings.Contains(notes, "models.yaml") || !strings.Contains(notes, test.want) {
				t.Errorf("got notes %s, want one that names the manifest and %q", notes, test.want)
			}
			status, body, _ := s.do(t, call{pod: "default/myapp-pod", method: "POST", url: iris + "/v1/models/sklearn-iris:predict", body: instances})
			if status != 503 || !strings.Contains(body, `"error"`) {
				t.Errorf("got %d %s, want 503 with a JSON error", status, body)
			}
			if status, _, _ := s.do(t, call{pod: "default/myapp-pod", url: "http://orders-api.backend.svc.cluster.local/"}); status != 200 {
				t.Errorf("the backend team's application: got %d, want 200", status)
			}
		})
	}
}
