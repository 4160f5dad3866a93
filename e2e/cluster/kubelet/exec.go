package kubelet

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/virtual-kubelet/virtual-kubelet/node/api"
	utilexec "k8s.io/utils/exec"
)

// enter is a command in a running container's namespaces, root, user and environment, not started.
func (c *container) enter(ctx context.Context, args []string) *exec.Cmd {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd == nil {
		return exec.CommandContext(ctx, "false")
	}
	pid := strconv.Itoa(c.cmd.Process.Pid)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", pid, "--mount", "--pid", "--net", "--uts", "--ipc", "--root", "--wd",
		"--setuid", c.identity(pid, "Uid:"), "--setgid", c.identity(pid, "Gid:"), "--"}, args...)...)
	if env, err := os.ReadFile("/proc/" + pid + "/environ"); err == nil {
		cmd.Env = strings.Split(strings.TrimRight(string(env), "\x00"), "\x00")
	}
	cmd.WaitDelay = time.Second
	return cmd
}

// identity is the process's user or group.
func (c *container) identity(pid, field string) string {
	status, _ := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == field {
			return f[1]
		}
	}
	return "65534"
}

// RunInContainer is kubectl exec: a command in a container, with a terminal if one is asked for.
func (k *Kubelet) RunInContainer(ctx context.Context, namespace, podName, containerName string, args []string, attach api.AttachIO) error {
	p, err := k.find(namespace, podName)
	if err != nil {
		return err
	}
	c := p.find(containerName)
	if c == nil || c.status().State.Running == nil {
		return missing(namespace, podName, containerName)
	}
	if attach.TTY() {
		// A shell's job control needs a session of the container's own PID namespace, which the terminal is given to.
		err = terminal(c.enter(ctx, append([]string{"setsid", "--ctty"}, args...)), attach)
	} else {
		err = pipes(c.enter(ctx, args), attach)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

func pipes(cmd *exec.Cmd, attach api.AttachIO) error {
	if out := attach.Stdout(); out != nil {
		defer out.Close()
		cmd.Stdout = out
	}
	if out := attach.Stderr(); out != nil {
		defer out.Close()
		cmd.Stderr = out
	}
	if in := attach.Stdin(); in != nil {
		// Not cmd.Stdin: Wait would wait for a caller who has no more to say and does not hang up.
		w, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(w, in)
			_ = w.Close()
		}()
	}
	return cmd.Run()
}

// terminal runs cmd on a terminal of its own.
func terminal(cmd *exec.Cmd, attach api.AttachIO) error {
	master, slave, err := pty.Open()
	if err != nil {
		return err
	}
	defer master.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = append(cmd.Env, "TERM=xterm")
	if err := cmd.Start(); err != nil {
		slave.Close()
		return err
	}
	slave.Close()
	go func() {
		for size := range attach.Resize() {
			_ = pty.Setsize(master, &pty.Winsize{Rows: size.Height, Cols: size.Width})
		}
	}()
	if in := attach.Stdin(); in != nil {
		go func() { _, _ = io.Copy(master, in) }()
	}
	out := attach.Stdout()
	defer out.Close()
	_, _ = io.Copy(out, master) // ends with the last process on the terminal
	return cmd.Wait()
}

// AttachToContainer is not supported: containers have no standard input.
func (k *Kubelet) AttachToContainer(context.Context, string, string, string, api.AttachIO) error {
	return errors.New("attach is not supported: use exec or logs")
}

// GetContainerLogs is a container's output, of all its starts.
func (k *Kubelet) GetContainerLogs(ctx context.Context, namespace, podName, containerName string, opts api.ContainerLogOpts) (io.ReadCloser, error) {
	p, err := k.find(namespace, podName)
	if err != nil {
		return nil, err
	}
	c := p.find(containerName)
	if c == nil {
		return nil, missing(namespace, podName, containerName)
	}
	f, err := os.Open(c.logFile())
	if err != nil {
		return nil, err
	}
	if opts.Tail > 0 {
		if err := seekTail(f, opts.Tail); err != nil {
			f.Close()
			return nil, err
		}
	}
	if !opts.Follow {
		return f, nil
	}
	r, w := io.Pipe()
	go func() {
		defer f.Close()
		for {
			if _, err := io.Copy(w, f); err != nil {
				return // the reader has gone
			}
			if !wait(ctx, 200*time.Millisecond) {
				w.Close()
				return
			}
		}
	}()
	return r, nil
}

// seekTail goes to the beginning of the last n lines.
func seekTail(f *os.File, n int) error {
	var starts []int64
	at := int64(0)
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadString('\n')
		if line != "" {
			starts = append(starts, at)
		}
		at += int64(len(line))
		if err != nil {
			break
		}
	}
	if n < len(starts) {
		at = starts[len(starts)-n]
	} else {
		at = 0
	}
	_, err := f.Seek(at, io.SeekStart)
	return err
}

// PortForward connects a stream with a port of the pod (of its address: what listens on loopback alone is not reached).
func (k *Kubelet) PortForward(ctx context.Context, namespace, podName string, port int32, stream io.ReadWriteCloser) error {
	p, err := k.find(namespace, podName)
	if err != nil {
		return err
	}
	defer stream.Close()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(p.ip, strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(conn, stream); done <- struct{}{} }()
	go func() { _, _ = io.Copy(stream, conn); done <- struct{}{} }()
	<-done
	return nil
}
