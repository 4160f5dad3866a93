package credential

import (
	"strings"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/manifest"

	corev1 "k8s.io/api/core/v1"
)

// Accounts are the ServiceAccounts of a snapshot and their UIDs. They are
// immutable. The zero value, like nil, knows none.
type Accounts struct {
	uids map[objectName]string
}

// NewAccounts reads the ServiceAccounts of a set. One that is being deleted is
// none.
func NewAccounts(set *manifest.Set) *Accounts {
	uids := map[objectName]string{}
	for o := range manifest.Of[*corev1.ServiceAccount](set) {
		if o.Meta.DeletionTimestamp == nil {
			uids[objectName{o.Meta.Namespace, o.Meta.Name}] = string(o.Meta.UID)
		}
	}
	return &Accounts{packed(uids)}
}

// Live is what tells whether the objects that a ServiceAccount's token is bound to
// are still there.
type Live struct {
	Pods     *Pods
	Accounts *Accounts
}

// bound is what a ServiceAccount's token is bound to, by its claim kubernetes.io
// (k8s.io/kubernetes pkg/serviceaccount/claims.go).
type bound struct {
	account objectName
	uid     string
	pod     objectName // no name: bound to no pod
	podUID  string
	other   bool // bound to a Secret, or to a node alone
}

// caller is the name that Kubernetes gives the holder (serviceaccount.UserInfo).
func (b bound) caller() access.Caller {
	ns, name := b.account.namespace, b.account.name
	return access.Caller{
		User:   "system:serviceaccount:" + ns + ":" + name,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + ns, access.AuthenticatedGroup},
		Proven: true, Kind: access.Account,
	}
}

// live refuses a token whose ServiceAccount or pod is gone, or has been made anew
// under the same name. A pod that is finished or being deleted still counts, as it
// does for the API server. What is not known refuses too; with skip only what is
// known to be otherwise does.
func (b bound) live(l Live, skip bool) error {
	var uid, podUID string
	var known, podKnown bool
	if l.Accounts != nil {
		uid, known = l.Accounts.uids[b.account]
	}
	if !there(uid, known, b.uid, skip) {
		return notLive("ServiceAccount", b.account, known && uid == "")
	}
	if b.pod.name == "" {
		if b.other && !skip {
			return &Refusal{Reason: NotLive, Message: "the token is bound to a Secret or a node, of which nothing is known here: use one that is bound to a pod, or to nothing"}
		}
		return nil
	}
	if l.Pods != nil {
		podUID, podKnown = l.Pods.uids[b.pod]
	}
	if !there(podUID, podKnown, b.podUID, skip) {
		return notLive("pod", b.pod, podKnown && podUID == "")
	}
	return nil
}

func there(uid string, known bool, want string, skip bool) bool {
	if known && uid != "" {
		return uid == want
	}
	return skip
}

func notLive(kind string, o objectName, blind bool) error {
	message := "the " + kind + " that the token was made for is not there any more"
	if blind {
		message = "it cannot be told whether the " + kind + " that the token was made for is still there: no UID is known of it"
	}
	return &Refusal{Reason: NotLive, Message: message}
}

// boundOf reads the claims of a ServiceAccount's token. ok is false when they are
// not such ones.
func boundOf(c claimSet) (b bound, ok bool) {
	k, ok := c["kubernetes.io"].(map[string]any)
	if !ok {
		return bound{}, false
	}
	part := func(kind string) (name, uid string, ok bool) {
		m, ok := k[kind].(map[string]any)
		name, _ = m["name"].(string)
		uid, _ = m["uid"].(string)
		return name, uid, ok
	}
	ns, _ := k["namespace"].(string)
	name, uid, ok := part("serviceaccount")
	b = bound{account: objectName{ns, name}, uid: uid}
	if !ok || ns == "" || name == "" || uid == "" || strings.ContainsAny(ns+name, ":/ ") || c.text("sub") != b.caller().User {
		return bound{}, false
	}
	pod, podUID, has := part("pod")
	_, _, node := part("node")
	_, _, secret := part("secret")
	if has {
		if pod == "" || podUID == "" {
			return bound{}, false
		}
		b.pod, b.podUID = objectName{ns, pod}, podUID
	}
	b.other = secret || node && !has
	return b, true
}
