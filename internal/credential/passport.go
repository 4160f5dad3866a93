package credential

import (
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/passport"
)

// Passport reads the passport of a request that comes from one of the gateways'
// own pods: the caller must look at that first, from anywhere else a passport is
// somebody's copy. ok is false when there is none.
func Passport(h Headers, keys *passport.Keys, r access.Resource, now time.Time) (c access.Caller, ok bool, err error) {
	if !h.Has(passport.Header) {
		return access.Caller{}, false, nil
	}
	token, once := h.Only(passport.Header)
	if !once {
		return access.Caller{}, true, &Refusal{Reason: passport.Malformed, Message: "more than one passport"}
	}
	c, err = keys.Check(token, r, now)
	if err == nil {
		return c, true, nil
	}
	reason := passport.Malformed
	if e, is := err.(*passport.Error); is {
		reason = e.Reason
	}
	return access.Caller{}, true, &Refusal{Reason: reason, Message: "the passport is not valid for this call", cause: err}
}
