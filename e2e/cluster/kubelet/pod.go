package kubelet

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pod is one pod that runs here.
type pod struct {
	k      *Kubelet
	dir    string
	inits  []*container
	mains  []*container
	pause  *exec.Cmd
	ip     string
	tokens map[string]time.Time // file -> when to ask for another
	begun  time.Time

	cancel context.CancelFunc
	done   chan struct{}
	delete sync.Once

	mu          sync.Mutex
	spec        *corev1.Pod
	initialized bool
	deleting    bool
	problem     string // why it does not get on
}

func newPod(k *Kubelet, spec *corev1.Pod) *pod {
	p := &pod{k: k, spec: spec, dir: filepath.Join(k.Dir, string(spec.UID)), tokens: map[string]time.Time{}, begun: time.Now(), done: make(chan struct{})}
	for i := range spec.Spec.InitContainers {
		p.inits = append(p.inits, &container{pod: p, spec: &spec.Spec.InitContainers[i], init: true, waiting: "PodInitializing"})
	}
	for i := range spec.Spec.Containers {
		p.mains = append(p.mains, &container{pod: p, spec: &spec.Spec.Containers[i], waiting: "PodInitializing"})
	}
	return p
}

func (p *pod) containers() []*container {
	return append(append([]*container{}, p.inits...), p.mains...)
}

func (p *pod) find(name string) *container {
	for _, c := range p.containers() {
		if c.spec.Name == name || name == "" && !c.init {
			return c
		}
	}
	return nil
}

func (p *pod) container(name string) *corev1.Container {
	if c := p.find(name); c != nil {
		return c.spec
	}
	return nil
}

// changed tells the API server of the pod's status.
func (p *pod) changed() { p.k.changed(p) }

// run is the pod's life, until ctx ends and terminate has been through.
func (p *pod) run(ctx context.Context) {
	defer close(p.done)
	for {
		err := p.prepare(ctx)
		p.mu.Lock()
		p.problem = ""
		if err != nil {
			p.problem = err.Error()
		}
		p.mu.Unlock()
		if err == nil {
			break
		}
		p.k.log("%s/%s: %v", p.spec.Namespace, p.spec.Name, err)
		p.changed()
		if !wait(ctx, 2*time.Second) {
			return
		}
	}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { p.refresh(ctx) })
	for _, c := range p.inits {
		if c.sidecar() {
			running.Go(func() { c.run(ctx) })
			for !c.isStarted() {
				if !wait(ctx, 100*time.Millisecond) {
					return
				}
			}
		} else if code := c.run(ctx); ctx.Err() != nil || code != 0 {
			return
		}
	}
	p.mu.Lock()
	p.initialized = true
	p.mu.Unlock()
	for _, c := range p.mains {
		running.Go(func() { c.run(ctx) })
	}
	p.changed()
}

func (p *pod) prepare(ctx context.Context) error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	if p.ip == "" {
		if err := p.connect(); err != nil {
			p.disconnect()
			p.ip = ""
			return err
		}
	}
	return p.writeVolumes(ctx)
}

func (p *pod) refresh(ctx context.Context) {
	for wait(ctx, 20*time.Second) {
		if err := p.writeVolumes(ctx); err != nil && ctx.Err() == nil {
			p.k.log("%s/%s: %v", p.spec.Namespace, p.spec.Name, err)
		}
	}
}

// terminate ends the pod as a deletion does: hooks, SIGTERM, the grace period, SIGKILL; sidecars last.
func (p *pod) terminate(grace time.Duration) {
	p.mu.Lock()
	p.deleting = true
	p.mu.Unlock()
	p.changed()
	deadline, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	stop(deadline, p.mains)
	p.cancel() // nothing is restarted any more
	stop(deadline, p.inits)
	p.end()
	p.disconnect()
	_ = os.RemoveAll(p.dir)
}

func (p *pod) isDeleting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.deleting
}

// end waits for the pod's end. A container that ended by itself may have been started again while the others were
// stopped (a queue-proxy while the model drains): it is of no use any more.
func (p *pod) end() {
	for {
		select {
		case <-p.done:
			return
		case <-time.After(50 * time.Millisecond):
		}
		for _, c := range p.containers() {
			c.signal(syscall.SIGKILL)
		}
	}
}

func stop(deadline context.Context, containers []*container) {
	var all sync.WaitGroup
	for _, c := range containers {
		all.Go(func() { c.stop(deadline) })
	}
	all.Wait()
}

func (c *container) stop(deadline context.Context) {
	c.mu.Lock()
	running := c.cmd != nil
	c.mu.Unlock()
	if running && c.spec.Lifecycle != nil && c.spec.Lifecycle.PreStop != nil {
		c.hook(deadline, c.spec.Lifecycle.PreStop)
	}
	c.signal(syscall.SIGTERM)
	for {
		c.mu.Lock()
		gone := c.cmd == nil
		c.mu.Unlock()
		if gone {
			return
		}
		if !wait(deadline, 50*time.Millisecond) {
			c.signal(syscall.SIGKILL)
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// status is the pod's, as the API server is to have it.
func (p *pod) status() corev1.PodStatus {
	p.mu.Lock()
	initialized, problem := p.initialized, p.problem
	p.mu.Unlock()
	s := corev1.PodStatus{Phase: corev1.PodPending, HostIP: p.k.Address, HostIPs: []corev1.HostIP{{IP: p.k.Address}}, Message: problem, QOSClass: p.spec.Status.QOSClass}
	if p.ip != "" {
		s.PodIP, s.PodIPs = p.ip, []corev1.PodIP{{IP: p.ip}}
	}
	started := metav1.NewTime(p.begun)
	s.StartTime = &started
	ready, over, failed := initialized, initialized, false
	for _, c := range p.inits {
		cs := c.status()
		s.InitContainerStatuses = append(s.InitContainerStatuses, cs)
		if c.sidecar() {
			ready = ready && cs.Ready
		} else if t := cs.State.Terminated; t != nil && t.ExitCode != 0 && c.over {
			failed, over = true, true
		}
	}
	for _, c := range p.mains {
		cs := c.status()
		s.ContainerStatuses = append(s.ContainerStatuses, cs)
		ready = ready && cs.Ready
		over = over && cs.State.Terminated != nil && c.isOver()
		failed = failed || cs.State.Terminated != nil && cs.State.Terminated.ExitCode != 0
	}
	switch {
	case over && failed:
		s.Phase = corev1.PodFailed
	case over:
		s.Phase = corev1.PodSucceeded
	case initialized:
		s.Phase = corev1.PodRunning
	}
	s.Conditions = p.conditions(initialized, ready && !over)
	return s
}

func (p *pod) conditions(initialized, ready bool) []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range []struct {
		kind corev1.PodConditionType
		is   bool
	}{{corev1.PodScheduled, true}, {corev1.PodInitialized, initialized}, {corev1.ContainersReady, ready}, {corev1.PodReady, ready}} {
		status := corev1.ConditionFalse
		if c.is {
			status = corev1.ConditionTrue
		}
		since := metav1.Now()
		for _, old := range p.k.conditionsOf(p) {
			if old.Type == c.kind && old.Status == status {
				since = old.LastTransitionTime
			}
		}
		out = append(out, corev1.PodCondition{Type: c.kind, Status: status, LastTransitionTime: since})
	}
	return out
}

func (c *container) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

func (c *container) status() corev1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	started := c.started
	s := corev1.ContainerStatus{Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image, ContainerID: "program://" + string(c.pod.spec.UID) + "/" + c.spec.Name,
		RestartCount: c.restarts, Ready: c.ready, Started: &started}
	switch {
	case c.cmd != nil:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.since)}
	case c.last != nil && c.over:
		s.State.Terminated = c.last
		s.Ready = c.init && c.last.ExitCode == 0
	default:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: c.waiting}
	}
	if c.last != nil && s.State.Terminated == nil {
		s.LastTerminationState.Terminated = c.last
	}
	return s
}
