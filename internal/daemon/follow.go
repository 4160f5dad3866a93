package daemon

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// poll is how often files are looked at unless told otherwise. A mounted ConfigMap or Secret changes by
// a symbolic link, which file events are easily lost for.
const poll = time.Second

// follower reads files again when they change.
type follower struct {
	what  string
	names func() []string
	load  func() error

	read string // what the files looked like when they were read last
	seen string // what they looked like at the last look
}

// first reads the files.
func (f *follower) first() error {
	f.read = look(f.names())
	f.seen = f.read
	return f.load()
}

// changed tells whether there is something new to read. It waits until two looks
// see the same, as files are written in several steps.
func (f *follower) changed() bool {
	now := look(f.names())
	quiet := now == f.seen
	f.seen = now
	if !quiet || now == f.read {
		return false
	}
	f.read = now
	return true
}

// look is a text that differs when a file does: by name, size and time of change.
func look(names []string) string {
	var b strings.Builder
	for _, n := range names {
		info, err := os.Stat(n) // of what a link leads to
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", n, err)
			continue
		}
		fmt.Fprintf(&b, "%s: %d %d\n", n, info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}

// followAll reads what was not read yet, then whatever changes, until ctx ends.
func (d *Daemon) followAll(ctx context.Context) {
	for _, f := range d.follow {
		if f.read == "" {
			d.loaded(f, d.aside(f.first), "read")
		}
	}
	tick := time.NewTicker(d.poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, f := range d.follow {
			if f.changed() {
				d.loaded(f, d.aside(f.load), "read again")
			}
		}
	}
}

func (d *Daemon) loaded(f *follower, err error, how string) {
	d.metrics.read(f.what, err)
	if err != nil {
		d.say("%v", err)
		d.say("%s have errors: what was in force before stays", f.what)
		return
	}
	d.say("%s are %s and in force", f.what, how)
}
