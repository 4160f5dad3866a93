// Package demo runs the document's story in its four states, sends the same
// requests to each, and says where an answer is not the one the story tells.
package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"postern.dev/postern/internal/lab"
	"postern.dev/postern/internal/topology"
)

// Cell is one answer: the status, and where it matters the identity that
// reached the backend.
type Cell struct {
	Status   int    `json:"status"`
	Location string `json:"location,omitempty"` // of a redirect, without its query
	Identity string `json:"identity,omitempty"` // what the backend was told: kubeflow-userid or x-postern-caller
	Reached  bool   `json:"reached"`            // whether a model, the dashboard or the application got the request
}

func (c Cell) String() string {
	switch {
	case c.Status == 0:
		return "no answer"
	case c.Reached && c.Identity != "":
		return fmt.Sprintf("%d as %s", c.Status, c.Identity)
	case c.Location != "":
		return fmt.Sprintf("%d %s", c.Status, c.Location)
	}
	return fmt.Sprint(c.Status)
}

// Row is one kind of request, with the answers of the states and those the story
// tells.
type Row struct {
	Name string `json:"name"`
	Got  []Cell `json:"got"`
	Want []Cell `json:"want"`
}

// Wrong are the states whose answer is not the story's.
func (r Row) Wrong() []int {
	var out []int
	for i := range r.Got {
		if r.Got[i] != r.Want[i] {
			out = append(out, i)
		}
	}
	return out
}

// Table is the outcome.
type Table struct {
	States []string `json:"states"`
	Rows   []Row    `json:"rows"`
	// Why is what the manifests' EnvoyFilters would do and do not, by state.
	Why map[string][]string `json:"why,omitempty"`
}

// OK is whether every answer is the story's.
func (t Table) OK() bool {
	for _, r := range t.Rows {
		if len(r.Wrong()) > 0 {
			return false
		}
	}
	return true
}

// State is one state to run.
type State struct {
	Title  string
	Config lab.Config
}

const (
	// Forged is the person whom the outsider of the story pretends to be.
	Forged = "admin@example.com"
	// User and Password are the user every Kubeflow of that time ships.
	User     = "user@example.com"
	Password = "12341234"
)

const body = `{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}`

// request is one row of the table.
type request struct {
	name   string
	pod    bool // called from the document's pod, else from outside
	url    string
	host   string // Host header, for calls from outside
	cookie bool
	forged bool
	get    bool
	want   []Cell
}

// requests are the rows, with what DESIGN.md section "The story" says of them.
func requests() []request {
	const path = "/v1/models/sklearn-iris:predict"
	login := Cell{Status: 302, Location: "/dex/auth"}
	reached := func(as string) Cell { return Cell{Status: 200, Identity: as, Reached: true} }
	return []request{
		{name: "pod calls the model", pod: true, url: "http://sklearn-iris.kserve-test.svc.cluster.local" + path,
			want: []Cell{login, login, reached(""), reached("postern:pod:default:default")}},
		{name: "outside calls the model", host: "sklearn-iris.kserve-test.example.com", url: path,
			want: []Cell{login, login, reached(""), {Status: 401}}},
		{name: "outside, with a session", host: "sklearn-iris.kserve-test.example.com", url: path, cookie: true,
			want: []Cell{reached(User), reached(User), reached(""), reached(User)}},
		{name: "outside, forged kubeflow-userid", host: "sklearn-iris.kserve-test.example.com", url: path, forged: true,
			want: []Cell{login, login, reached(Forged), {Status: 401}}},
		{name: "outside, another tenant's model", host: "fraud.team-b.example.com", url: "/v1/models/fraud:predict",
			want: []Cell{login, login, reached(""), {Status: 401}}},
		{name: "pod calls the backend team", pod: true, url: "http://orders-api.backend.svc.cluster.local/", get: true,
			want: []Cell{login, login, login, reached("postern:pod:default:default")}},
		{name: "browser at the dashboard", url: "/", get: true,
			want: []Cell{login, login, login, login}},
	}
}

// Run runs the states one after the other. Progress gets a line for each.
func Run(ctx context.Context, states []State, progress io.Writer) (Table, error) {
	t := Table{Why: map[string][]string{}}
	for _, r := range requests() {
		t.Rows = append(t.Rows, Row{Name: r.name, Want: r.want})
	}
	for i, s := range states {
		fmt.Fprintf(progress, "state %d of %d: %s\n", i+1, len(states), s.Title)
		t.States = append(t.States, s.Title)
		cells, why, err := runState(ctx, s)
		if err != nil {
			return t, fmt.Errorf("state %q: %w", s.Title, err)
		}
		if len(why) > 0 {
			t.Why[s.Title] = why
		}
		for j := range t.Rows {
			t.Rows[j].Got = append(t.Rows[j].Got, cells[j])
		}
	}
	return t, nil
}

// witness remembers what the last program that a request reached was told.
type witness struct {
	mu       sync.Mutex
	reached  bool
	identity string
}

func (w *witness) observe(pod *topology.Pod, r *http.Request) {
	backend := pod.Labels["serving.kserve.io/inferenceservice"] != "" || pod.Labels["app"] == "orders" || pod.Labels["app"] == "centraldashboard"
	if !backend {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reached = true
	w.identity = r.Header.Get("Kubeflow-Userid")
	if w.identity == "" {
		w.identity = r.Header.Get("X-Postern-Caller")
	}
}

func (w *witness) take() (bool, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	reached, identity := w.reached, w.identity
	w.reached, w.identity = false, ""
	return reached, identity
}

func runState(ctx context.Context, s State) (cells []Cell, why []string, err error) {
	w := &witness{}
	c := s.Config
	c.Observe = w.observe
	c.Ports = map[string]int{"kubeflow/kubeflow-gateway": 0, "knative-serving/knative-local-gateway": 0}
	system, err := lab.Start(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if e := system.Close(closing); err == nil {
			err = e
		}
	}()
	cookies, err := lab.LogIn(ctx, system.Doors()[0].URL, User, Password)
	if err != nil {
		return nil, nil, err
	}
	w.take()
	for _, r := range requests() {
		cell, err := r.send(ctx, system, cookies)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", r.name, err)
		}
		cell.Reached, cell.Identity = w.take()
		cells = append(cells, cell)
	}
	return cells, system.WithoutEffect(), nil
}

func (r request) send(ctx context.Context, s *lab.System, cookies []*http.Cookie) (Cell, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	target := r.url
	if r.pod {
		proxy, err := s.PodProxy("default", "myapp-pod")
		if err != nil {
			return Cell{}, err
		}
		transport.Proxy = http.ProxyURL(proxy)
	} else {
		target = s.Doors()[0].URL + r.url
	}
	method, payload := http.MethodPost, io.Reader(strings.NewReader(body))
	if r.get {
		method, payload = http.MethodGet, nil
	}
	req, err := http.NewRequestWithContext(ctx, method, target, payload)
	if err != nil {
		return Cell{}, err
	}
	if r.host != "" {
		req.Host = r.host
	}
	if !r.get {
		req.Header.Set("Content-Type", "application/json")
	} else {
		req.Header.Set("Accept", "text/html")
	}
	if r.forged {
		req.Header.Set("Kubeflow-Userid", Forged)
	}
	if r.cookie {
		for _, c := range cookies {
			req.AddCookie(c)
		}
	}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return Cell{}, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return Cell{}, err
	}
	cell := Cell{Status: resp.StatusCode}
	if location := resp.Header.Get("Location"); location != "" {
		u, err := url.Parse(location)
		if err != nil {
			return Cell{}, err
		}
		cell.Location = u.Path
	}
	return cell, nil
}
