package daemon

import (
	"io"
	"sync"
	"time"
)

const (
	flushEvery = 100 * time.Millisecond
	flushAt    = 32 << 10 // bytes
	maxWaiting = 4 << 20  // bytes; beyond, who writes waits
)

// lines gathers what is written and passes it on in one write now and then: a
// system call for every decision costs more than the decision. Nothing is left
// out; what is not yet passed on, at most a tenth of a second's, is lost only with
// the process.
type lines struct {
	out  io.Writer
	mu   sync.Mutex
	room sync.Cond
	buf  []byte
	done bool
	err  error
	wake chan struct{}
	idle chan struct{}
}

func newLines(out io.Writer) *lines {
	l := &lines{out: out, wake: make(chan struct{}, 1), idle: make(chan struct{})}
	l.room.L = &l.mu
	go l.run() // ends with Close
	return l
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.buf) > maxWaiting && !l.done {
		l.room.Wait()
	}
	if l.done {
		return 0, io.ErrClosedPipe
	}
	before := len(l.buf)
	l.buf = append(l.buf, p...)
	if before == 0 || before < flushAt && len(l.buf) >= flushAt {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return len(p), l.err
}

func (l *lines) run() {
	defer close(l.idle)
	var spare []byte
	for {
		<-l.wake
		l.pause()
		l.mu.Lock()
		full, done := l.buf, l.done
		l.buf = spare[:0]
		l.room.Broadcast()
		l.mu.Unlock()
		var err error
		if len(full) > 0 {
			_, err = l.out.Write(full)
		}
		l.mu.Lock()
		if l.err == nil {
			l.err = err
		}
		l.mu.Unlock()
		spare = full
		if done {
			return
		}
	}
}

// pause gathers for a while, not so long when there is much.
func (l *lines) pause() {
	l.mu.Lock()
	much := l.done || len(l.buf) >= flushAt
	l.mu.Unlock()
	if much {
		return
	}
	select {
	case <-l.wake:
	case <-time.After(flushEvery):
	}
}

// Close passes on what is left.
func (l *lines) Close() error {
	l.mu.Lock()
	l.done = true
	l.room.Broadcast()
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	<-l.idle
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
