package kubelet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// Bridge is the device that the pods' networks hang on. The caller has made it.
const Bridge = "br0"

// Pause is the process that holds a pod's namespaces open: it does nothing, until it is killed.
func Pause() error {
	select {}
}

// connect makes the pod's network namespace, with an address of its own on the bridge.
func (p *pod) connect() error {
	if p.spec.Spec.HostNetwork {
		p.ip = p.k.Address
		return nil
	}
	p.pause = exec.Command(p.k.Self, "pause")
	p.pause.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	if err := p.pause.Start(); err != nil {
		return fmt.Errorf("hold the pod's network open: %w", err)
	}
	n := p.k.nextAddress()
	p.ip = fmt.Sprintf("10.244.%d.%d", n>>8, n&255)
	pid := strconv.Itoa(p.pause.Process.Pid)
	host := "veth" + strconv.Itoa(n)
	inside := func(args ...string) []string {
		return append([]string{"nsenter", "--target", pid, "--net", "--uts", "--"}, args...)
	}
	for _, args := range [][]string{
		{"ip", "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", pid},
		{"ip", "link", "set", host, "master", Bridge},
		{"bridge", "link", "set", "dev", host, "hairpin", "on"},
		{"ip", "link", "set", host, "up"},
		inside("ip", "link", "set", "lo", "up"),
		inside("ip", "address", "add", p.ip+"/16", "dev", "eth0"),
		inside("ip", "link", "set", "eth0", "up"),
		inside("ip", "route", "add", "default", "via", p.k.Address),
		inside("sysctl", "-q", "-w", "net.ipv4.ip_unprivileged_port_start=0"),
		inside("hostname", p.hostname()),
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

func (p *pod) disconnect() {
	if p.pause != nil && p.pause.Process != nil {
		_ = p.pause.Process.Kill()
		_ = p.pause.Wait()
	}
	_ = os.RemoveAll(filepath.Join(p.dir, "volumes"))
}

func (p *pod) hostname() string {
	if h := p.spec.Spec.Hostname; h != "" {
		return h
	}
	if len(p.spec.Name) > 63 {
		return strings.TrimRight(p.spec.Name[:63], "-.")
	}
	return p.spec.Name
}

// resolver is the pod's resolv.conf.
func (p *pod) resolver() string {
	s := p.spec.Spec
	search := []string{p.spec.Namespace + ".svc.cluster.local", "svc.cluster.local", "cluster.local"}
	servers, options := []string{p.k.DNS}, []string{"ndots:5"}
	if s.DNSPolicy == corev1.DNSNone {
		search, servers, options = nil, nil, nil
	}
	if c := s.DNSConfig; c != nil {
		servers, search = append(servers, c.Nameservers...), append(search, c.Searches...)
		for _, o := range c.Options {
			text := o.Name
			if o.Value != nil {
				text += ":" + *o.Value
			}
			options = append(options, text)
		}
	}
	var b strings.Builder
	for _, server := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	fmt.Fprintf(&b, "search %s\noptions %s\n", strings.Join(search, " "), strings.Join(options, " "))
	return b.String()
}

func (p *pod) hosts() string {
	return fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", p.ip, p.hostname())
}
