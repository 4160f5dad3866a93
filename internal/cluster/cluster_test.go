package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"postern.dev/postern/internal/access"
	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/snapshot"

	"sigs.k8s.io/yaml"
)

// under is a Cluster without an API server: the tests write to its stores.
type under struct {
	*Cluster
	t     *testing.T
	mu    sync.Mutex
	swaps []*authorizer.Snapshot
	said  strings.Builder
}

func newUnder(t *testing.T) *under {
	t.Helper()
	u := &under{t: t}
	cfg, err := authorizer.ParseConfig("c", []byte("doors: [{gateway: kubeflow/kubeflow-gateway, port: 8080, inCluster: true}]\nrouting: derived\n"))
	if err != nil {
		t.Fatal(err)
	}
	u.Cluster = newCluster(Settings{}, Options{
		Config: cfg, Aside: func(work func() error) error { return work() },
		Swap: func(s *authorizer.Snapshot) { u.mu.Lock(); u.swaps = append(u.swaps, s); u.mu.Unlock() },
		Say: func(format string, args ...any) {
			u.mu.Lock()
			fmt.Fprintf(&u.said, format+"\n", args...)
			u.mu.Unlock()
		},
	}, &client{})
	u.pulse.Store(time.Now().UnixNano())
	return u
}

// object is one as a watch gives it.
func (u *under) object(text string) (*store, *unstructured.Unstructured) {
	u.t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		u.t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(raw); err != nil {
		u.t.Fatal(err)
	}
	for _, w := range u.watchers {
		if w.kind.name == "" && w.kind.group == o.GroupVersionKind().Group && strings.HasSuffix(w.kind.of, "/"+o.GetKind()) {
			o.Object = w.kind.strip(o.Object)
			return w.store, o
		}
	}
	u.t.Fatalf("no watch for %s", text)
	return nil, nil
}

func (u *under) put(text string) {
	u.t.Helper()
	s, o := u.object(text)
	if err := s.Update(o); err != nil {
		u.t.Fatal(err)
	}
}

func (u *under) remove(text string) {
	u.t.Helper()
	s, o := u.object(text)
	if err := s.Delete(o); err != nil {
		u.t.Fatal(err)
	}
}

// listed says of every kind that what its store holds is all there is.
func (u *under) listed() {
	u.t.Helper()
	for _, w := range u.watchers {
		w.store.mu.Lock()
		w.store.synced = true
		w.store.mu.Unlock()
	}
}

func (u *under) last() *authorizer.Snapshot {
	u.t.Helper()
	if len(u.swaps) == 0 {
		u.t.Fatal("no snapshot")
	}
	return u.swaps[len(u.swaps)-1]
}

const (
	role    = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r, namespace: a}\nrules: [{verbs: [predict], apiGroups: [serving.kserve.io], resources: [inferenceservices]}]\n"
	binding = "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: b, namespace: a, resourceVersion: '7'}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}\nsubjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ada}]\n"
	aPod    = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a, resourceVersion: '1'}\nspec: {serviceAccountName: s}\nstatus: {phase: Running, podIP: 10.1.2.3, podIPs: [{ip: 10.1.2.3}]}\n"
)

func may(s *authorizer.Snapshot) bool {
	return s.Rules.May(access.Caller{User: "ada"}, access.Predict, access.Model("a", "m")).Allowed
}

// TestWhole: nothing is in force before every kind has been listed; then each change
// is, made of the part that it concerns, and the rest is the same.
func TestWhole(t *testing.T) {
	u := newUnder(t)
	u.put(role)
	u.put(binding)
	u.make()
	if len(u.swaps) != 0 || u.Synced() {
		t.Fatal("a snapshot before all is listed")
	}
	if _, ok := u.Known(); ok || !u.PodsKnown().IsZero() {
		t.Error("something is known before all is listed")
	}
	u.listed()
	u.make()
	first := u.last()
	if len(u.swaps) != 1 || !may(first) {
		t.Fatalf("%d snapshots, allowed %t", len(u.swaps), may(first))
	}
	u.remove(binding)
	u.make()
	next := u.last()
	if len(u.swaps) != 2 || may(next) || !may(first) {
		t.Errorf("%d snapshots, allowed %t, by the first %t", len(u.swaps), may(next), may(first))
	}
	if next.Map != first.Map || next.Pods != first.Pods || next.APIKeys != first.APIKeys || next.Accounts != first.Accounts || next.Rules == first.Rules {
		t.Error("a part that did not change was made anew, or one that did was not")
	}
	u.make()
	if len(u.swaps) != 2 {
		t.Error("a snapshot for no change")
	}
	if u.Objects()["Role"] != 1 || u.Objects()["RoleBinding"] != 0 {
		t.Errorf("got %v", u.Objects())
	}
}

// TestNoChange: an update of what is not read makes nothing anew.
func TestNoChange(t *testing.T) {
	u := newUnder(t)
	u.listed()
	u.put(aPod)
	u.make()
	n := len(u.swaps)
	u.put(strings.Replace(aPod, "resourceVersion: '1'", "resourceVersion: '2', annotations: {x: y}", 1))
	u.make()
	if len(u.swaps) != n {
		t.Error("a snapshot for an annotation of a pod")
	}
	u.put(strings.ReplaceAll(aPod, "10.1.2.3", "10.1.2.4"))
	u.make()
	if len(u.swaps) != n+1 {
		t.Error("no snapshot for a new address")
	}
}

// TestList: a list takes the place of all that was there, and one that says the same
// changes nothing.
func TestList(t *testing.T) {
	u := newUnder(t)
	u.put(role)
	u.put(binding)
	u.listed()
	u.make()
	s, o := u.object(binding)
	if err := s.Replace([]any{o}, "8"); err != nil {
		t.Fatal(err)
	}
	u.make()
	if len(u.swaps) != 1 {
		t.Error("a snapshot for a list that says the same")
	}
	if err := s.Replace(nil, "9"); err != nil {
		t.Fatal(err)
	}
	u.make()
	if len(u.swaps) != 2 || may(u.last()) {
		t.Error("an object that is not in the list any more counts")
	}
}

// TestKnown: what is not in force yet is not known; neither is anything since the API
// server has last answered.
func TestKnown(t *testing.T) {
	u := newUnder(t)
	u.listed()
	u.make()
	base := time.Now()
	u.pulse.Store(base.UnixNano())
	u.pods.heard.Store(base.Add(-time.Second).UnixNano())
	near := func(what string, got, want time.Time) {
		t.Helper()
		if d := got.Sub(want); d > 100*time.Millisecond || d < -100*time.Millisecond {
			t.Errorf("%s: got %s from then, want 0", what, d)
		}
	}
	near("pods, by their watch", u.PodsKnown(), base.Add(-time.Second))
	u.pulse.Store(base.Add(-3 * time.Second).UnixNano())
	near("pods, by the pulse", u.PodsKnown(), base.Add(-3*time.Second))
	at, _ := u.Known()
	near("all", at, base.Add(-3*time.Second))
	u.pulse.Store(base.Add(time.Hour).UnixNano())
	u.pods.heard.Store(base.Add(time.Hour).UnixNano())
	u.put(aPod)
	near("pods, with a change to come", u.PodsKnown(), time.Now())
	u.make()
	near("pods, with the change in force", u.PodsKnown(), base.Add(time.Hour))
	u.put(role)
	near("pods, with a change of something else", u.PodsKnown(), base.Add(time.Hour))
	at, _ = u.Known()
	near("all, with that change", at, time.Now())
}

// TestUnreadable: one object that is not understood is named, and stands in nobody
// else's way.
func TestUnreadable(t *testing.T) {
	u := newUnder(t)
	u.put(role)
	u.put(binding)
	u.put("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: bad, namespace: x}\nspec: {predictor: [1]}\n")
	u.listed()
	u.make()
	if !may(u.last()) || !strings.Contains(u.said.String(), "InferenceService x/bad counts for nothing") {
		t.Errorf("allowed %t, said %s", may(u.last()), u.said.String())
	}
}

// TestSettle: a group of changes is waited for, but not for ever.
func TestSettle(t *testing.T) {
	u := newUnder(t)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { u.build(ctx) })
	u.listed()
	during := 0
	for begin := time.Now(); during == 0 && time.Since(begin) < 30*time.Second; time.Sleep(quiet / 10) {
		u.put(strings.ReplaceAll(aPod, "10.1.2.3", fmt.Sprintf("10.1.2.%d", time.Now().UnixNano()%200)))
		u.mu.Lock()
		during = len(u.swaps)
		u.mu.Unlock()
	}
	cancel()
	wg.Wait()
	if during == 0 {
		t.Error("nothing came in force while changes went on")
	}
}

// TestStrip: what is kept of a pod is what is read of one.
func TestStrip(t *testing.T) {
	var in map[string]any
	if err := yaml.Unmarshal([]byte(`{apiVersion: v1, kind: Pod,
metadata: {name: p, namespace: a, uid: u, resourceVersion: "5", labels: {l: m}, annotations: {secret: x}, managedFields: [{}], ownerReferences: [{}], deletionTimestamp: "2026-01-01T00:00:00Z"},
spec: {hostNetwork: true, serviceAccountName: s, containers: [{env: [{name: PASSWORD, value: x}]}], volumes: [{}]},
status: {phase: Running, podIP: 10.1.2.3, podIPs: [{ip: 10.1.2.3}], hostIP: 1.2.3.4, conditions: [{}], containerStatuses: [{}]}}`), &in); err != nil {
		t.Fatal(err)
	}
	u := newUnder(t)
	got, err := json.Marshal(u.pods.kind.strip(in))
	want := `{"apiVersion":"v1","kind":"Pod","metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z","labels":{"l":"m"},"name":"p","namespace":"a","resourceVersion":"5","uid":"u"},"spec":{"hostNetwork":true,"serviceAccountName":"s"},"status":{"phase":"Running","podIP":"10.1.2.3","podIPs":[{"ip":"10.1.2.3"}]}}`
	if err != nil || string(got) != want {
		t.Errorf("got %s %v\nwant %s", got, err, want)
	}
}

// TestKindsCoverTheSnapshot: what a snapshot is made of is what is watched.
func TestKindsCoverTheSnapshot(t *testing.T) {
	watched := map[string]snapshot.Part{}
	for _, k := range kinds(Settings{}.withDefaults()) {
		watched[k.of] = k.reads
	}
	n := 0
	for p := range snapshot.Parts {
		for _, of := range p.Of() {
			n++
			if got, ok := watched[of]; !ok || got != p {
				t.Errorf("%s is read for the %s and watched: %t", of, p, ok)
			}
		}
	}
	if n != len(watched) {
		t.Errorf("%d kinds are watched, %d are read", len(watched), n)
	}
}

// TestConnectRefuses: a kubeconfig that would have a program run.
func TestConnectRefuses(t *testing.T) {
	kubeconfig := func(user string) string {
		f := filepath.Join(t.TempDir(), "k")
		text := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\nusers: [{name: u, user: " + user + "}]\n"
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, tt := range []struct{ user, want string }{
		{"{token: t}", ""},
		{"{exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/true, interactiveMode: Never}}", "no program is run here"},
		{"{auth-provider: {name: gcp}}", "no program is run here"},
	} {
		_, err := connect(kubeconfig(tt.user), "test")
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.user, err, tt.want)
		}
	}
	if _, err := connect(filepath.Join(t.TempDir(), "none"), "test"); err == nil {
		t.Error("no file: no error")
	}
}

// TestTroubles: what goes on is said once, and what tenants write not without end.
func TestTroubles(t *testing.T) {
	var said []string
	tr := &troubles{say: func(f string, args ...any) { said = append(said, fmt.Sprintf(f, args...)) }}
	tr.set("x", errors.New("e"))
	tr.set("x", errors.New("e"))
	tr.set("x", nil)
	tr.set("x", nil)
	tr.set("x", errors.New(strings.Repeat("long\n", 10_000)))
	if len(said) != 3 || said[0] != "x: e" || said[1] != "x: over" || len(said[2]) > maxText+100 {
		t.Errorf("got %q", said)
	}
	said = nil
	for range 1000 {
		tr.seldom("bad")
	}
	if len(said) > 3 {
		t.Errorf("got %d lines", len(said))
	}
}
