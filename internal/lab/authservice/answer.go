package authservice

import (
	"errors"
	"io"
	"net/http"
)

// answer is what Envoy is told. Its zero value refuses. Only allow and
// allowUser make one that Envoy takes for a yes.
type answer struct {
	allowed bool
	status  int
	header  http.Header
	body    string
}

func allow() answer { return answer{allowed: true, status: http.StatusOK} }

func allowUser(header, user string) answer {
	a := allow()
	a.header = http.Header{}
	a.header.Set(header, user)
	return a
}

// respond is an answer that goes to the client itself.
func respond(status int, body string, cookies ...*http.Cookie) answer {
	a := answer{status: status, body: body, header: http.Header{"Cache-Control": {"no-store"}}}
	for _, c := range cookies {
		a.header.Add("Set-Cookie", c.String())
	}
	if body != "" {
		a.header.Set("Content-Type", "text/plain; charset=utf-8")
		a.header.Set("X-Content-Type-Options", "nosniff")
	}
	return a
}

// redirect sends the client to location, which must come from this package's
// configuration or from returnPath.
func redirect(status int, location string, cookies ...*http.Cookie) answer {
	a := respond(status, "", cookies...)
	a.header.Set("Location", location)
	return a
}

func (a answer) write(w http.ResponseWriter) {
	if (a.status == http.StatusOK) != a.allowed || a.status == 0 {
		a = respond(http.StatusInternalServerError, "internal error\n")
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body) // a client that is gone needs no answer
}

// refusal is an error with a part for the client and a cause for the log.
type refusal struct {
	status  int
	message string
	cause   error
}

func refuse(status int, message string, cause error) error {
	return &refusal{status: status, message: message, cause: cause}
}

func (e *refusal) Error() string {
	if e.cause == nil {
		return e.message
	}
	return e.message + ": " + e.cause.Error()
}

func (e *refusal) Unwrap() error { return e.cause }

func refusalOf(err error) answer {
	var r *refusal
	if errors.As(err, &r) {
		return respond(r.status, r.message+"\n")
	}
	return respond(http.StatusInternalServerError, "internal error\n")
}
