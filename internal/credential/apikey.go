package credential

import (
	"errors"
	"slices"
	"time"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/apikey"
	"postern.dev/postern/internal/manifest"
)

// Reasons for refusing an API key. A key whose object is gone is unknown.
const (
	KeyMalformed = "key_malformed"
	KeyUnknown   = "key_unknown"
	KeyExpired   = "key_expired"
	KeyRevoked   = "key_revoked" // disabled, or its object is being deleted
	KeyAmbiguous = "key_ambiguous"
)

// APIKeys are the ApiKey objects of a snapshot. They are immutable; nothing of a
// key is remembered from one snapshot to the next, so a key that is deleted ends
// with the Swap that says so. The zero value, like nil, knows no key.
type APIKeys struct {
	byID     map[string]*keyObject
	problems error
}

// keyObject is one ApiKey. There may be very many: what can be made of the rest is
// not kept.
type keyObject struct {
	space   *keySpace
	name    string
	hash    apikey.Hash
	expires int64 // Unix seconds; zero: does not
	broken  bool  // fits no key, and yet holds its id
	revoked bool
	next    *keyObject // another that has the same id
}

// keySpace is what the keys of a namespace share.
type keySpace struct {
	namespace string
	groups    []string
}

// NewAPIKeys reads the ApiKeys of a set. One that is not as it must be is left
// out and does not keep the others from counting; Problems names it.
func NewAPIKeys(set *manifest.Set) *APIKeys {
	k := &APIKeys{byID: map[string]*keyObject{}}
	spaces := map[string]*keySpace{}
	var errs []error
	for o, v := range manifest.Of[*manifest.APIKey](set) {
		hash, err := apikey.ReadSpec(v.Spec)
		if err == nil && o.Unread != nil {
			err = o.Unread // such as a limit that is not known here
		}
		if err != nil {
			errs = append(errs, o.Errorf("", "%v", err))
		}
		space := spaces[o.Meta.Namespace]
		if space == nil {
			space = &keySpace{o.Meta.Namespace, []string{"postern:keys:" + o.Meta.Namespace, access.AuthenticatedGroup}}
			spaces[o.Meta.Namespace] = space
		}
		obj := &keyObject{
			space: space, name: o.Meta.Name, hash: hash, broken: err != nil,
			revoked: v.Spec.Disabled || o.Meta.DeletionTimestamp != nil, next: k.byID[v.Spec.ID],
		}
		if v.Spec.Expires != nil {
			obj.expires = max(v.Spec.Expires.Unix(), 1) // not "does not", however long ago
		}
		if obj.next != nil {
			errs = append(errs, o.Errorf("spec.id", "another ApiKey has this id: neither key is taken"))
		}
		k.byID[v.Spec.ID] = obj
	}
	k.problems = errors.Join(errs...)
	return k
}

func (o *keyObject) caller() access.Caller {
	return access.Caller{
		User: "postern:key:" + o.space.namespace + ":" + o.name, Groups: slices.Clip(o.space.groups), Proven: true, Kind: access.Key,
	}
}

// Problems are the objects that count for nothing, nil when there are none.
func (k *APIKeys) Problems() error {
	if k == nil {
		return nil
	}
	return k.problems
}

// Caller is whose key it is. id is the public part of the key, for the log.
func (k *APIKeys) Caller(c Credential, now time.Time) (caller access.Caller, id string, err error) {
	refuse := func(reason, message string) (access.Caller, string, error) {
		return access.Caller{}, id, &Refusal{Reason: reason, Message: message}
	}
	key, err := apikey.Parse(c.text)
	if err != nil {
		return refuse(KeyMalformed, "this is no API key of Postern's: a character is wrong or missing")
	}
	id = key.ID
	var holders *keyObject
	if k != nil {
		holders = k.byID[key.ID]
	}
	if holders == nil {
		key.Verify(apikey.Hash{}, "", "") // as long as for a known id
		return refuse(KeyUnknown, "there is no such API key, or it has been revoked")
	}
	var mine *keyObject
	for h := holders; h != nil; h = h.next {
		if key.Verify(h.hash, h.space.namespace, h.name) && !h.broken {
			mine = h
		}
	}
	switch {
	case mine == nil: // as for no id at all: an id is no secret
		return refuse(KeyUnknown, "there is no such API key, or it has been revoked")
	case holders.next != nil:
		return refuse(KeyAmbiguous, "several ApiKey objects have this key's id: make a new key")
	case mine.revoked:
		return refuse(KeyRevoked, "the API key has been revoked")
	case mine.expires != 0 && now.Unix() >= mine.expires:
		return refuse(KeyExpired, "the API key has expired")
	}
	return mine.caller(), id, nil
}
