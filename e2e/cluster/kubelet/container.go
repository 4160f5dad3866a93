package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// container is one of a pod's. Its fields below mu are guarded by it.
type container struct {
	pod  *pod
	spec *corev1.Container
	init bool

	mu       sync.Mutex
	cmd      *exec.Cmd // running, or nil
	since    time.Time
	started  bool
	ready    bool
	restarts int32
	last     *corev1.ContainerStateTerminated
	over     bool   // it has ended and will not be started again
	waiting  string // why it does not run
}

// sidecar says whether an init container goes on beside the others.
func (c *container) sidecar() bool {
	return c.init && c.spec.RestartPolicy != nil && *c.spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (c *container) note(format string, args ...any) {
	c.pod.k.log("%s/%s %s: "+format, append([]any{c.pod.spec.Namespace, c.pod.spec.Name, c.spec.Name}, args...)...)
}

// run keeps the container running as the pod's restart policy wants it, until ctx ends. It is the last exit code.
func (c *container) run(ctx context.Context) int32 {
	policy := c.pod.spec.Spec.RestartPolicy
	pause := time.Second
	for {
		began := time.Now()
		code := c.once(ctx)
		again := !c.pod.isDeleting() && (policy == corev1.RestartPolicyAlways && !c.init || c.sidecar() || policy != corev1.RestartPolicyNever && code != 0)
		c.mu.Lock()
		c.over = ctx.Err() != nil || !again
		c.waiting = "CrashLoopBackOff"
		c.mu.Unlock()
		c.pod.changed()
		if c.over {
			return code
		}
		if time.Since(began) > time.Minute {
			pause = time.Second
		}
		if !wait(ctx, pause) {
			return code
		}
		pause = min(2*pause, 20*time.Second)
		c.mu.Lock()
		c.restarts++
		c.mu.Unlock()
	}
}

// once starts the container's program and waits for its end.
func (c *container) once(ctx context.Context) int32 {
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		c.note("%v", err)
		return 128
	}
	defer log.Close()
	if err := log.Chmod(0o666); err != nil { // a program of another user opens /dev/stdout again
		c.note("%v", err)
	}
	cmd, err := c.command(ctx, log)
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintf(log, "cannot start: %v\n", err)
		c.note("cannot start: %v", err)
		c.ended(time.Now(), 128, err.Error())
		return 128
	}
	began := time.Now()
	c.mu.Lock()
	c.cmd, c.since, c.started, c.ready = cmd, began, c.spec.StartupProbe == nil, false
	c.mu.Unlock()
	probes, cancel := context.WithCancel(ctx)
	var probing sync.WaitGroup
	probing.Go(func() { c.watch(probes) })
	err = cmd.Wait()
	cancel()
	probing.Wait()
	code, message := int32(cmd.ProcessState.ExitCode()), ""
	if code < 0 {
		code = 137
	}
	if err != nil {
		message = err.Error()
	}
	c.ended(began, code, message)
	_ = os.RemoveAll(c.root())
	return code
}

func (c *container) ended(began time.Time, code int32, message string) {
	reason := "Completed"
	if code != 0 {
		reason = "Error"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cmd, c.ready, c.started = nil, false, false
	c.last = &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message,
		StartedAt: metav1.NewTime(began), FinishedAt: metav1.Now()}
}

// watch runs the container's probes: the startup probe first, then the others.
func (c *container) watch(ctx context.Context) {
	if hook := c.spec.Lifecycle; hook != nil && hook.PostStart != nil {
		c.hook(ctx, hook.PostStart)
	}
	if c.spec.StartupProbe != nil {
		one, cancel := context.WithCancel(ctx)
		c.probing(one, c.spec.StartupProbe, func(ok bool) {
			if ok {
				c.set(func() { c.started = true })
			} else {
				c.signal(syscall.SIGKILL)
			}
			cancel()
		})
		cancel()
	}
	var probes sync.WaitGroup
	if c.spec.ReadinessProbe == nil {
		c.set(func() { c.ready = true })
	} else {
		probes.Go(func() {
			c.probing(ctx, c.spec.ReadinessProbe, func(ok bool) { c.set(func() { c.ready = ok }) })
		})
	}
	if c.spec.LivenessProbe != nil {
		probes.Go(func() {
			c.probing(ctx, c.spec.LivenessProbe, func(ok bool) {
				if !ok {
					c.note("liveness probe failed, killing it")
					c.signal(syscall.SIGKILL)
				}
			})
		})
	}
	probes.Wait()
}

func (c *container) set(change func()) {
	c.mu.Lock()
	change()
	c.mu.Unlock()
	c.pod.changed()
}

func (c *container) isStarted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started
}

func (c *container) signal(s syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd != nil {
		_ = c.cmd.Process.Signal(s)
	}
}

// hook runs one of the container's lifecycle hooks; it may fail.
func (c *container) hook(ctx context.Context, h *corev1.LifecycleHandler) {
	var err error
	switch {
	case h.HTTPGet != nil:
		err = c.httpGet(ctx, h.HTTPGet)
	case h.Exec != nil:
		err = c.enter(ctx, h.Exec.Command).Run()
	case h.Sleep != nil:
		wait(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
	}
	if err != nil {
		c.note("hook: %v", err)
	}
}

func (c *container) logFile() string {
	return filepath.Join(c.pod.k.Logs, strings.Join([]string{c.pod.spec.Namespace, c.pod.spec.Name, c.spec.Name}, "_")+".log")
}

// root is where the container's layer is while it runs.
func (c *container) root() string { return filepath.Join(c.pod.dir, "roots", c.spec.Name) }

// command is the shim that becomes the container's program, not started.
func (c *container) command(ctx context.Context, log io.Writer) (*exec.Cmd, error) {
	spec, err := c.shim(ctx)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.root(), 0o755); err != nil {
		return nil, err
	}
	file := filepath.Join(c.root(), "spec.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	args := []string{c.pod.k.Self, "container", file}
	if c.pod.pause != nil {
		args = append([]string{"nsenter", "--target", strconv.Itoa(c.pod.pause.Process.Pid), "--net", "--uts", "--ipc", "--"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Setsid: true}
	return cmd, nil
}

func (c *container) shim(ctx context.Context) (*shimSpec, error) {
	p := c.pod
	image, err := p.k.Images(c.spec.Image)
	if err != nil {
		return nil, err
	}
	env, err := p.environment(ctx, c.spec, image)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		vars[k] = v
	}
	args := image.Entrypoint
	if len(c.spec.Command) > 0 {
		args = c.spec.Command
	}
	if len(c.spec.Args) > 0 || len(c.spec.Command) > 0 {
		args = append(append([]string{}, args...), c.spec.Args...)
	} else {
		args = append(append([]string{}, args...), image.Args...)
	}
	s := &shimSpec{Root: c.root(), Links: image.Links, Env: env, Dir: c.spec.WorkingDir, Reach: p.k.Binds,
		Files: map[string]string{"/etc/resolv.conf": p.resolver(), "/etc/hosts": p.hosts(), "/etc/hostname": p.hostname() + "\n"}}
	maps.Copy(s.Files, image.Files)
	for _, a := range args {
		s.Args = append(s.Args, expand(a, vars))
	}
	if len(s.Args) == 0 {
		return nil, fmt.Errorf("image %s: no command", c.spec.Image)
	}
	for _, bind := range p.k.Binds {
		s.Binds = append(s.Binds, mount{Source: bind, Target: bind, ReadOnly: true})
	}
	if err := c.mounts(s, vars); err != nil {
		return nil, err
	}
	c.user(s, image)
	return s, nil
}

func (c *container) mounts(s *shimSpec, vars map[string]string) error {
	for _, m := range c.spec.VolumeMounts {
		source := ""
		for i := range c.pod.spec.Spec.Volumes {
			if v := &c.pod.spec.Spec.Volumes[i]; v.Name == m.Name {
				source = c.pod.volumeDir(v)
			}
		}
		if source == "" {
			return fmt.Errorf("no volume %q", m.Name)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expand(m.SubPathExpr, vars)
		}
		s.Binds = append(s.Binds, mount{Source: filepath.Join(source, sub), Target: m.MountPath, ReadOnly: m.ReadOnly})
	}
	return nil
}

// nonroot is the user of an image that must not be root's and names no user of its own.
const nonroot = 65532

func (c *container) user(s *shimSpec, image Program) {
	s.UID, s.GID = image.User, image.User
	refuseRoot := false
	if sc := c.pod.spec.Spec.SecurityContext; sc != nil {
		set(&s.UID, sc.RunAsUser)
		set(&s.GID, sc.RunAsGroup)
		refuseRoot = sc.RunAsNonRoot != nil && *sc.RunAsNonRoot
		if sc.FSGroup != nil {
			s.Groups = append(s.Groups, int(*sc.FSGroup))
		}
	}
	if sc := c.spec.SecurityContext; sc != nil {
		set(&s.UID, sc.RunAsUser)
		set(&s.GID, sc.RunAsGroup)
		if sc.RunAsNonRoot != nil {
			refuseRoot = *sc.RunAsNonRoot
		}
	}
	if refuseRoot && s.UID == 0 {
		s.UID, s.GID = nonroot, nonroot
	}
}

func set(to *int, from *int64) {
	if from != nil {
		*to = int(*from)
	}
}
