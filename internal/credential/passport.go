package credential

import (
	"time"

	"postern.dev/postern/internal/passport"
)

// Passport reads the passport of a request that comes from one of the gateways'
// own pods: the caller must look at that first, from anywhere else a passport is
// somebody's copy. ok is false when there is none.
func Passport(h Headers, keys *passport.Keys, a passport.Audience, now time.Time) (p passport.Passport, ok bool, err error) {
	if !h.Has(passport.Header) {
		return passport.Passport{}, false, nil
	}
	token, once := h.Only(passport.Header)
	if !once {
		return passport.Passport{}, true, &Refusal{Reason: passport.Malformed, Message: "more than one passport"}
	}
	p, err = keys.Check(token, a, now)
	if err == nil {
		return p, true, nil
	}
	reason := passport.Malformed
	if e, is := err.(*passport.Error); is {
		reason = e.Reason
	}
	return passport.Passport{}, true, &Refusal{Reason: reason, Message: "the passport is not valid for this call", cause: err}
}
