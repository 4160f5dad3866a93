package credential

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"postern.dev/postern/internal/access"
)

const (
	maxSessions = 10_000
	maxCookie   = 64 << 10 // bytes of credentials; Envoy's own limit for all headers is 60 KiB
)

// Ask asks the login that is there whose the credentials are. It gets only the
// headers that the login is to see.
type Ask func(ctx context.Context, h Headers) (status int, header http.Header, err error)

// SessionRules say how a session of the login that is there looks.
type SessionRules struct {
	// Cookies are the names of the login's cookies; a last * stands for any rest.
	// A request with none of them has no session, and the login is not asked.
	Cookies []string
	// Tokens are headers other than Cookie that may hold a session (x-auth-token).
	Tokens []string
	// User is the header in which the login names the person.
	User string
	// Groups is the header with the person's groups, separated by commas; empty
	// when the login gives none.
	Groups string
	// Others are what names of issuers of tokens begin with: the login gives none such.
	Others Prefixes
	// Life is how long an answer is believed: so long a logged-out session goes on.
	Life time.Duration
}

// Sessions recognises people by asking the login, once per session and Life.
type Sessions struct {
	rules SessionRules
	ask   Ask
	now   func() time.Time

	count Count
	mu    sync.Mutex
	known map[[sha256.Size]byte]*question
}

// question is one asking; those who want to know the same wait for it.
type question struct {
	done   chan struct{}
	until  time.Time // set before done is closed
	caller access.Caller
	found  bool
	err    error
}

// NewSessions makes an empty cache in front of the login.
func NewSessions(rules SessionRules, ask Ask, now func() time.Time) *Sessions {
	return &Sessions{rules: rules, ask: ask, now: now, known: map[[sha256.Size]byte]*question{}}
}

// Shown tells whether a request shows what could be a session.
func (s *Sessions) Shown(h Headers) bool {
	for _, name := range s.rules.Tokens {
		if h.Has(name) {
			return true
		}
	}
	return HasCookie(h["cookie"], s.rules.Cookies)
}

// Caller is the person whose session a request shows. ok is false when it shows
// none. An old cookie is not held against the caller, who then is whoever else
// the request shows: browsers carry cookies long after a session's end, and not
// by choice. A token header is sent on purpose: a bad one is refused.
func (s *Sessions) Caller(ctx context.Context, h Headers) (c access.Caller, ok bool, err error) {
	if !s.Shown(h) {
		return access.Caller{}, false, nil
	}
	shown, token, size := Headers{}, false, 0
	for _, name := range append([]string{"cookie"}, s.rules.Tokens...) {
		if h.Has(name) {
			shown[name] = h[name]
			token = token || name != "cookie"
			for _, v := range h[name] {
				size += len(v)
			}
		}
	}
	if size > maxCookie {
		return access.Caller{}, false, &Refusal{Reason: InvalidSession, Message: "cookies too large"}
	}
	q, err := s.answer(ctx, shown)
	switch {
	case err != nil:
		return access.Caller{}, false, err
	case !q.found && token:
		return access.Caller{}, false, &Refusal{Reason: InvalidSession, Message: "the login does not know this session"}
	}
	return q.caller, q.found, nil
}

func (s *Sessions) answer(ctx context.Context, shown Headers) (*question, error) {
	id := s.fingerprint(shown)
	s.mu.Lock()
	q, ok := s.known[id]
	if ok && q.over() && !s.now().Before(q.until) {
		ok = false
	}
	if !ok {
		q = &question{done: make(chan struct{})}
		s.put(id, q)
	}
	s.mu.Unlock()
	if s.count.Note(ok); ok {
		select {
		case <-q.done:
		case <-ctx.Done():
			return nil, unavailable(ctx.Err())
		}
		return q, q.err
	}
	s.find(ctx, id, q, shown)
	return q, q.err
}

func (q *question) over() bool {
	select {
	case <-q.done:
		return true
	default:
		return false
	}
}

// find asks, and forgets at once what could not be answered.
func (s *Sessions) find(ctx context.Context, id [sha256.Size]byte, q *question, shown Headers) {
	q.err = unavailable(fmt.Errorf("the question was not finished"))
	defer func() {
		if q.err != nil {
			s.mu.Lock()
			if s.known[id] == q {
				delete(s.known, id)
			}
			s.mu.Unlock()
		}
		close(q.done)
	}()
	// Others wait for this answer: it does not stop when the first caller goes
	// away. Ask bounds itself.
	status, header, err := s.ask(context.WithoutCancel(ctx), shown)
	if err != nil {
		q.err = unavailable(err)
		return
	}
	q.caller, q.found, q.err = s.read(status, header)
	q.until = s.now().Add(s.rules.Life)
}

// read makes a person of the login's answer. Anything but 200 with exactly one
// name is nobody; an error of the login is no answer.
func (s *Sessions) read(status int, header http.Header) (access.Caller, bool, error) {
	if status >= 500 {
		return access.Caller{}, false, unavailable(fmt.Errorf("the login answered %d", status))
	}
	names := header.Values(s.rules.User)
	if status != http.StatusOK || len(names) != 1 || strings.TrimSpace(names[0]) == "" || !utf8.ValidString(names[0]) {
		return access.Caller{}, false, nil
	}
	c := access.Caller{User: strings.TrimSpace(names[0]), Proven: true, Kind: access.Person}
	if s.rules.Groups != "" {
		for _, v := range header.Values(s.rules.Groups) {
			for g := range strings.SplitSeq(v, ",") {
				if g = strings.TrimSpace(g); g != "" {
					c.Groups = append(c.Groups, g)
				}
			}
		}
	}
	if err := errors.Join(reserved(c), s.rules.Others.refuse(c.User, c.Groups)); err != nil {
		return access.Caller{}, false, err
	}
	c.Groups = append(c.Groups, access.AuthenticatedGroup)
	return c, true, nil
}

// put keeps the cache bounded: when it is full, what has expired goes, and if
// nothing has, all that is answered.
func (s *Sessions) put(id [sha256.Size]byte, q *question) {
	if len(s.known) >= maxSessions {
		now := s.now()
		for k, v := range s.known {
			if v.over() && !now.Before(v.until) {
				delete(s.known, k)
			}
		}
		if len(s.known) >= maxSessions {
			for k, v := range s.known {
				if v.over() {
					delete(s.known, k)
				}
			}
		}
	}
	s.known[id] = q
}

func (s *Sessions) fingerprint(shown Headers) [sha256.Size]byte {
	h := sha256.New()
	for _, name := range append([]string{"cookie"}, s.rules.Tokens...) {
		fmt.Fprintf(h, "%q:%d", name, len(shown[name]))
		for _, v := range shown[name] {
			fmt.Fprintf(h, " %d ", len(v))
			h.Write([]byte(v))
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func unavailable(cause error) error {
	return &Refusal{Reason: LoginUnavailable, Message: "the login cannot be asked whose session this is", Unavailable: true, cause: cause}
}

// SameSite refuses to use a session that a browser sends along with another
// site's request, unless the request is of a page whose origin is allowed. A
// request with neither Origin nor Sec-Fetch-Site is no browser's.
func SameSite(h Headers, allowed []string) error {
	site, once := h.Only("sec-fetch-site")
	if once && site == "same-origin" || !h.Has("sec-fetch-site") && !h.Has("origin") {
		return nil
	}
	if origin, once := h.Only("origin"); once && slices.Contains(allowed, origin) {
		return nil
	}
	return &Refusal{Reason: CrossSite, Message: "a session may not be used from another site's page", Forbidden: true}
}
