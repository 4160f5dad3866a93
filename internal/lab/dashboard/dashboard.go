// Package dashboard is the page behind the login, in the place of Kubeflow's
// central dashboard: who you are, the models you may call and how, and the way
// out. The page needs no script; Absent answers for the services of Kubeflow
// that this system does not run.
package dashboard

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"net/http"
	"strconv"
	"strings"
)

//go:embed page.html
var pageText string

//go:embed page.css
var styleText string

// Config says what the page shows.
type Config struct {
	// UserHeader is the header in which the gateway names the person
	// (kubeflow-userid). The dashboard believes it, as Kubeflow's does: it
	// must be reachable through the gateway only.
	UserHeader string
	// Models lists the models a person may call, in the order to show them.
	Models func(user string) []Model
	// Gateway is the address of the gateway as this person reaches it, such
	// as http://localhost:8080.
	Gateway func() string
	// LogoutPath is where the logout button posts to.
	LogoutPath string
}

// Model is one model that may be called.
type Model struct {
	Name, Namespace string
	InClusterURL    string // such as http://iris.kserve-test.svc.cluster.local
	ExternalHost    string // the Host that names it at the gateway; "" if it has none
	Commands        []Command
}

// Command is one way to call a model: a line to paste into a shell, and what it does.
type Command struct {
	Label, Line string
}

// page is what the template sees.
type page struct {
	Style      template.CSS
	Title      string
	Problem    string // instead of the models
	Home       bool   // the problem may be left for /
	User       string
	UserArg    string // User as one word of a shell
	Gateway    string
	LogoutPath string
	Models     []Model
}

type dashboard struct {
	config   Config
	template *template.Template
	policy   string
}

// New gives the dashboard. GET / is the page; any other path is not found, and
// a request that names no person gets 401 whatever it asks for.
func New(c Config) http.Handler {
	style := sha256.Sum256([]byte(styleText))
	return &dashboard{
		config:   c,
		template: template.Must(template.New("page").Parse(pageText)), // embedded: tried by every test
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(style[:]) +
			"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	}
}

func (d *dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, p := d.answer(r)
	p.Style = template.CSS(styleText)
	var body bytes.Buffer
	if err := d.template.Execute(&body, p); err != nil {
		http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Security-Policy", d.policy)
	h.Set("X-Frame-Options", "DENY")
	// Not no-referrer: with it browsers send "Origin: null" with the logout form.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Content-Type", "text/html; charset=utf-8")
	if status == http.StatusMethodNotAllowed {
		h.Set("Allow", "GET, HEAD")
	}
	write(w, status, body.Bytes())
}

func (d *dashboard) answer(r *http.Request) (int, page) {
	named := r.Header.Values(d.config.UserHeader)
	if len(named) != 1 || named[0] == "" {
		return http.StatusUnauthorized, page{
			Title:   "No user",
			Problem: "The gateway did not name a user. This page is meant to be reached through the gateway, after its login.",
		}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return http.StatusMethodNotAllowed, page{Title: "Not allowed", Problem: "This page can only be read.", Home: true}
	}
	if r.URL.Path != "/" {
		return http.StatusNotFound, page{Title: "Not found", Problem: "There is no such page here.", Home: true}
	}
	return http.StatusOK, page{
		Title:      "Models",
		User:       named[0],
		UserArg:    "'" + strings.ReplaceAll(named[0], "'", `'\''`) + "'",
		Gateway:    d.config.Gateway(),
		LogoutPath: d.config.LogoutPath,
		Models:     d.config.Models(named[0]),
	}
}

// Absent answers for a service of Kubeflow that is not here: 503 with its
// name, as JSON for who accepts that, else as text.
func Absent(name string) http.Handler {
	message := name + " is not part of this system: postern up runs the gateway, login, models and dashboard only"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, kind := []byte(message+"\n"), "text/plain; charset=utf-8"
		if acceptsJSON(r.Header.Values("Accept")) {
			// A struct of one string: marshalling cannot fail.
			body, _ = json.Marshal(struct {
				Error string `json:"error"`
			}{message})
			body, kind = append(body, '\n'), "application/json"
		}
		w.Header().Set("Content-Type", kind)
		write(w, http.StatusServiceUnavailable, body)
	})
}

func acceptsJSON(accept []string) bool {
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, _, _ := strings.Cut(part, ";")
		kind = strings.ToLower(strings.TrimSpace(kind))
		if kind == "application/json" || strings.HasSuffix(kind, "+json") {
			return true
		}
	}
	return false
}

// write is the one place where answers leave. net/http leaves out the body for HEAD.
func write(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that is gone needs no answer
}
