package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Addresses of the cluster's network. Pods have addresses of 10.244.0.0/16, the machine itself the first of them.
const (
	nodeName    = "node"
	nodeAddress = "10.244.0.1"
	apiService  = "10.96.0.1"
	dnsService  = "10.96.0.10"
)

// upMessage is said when everything is there.
const upMessage = "the cluster is up"

// cluster is the one that runs: its folders, its programs.
type cluster struct {
	state    string // on this machine's disk: kubeconfig, logs, sockets
	run      string // on a tmpfs of its own: etcd's data, certificates, pods' files
	tools    string // where the programs are
	root     string // the checkout
	self     string
	begun    time.Time
	failed   chan error // a program that ended by itself
	modules  modules
	layout   *layout // nil: the story's
	corpus   string  // the folder of layouts
	netIstio string  // net-istio's controller; empty: the stand-in
}

// inside brings the cluster up. It is the first process of the PID namespace.
func inside(state, root, corpus, netIstio string, layout *layout) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	c := &cluster{state: state, run: "/run/cluster", begun: time.Now(), failed: make(chan error, 8), layout: layout, netIstio: netIstio}
	var err error
	if c.corpus, err = filepath.Abs(corpus); err != nil {
		return err
	}
	if c.root, err = filepath.Abs(root); err != nil {
		return err
	}
	if c.tools, err = filepath.EvalSymlinks(filepath.Join(c.root, ".tools")); err != nil {
		return fmt.Errorf("nothing is built yet: run make cluster-build: %w", err)
	}
	if c.self, err = os.Executable(); err != nil {
		return err
	}
	if err := c.findModules(); err != nil {
		return err
	}
	if err := c.namespaces(); err != nil {
		return err
	}
	for _, d := range []string{filepath.Join(c.state, "logs"), c.run} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := c.bringUp(ctx); err != nil {
		if ctx.Err() != nil {
			return errStopped
		}
		return err
	}
	fmt.Printf("%s\n\n    export KUBECONFIG=%s\n    kubectl get svc -n kserve-test\n    kubectl exec --stdin --tty myapp-pod -- /bin/sh\n\nthe gateway is http://%s; Ctrl-C, or make cluster-stop, ends it all\n",
		upMessage, filepath.Join(c.state, "kubeconfig"), doors["gateway"])
	select {
	case <-ctx.Done():
		return errStopped
	case err := <-c.failed:
		return err
	}
}

// namespaces makes this process's own: mounts that are seen here only, and a network with a bridge.
func (c *cluster) namespaces() error {
	mounts := []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"", "/", "", syscall.MS_REC | syscall.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
	}
	for _, m := range mounts {
		if err := syscall.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	resolver := fmt.Sprintf("nameserver %s\nsearch svc.cluster.local cluster.local\noptions ndots:5\n", dnsService)
	if err := os.WriteFile("/run/resolv.conf", []byte(resolver), 0o644); err != nil {
		return err
	}
	if err := syscall.Mount("/run/resolv.conf", "/etc/resolv.conf", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /etc/resolv.conf: %w", err)
	}
	if err := syscall.Sethostname([]byte(nodeName)); err != nil {
		return err
	}
	for _, line := range []string{
		"ip link set lo up",
		"ip link add br0 type bridge",
		"ip address add " + nodeAddress + "/16 dev br0",
		"ip link set br0 up",
		"ip route add 10.96.0.0/12 dev br0", // connect needs a route before the filters change the address
		"sysctl -q -w net.ipv4.ip_forward=1",
		"sysctl -q -w net.bridge.bridge-nf-call-iptables=1", // else answers of one pod to another are not changed back
	} {
		args := strings.Fields(line)
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

// say tells the person who waits.
func (c *cluster) say(format string, args ...any) {
	fmt.Printf("%5.1fs  %s\n", time.Since(c.begun).Seconds(), fmt.Sprintf(format, args...))
}

// program starts one that was built for the cluster.
func (c *cluster) program(name string, env []string, args ...string) error {
	path := filepath.Join(c.tools, "cluster", name)
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s is not built: run make cluster-build", name)
	}
	return c.start(name, env, path, args...)
}

// start starts one of the cluster's own programs, with a log of its own. Its end is the cluster's.
func (c *cluster) start(name string, env []string, path string, args ...string) error {
	log, err := os.Create(filepath.Join(c.state, "logs", name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		err := cmd.Wait()
		c.failed <- fmt.Errorf("%s ended: %v; its log: %s", name, err, log.Name())
	}()
	return nil
}

// door lets the machine outside in: a socket in the state folder that leads to an address here.
func (c *cluster) door(name, address string) error {
	l, err := net.Listen("unix", filepath.Join(c.state, name+".sock"))
	if err != nil {
		return err
	}
	go forward(l, "tcp", address)
	return nil
}

// until tries again until f succeeds. After limit it is f's last error.
func (c *cluster) until(ctx context.Context, limit time.Duration, f func() error) error {
	end := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case failed := <-c.failed:
			return failed
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("after %s: %w", limit, err)
		}
	}
}
