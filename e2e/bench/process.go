package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that runs for the benchmark.
type process struct {
	name   string
	cmd    *exec.Cmd
	said   said
	exited chan struct{}
	at     int // its port, where it does not say it by itself
}

// said is what a program says on standard error.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func mustSelf() string {
	exe, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return exe
}

// start runs a program; decisions get its standard output, env is added to the
// environment.
func (b *bench) start(name string, decisions io.Writer, env []string, program string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(program, args...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = decisions, &p.said
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // how it ended does not matter, that it did does
		close(p.exited)
	}()
	b.started = append(b.started, p)
	return p, nil
}

// until waits for a text that the program says.
func (p *process) until(ctx context.Context, text string) error {
	for range 6000 { // five minutes: a large cluster takes its time
		if strings.Contains(p.said.String(), text) {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended: %s", p.name, p.said.String())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s never says %q: %s", p.name, text, p.said.String())
}

// port is where the program says that it takes checks.
func (p *process) port() int {
	if p.at != 0 {
		return p.at
	}
	at := regexp.MustCompile(`checks at (\S+)`)
	for range 100 {
		if m := at.FindStringSubmatch(p.said.String()); m != nil {
			if _, port, err := net.SplitHostPort(m[1]); err == nil {
				n, _ := strconv.Atoi(port) // 0: Envoy will not connect
				return n
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return 0
}

// cpu is the time that the process has used, all threads: the scheduler's own
// count in nanoseconds (/proc/PID/task/TID/schedstat on Linux).
func (p *process) cpu() (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("no CPU time of %s is to be had: want Linux with /proc/PID/task/TID/schedstat (%v)", p.name, err)
	}
	var total time.Duration
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a thread that ended
		}
		fields := strings.Fields(string(data))
		if err != nil || len(fields) == 0 {
			return 0, fmt.Errorf("%s is not as expected (%v)", file, err)
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(n)
	}
	return total, nil
}

// resident is the memory that the process holds, in megabytes; 0 when it is not
// known.
func (p *process) resident() float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if fields := strings.Fields(string(data)); err == nil && len(fields) > 1 {
		pages, _ := strconv.ParseFloat(fields[1], 64) // 0 when it is no number
		return pages * float64(os.Getpagesize()) / 1e6
	}
	return 0
}

func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.exited:
		return nil
	case <-time.After(15 * time.Second):
		return p.cmd.Process.Kill()
	}
}
