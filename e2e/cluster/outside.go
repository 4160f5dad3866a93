package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var (
	errStopped = errors.New("stopped")
	errFailed  = errors.New("failed") // and has said why
)

// doors are the addresses of this machine by which the cluster is reached, where the command line names no others:
// each leads to a Unix socket in the state folder, and from there on inside.
var doors = map[string]string{"api": "127.0.0.1:16443", "gateway": "127.0.0.1:18080"}

// up runs the cluster in new namespaces until a signal ends it. All that it starts is in one PID namespace, whose
// first process dies with this one: nothing can outlive it, nor anything it has mounted, connected or filtered. more are
// arguments for that process.
func up(state, root string, more ...string) error {
	if err := prerequisites(); err != nil {
		return err
	}
	state, err := filepath.Abs(state)
	if err != nil {
		return err
	}
	if pid, err := running(state); err == nil {
		return fmt.Errorf("a cluster runs already (process %d, %s): stop it with: make cluster-stop", pid, state)
	}
	if err := os.RemoveAll(state); err != nil {
		return err
	}
	if err := os.MkdirAll(state, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Join(state, "run"))
	if err := os.WriteFile(filepath.Join(state, "pid"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return err
	}
	defer os.Remove(filepath.Join(state, "pid"))
	if err := os.WriteFile(filepath.Join(state, "gateway"), []byte(doors["gateway"]), 0o644); err != nil { // for who comes later
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	runtime.LockOSThread() // Pdeathsig is about the thread
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.Command(self, slices.Concat([]string{"inside", "--state", state, "--root", root}, more, doorFlags())...)
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID}
	if err := child.Start(); err != nil {
		return fmt.Errorf("make namespaces (root is needed): %w", err)
	}
	for name, address := range doors {
		l, err := net.Listen("tcp", address)
		if err != nil {
			_ = child.Process.Kill()
			return err
		}
		go forward(l, "unix", filepath.Join(state, name+".sock"))
	}
	done := make(chan error, 1)
	go func() { done <- child.Wait() }()
	select {
	case err = <-done:
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 {
			err = errFailed
		}
	case <-signals:
		err = errStopped
		_ = child.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(20 * time.Second):
		case <-signals:
		}
	}
	_ = child.Process.Kill()
	return err
}

// doorFlags names the doors on a command line.
func doorFlags() []string { return []string{"--api", doors["api"], "--gateway", doors["gateway"]} }

// forward passes each connection on to an address.
func forward(l net.Listener, network, address string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			to, err := net.Dial(network, address)
			if err != nil {
				return
			}
			defer to.Close()
			go func() {
				_, _ = io.Copy(to, from)
				if w, ok := to.(interface{ CloseWrite() error }); ok {
					_ = w.CloseWrite()
				}
			}()
			_, _ = io.Copy(from, to)
		}()
	}
}

// prerequisites names what is missing, and how to get it.
func prerequisites() error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed: for namespaces, a bridge and packet filters of its own")
	}
	var missing []string
	for _, tool := range [][2]string{{"ip", "iproute2"}, {"nft", "nftables"}, {"iptables", "iptables"}, {"nsenter", "util-linux"}, {"sysctl", "procps"}, {"hostname", "hostname"}, {"curl", "curl"}} {
		if _, err := exec.LookPath(tool[0]); err != nil {
			missing = append(missing, tool[1])
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing programs; install them with: apt-get install %s", strings.Join(missing, " "))
	}
	return nil
}

// running is the process of the cluster whose state is there.
func running(state string) (int, error) {
	text, err := os.ReadFile(filepath.Join(state, "pid"))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, err
	}
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err == nil && !strings.Contains(string(command), "\x00up") {
		err = fmt.Errorf("process %d is something else", pid)
	}
	return pid, err
}

// stop ends the cluster that runs, and waits for its end.
func stop(state string) error {
	pid, err := running(state)
	if err != nil {
		fmt.Println("no cluster runs")
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return err
	}
	for range 300 {
		if _, err := running(state); err != nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("process %d does not end: kill -9 %d ends it with all it started", pid, pid)
}
