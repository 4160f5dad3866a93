package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	pageSize = 200 // objects of one answer to a list: what is not needed of them goes before the next is asked for

	// A watch that says nothing and one that is dead look alike, and bookmarks are no
	// measure: an API server sends none while nothing has happened to any object of the
	// kind since it began (dispatchEvents in k8s.io/apiserver
	// pkg/storage/cacher/cacher.go). But it ends a watch when it was told to, and answers
	// to the next one with all that has happened since. So the watch of pods, whose age
	// matters, is a short one, opened again and again from where it was; the others
	// cannot stay dead for long.
	podsFor  = 3 * time.Second
	watchFor = time.Minute

	retryAfter  = 500 * time.Millisecond // after an error
	lookAgain   = 5 * time.Second        // for a kind that is not served
	listWithin  = time.Minute
	askedWithin = 5 * time.Second
)

// watcher keeps the store of one kind.
type watcher struct {
	kind   kind
	client *client
	store  *store
	heard  atomic.Int64 // when the API server was last asked and has said since what there was, Unix nanoseconds
	up     atomic.Bool  // listed, and watched or not served
	failed func(error)  // told of what went wrong, nil when it goes on
}

// run watches until ctx ends. A kind that is not served has no objects: it is looked
// for again and again.
func (w *watcher) run(ctx context.Context) {
	absent := 0
	for ctx.Err() == nil {
		wait := retryAfter
		version, err := w.version(ctx)
		switch {
		case err != nil:
			w.down(err)
		case version == "":
			// Twice, as an API server that has just begun may not know it yet.
			if absent++; absent > 1 {
				wait = lookAgain
				w.gone()
			}
		default:
			absent = 0
			w.down(w.follow(ctx, version))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (w *watcher) down(err error) {
	w.up.Store(false)
	if err != nil {
		w.failed(err)
	}
}

// gone notes that there is no such kind.
func (w *watcher) gone() {
	if n, ready := w.store.size(); !ready || n > 0 {
		_ = w.store.Replace(nil, "") // nothing in it can fail
	}
	w.up.Store(true)
	w.failed(nil)
}

// version is the one to watch, "" when none is served.
func (w *watcher) version(ctx context.Context) (string, error) {
	if w.kind.builtin {
		return w.kind.versions[0], nil
	}
	for _, v := range w.kind.versions {
		body, err := w.client.get(ctx, "/apis/"+w.kind.group+"/"+v, askedWithin)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return "", err
		}
		var list metav1.APIResourceList
		if err := json.Unmarshal(body, &list); err != nil {
			return "", err
		}
		if slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == w.kind.resource }) {
			return v, nil
		}
	}
	return "", nil
}

// follow lists and watches until something goes wrong.
func (w *watcher) follow(ctx context.Context, version string) error {
	var res dynamic.ResourceInterface = w.client.objects.Resource(w.kind.at(version))
	if w.kind.namespace != "" {
		res = w.client.objects.Resource(w.kind.at(version)).Namespace(w.kind.namespace)
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(_ context.Context, o metav1.ListOptions) (runtime.Object, error) { return w.list(ctx, res, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return w.watch(ctx, res, o)
		},
	}
	r := cache.NewReflectorWithOptions(lw, &unstructured.Unstructured{}, w.store, cache.ReflectorOptions{Name: "posternd", TypeDescription: w.kind.String()})
	r.WatchListPageSize = pageSize
	return r.ListAndWatchWithContext(klog.NewContext(ctx, logr.Discard()))
}

// list asks for what there is now, not for what some cache of the API server holds: a
// key that has been revoked must not come back.
func (w *watcher) list(ctx context.Context, res dynamic.ResourceInterface, o metav1.ListOptions) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, listWithin)
	defer cancel()
	o.ResourceVersion, o.ResourceVersionMatch = "", ""
	w.one(&o)
	list, err := res.List(ctx, o)
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		list.Items[i].Object = w.kind.strip(list.Items[i].Object)
	}
	return list, nil
}

func (w *watcher) one(o *metav1.ListOptions) {
	if w.kind.name != "" {
		o.FieldSelector = "metadata.name=" + w.kind.name
	}
}

func (w *watcher) watch(ctx context.Context, res dynamic.ResourceInterface, o metav1.ListOptions) (watch.Interface, error) {
	span := watchFor
	if w.kind.of == podKind {
		span = podsFor
	}
	seconds := int64(span / time.Second)
	o.TimeoutSeconds = &seconds
	w.one(&o)
	at := time.Now()
	in, err := res.Watch(ctx, o)
	if err != nil {
		// As a text: the Reflector waits by itself, for longer and longer, where it
		// finds that nobody listens. run waits retryAfter.
		return nil, fmt.Errorf("watch: %s", err)
	}
	w.up.Store(true)
	w.failed(nil)
	w.heard.Store(at.UnixNano())
	out := &stripped{Interface: in, events: make(chan watch.Event), done: make(chan struct{})}
	go out.pass(w)
	return out, nil
}

// stripped is a watch whose events are stripped.
type stripped struct {
	watch.Interface
	events chan watch.Event
	done   chan struct{}
	ended  atomic.Bool
}

func (h *stripped) ResultChan() <-chan watch.Event { return h.events }

// Stop ends the watch, as often as it is called.
func (h *stripped) Stop() {
	if h.ended.CompareAndSwap(false, true) {
		close(h.done)
		h.Interface.Stop()
	}
}

// pass ends when the watch does, or who listens to it.
func (h *stripped) pass(w *watcher) {
	defer close(h.events)
	for e := range h.Interface.ResultChan() {
		if u, ok := e.Object.(*unstructured.Unstructured); ok && e.Type != watch.Error {
			u.Object = w.kind.strip(u.Object)
		}
		select {
		case h.events <- e:
		case <-h.done:
			return
		}
	}
}
