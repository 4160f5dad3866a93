package credential

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"sort"
	"strings"
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
	keys     []keyEntry // by id
	names    string     // of the objects, one after the other
	spaces   []keySpace
	problems error
}

// keyEntry is one ApiKey. There may be very many, and a pointer in each would be
// work for every garbage collection: so there is none.
type keyEntry struct {
	id        [apikey.IDLen]byte
	hash      apikey.Hash
	expires   int64  // Unix seconds; zero: does not
	space     uint32 // which of spaces
	name      uint32 // where it begins in names
	nameBytes uint16
	broken    bool // fits no key, and yet holds its id
	revoked   bool
}

// keySpace is what the keys of a namespace share.
type keySpace struct {
	namespace string
	groups    []string
}

// NewAPIKeys reads the ApiKeys of a set. One that is not as it must be is left
// out and does not keep the others from counting; Problems names it.
func NewAPIKeys(set *manifest.Set) *APIKeys {
	k := &APIKeys{}
	spaces := map[string]uint32{}
	holder := map[string]bool{}
	var names strings.Builder
	var errs []error
	for o, v := range manifest.Of[*manifest.APIKey](set) {
		hash, err := apikey.ReadSpec(v.Spec)
		if err == nil && o.Unread != nil {
			err = o.Unread // such as a limit that is not known here
		}
		if err != nil {
			errs = append(errs, o.Errorf("", "%v", err))
		}
		if holder[v.Spec.ID] {
			errs = append(errs, o.Errorf("spec.id", "another ApiKey has this id: neither key is taken"))
		}
		holder[v.Spec.ID] = true
		if len(v.Spec.ID) != apikey.IDLen || len(o.Meta.Name) > math.MaxUint16 || names.Len() > math.MaxUint32-math.MaxUint16 {
			continue // no key has such an id; no object such a name; and all names are not 4 GB
		}
		space, ok := spaces[o.Meta.Namespace]
		if !ok {
			space = uint32(len(k.spaces))
			spaces[o.Meta.Namespace] = space
			k.spaces = append(k.spaces, keySpace{strings.Clone(o.Meta.Namespace), []string{"postern:keys:" + o.Meta.Namespace, access.AuthenticatedGroup}})
		}
		entry := keyEntry{
			id: [apikey.IDLen]byte([]byte(v.Spec.ID)), hash: hash, broken: err != nil, space: space, name: uint32(names.Len()), nameBytes: uint16(len(o.Meta.Name)),
			revoked: v.Spec.Disabled || o.Meta.DeletionTimestamp != nil,
		}
		if v.Spec.Expires != nil {
			entry.expires = max(v.Spec.Expires.Unix(), 1) // not "does not", however long ago
		}
		names.WriteString(o.Meta.Name)
		k.keys = append(k.keys, entry)
	}
	slices.SortStableFunc(k.keys, func(a, b keyEntry) int { return bytes.Compare(a.id[:], b.id[:]) })
	k.keys, k.names, k.problems = slices.Clip(k.keys), strings.Clone(names.String()), errors.Join(errs...)
	return k
}

// holders are the objects that have an id.
func (k *APIKeys) holders(id string) []keyEntry {
	if k == nil || len(id) != apikey.IDLen {
		return nil
	}
	var want [apikey.IDLen]byte
	copy(want[:], id)
	at := sort.Search(len(k.keys), func(i int) bool { return bytes.Compare(k.keys[i].id[:], want[:]) >= 0 })
	end := at
	for end < len(k.keys) && k.keys[end].id == want {
		end++
	}
	return k.keys[at:end]
}

func (k *APIKeys) nameOf(e *keyEntry) string { return k.names[e.name : e.name+uint32(e.nameBytes)] }

func (k *APIKeys) caller(e *keyEntry) access.Caller {
	space := &k.spaces[e.space]
	return access.Caller{
		User: "postern:key:" + space.namespace + ":" + k.nameOf(e), Groups: slices.Clip(space.groups), Proven: true, Kind: access.Key,
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
	holders := k.holders(key.ID)
	if len(holders) == 0 {
		key.Verify(apikey.Hash{}, "", "") // as long as for a known id
		return refuse(KeyUnknown, "there is no such API key, or it has been revoked")
	}
	var mine *keyEntry
	for i := range holders {
		h := &holders[i]
		if key.Verify(h.hash, k.spaces[h.space].namespace, k.nameOf(h)) && !h.broken {
			mine = h
		}
	}
	switch {
	case mine == nil: // as for no id at all: an id is no secret
		return refuse(KeyUnknown, "there is no such API key, or it has been revoked")
	case len(holders) > 1:
		return refuse(KeyAmbiguous, "several ApiKey objects have this key's id: make a new key")
	case mine.revoked:
		return refuse(KeyRevoked, "the API key has been revoked")
	case mine.expires != 0 && now.Unix() >= mine.expires:
		return refuse(KeyExpired, "the API key has expired")
	}
	return k.caller(mine), id, nil
}
