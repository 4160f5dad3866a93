package cluster

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// troubles says what goes wrong when it begins, and when it is over. What tenants
// write cannot fill the log.
type troubles struct {
	say func(string, ...any)

	mu    sync.Mutex
	now   map[string]string
	last  time.Time // seldom's
	quiet int
}

// set notes what is wrong with something, nil for nothing.
func (t *troubles) set(what string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, had := t.now[what]
	switch {
	case err == nil && had:
		delete(t.now, what)
		t.say("%s: over", what)
	case err != nil && (!had || before != reason(err)):
		if t.now == nil {
			t.now = map[string]string{}
		}
		t.now[what] = reason(err)
		t.say("%s: %s", what, reason(err))
	}
}

// seldom says something about one of very many objects, once a second at most.
func (t *troubles) seldom(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.last) < time.Second {
		t.quiet++
		return
	}
	t.say(format, args...)
	if t.quiet > 0 {
		t.say("%d more like this", t.quiet)
	}
	t.last, t.quiet = time.Now(), 0
}

const (
	maxLines = 20
	maxText  = 4000
)

// reason is an error's text, the beginning of a long one.
func reason(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Code == http.StatusForbidden {
		return status.Status().Message // names user, verb and resource
	}
	lines := strings.Split(err.Error(), "\n")
	text := strings.Join(lines[:min(len(lines), maxLines)], "\n")
	if len(lines) > maxLines || len(text) > maxText {
		text = text[:min(len(text), maxText)] + " ..."
	}
	return text
}
