package lab

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long files must be quiet before they are read: an editor writes
// in several steps.
const settle = 150 * time.Millisecond

// Watch calls changed whenever one of the named files or folders changed, until
// ctx ends. An error means that watching could not begin.
func Watch(ctx context.Context, names []string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	for _, dir := range folders(names) {
		if err := w.Add(dir); err != nil {
			return err
		}
	}
	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Events:
			if !ok {
				return nil
			}
			if e.Op&^fsnotify.Chmod != 0 && concerns(e.Name, names) {
				quiet.Reset(settle)
			}
		case <-quiet.C:
			changed()
		case _, ok := <-w.Errors:
			if !ok {
				return nil
			}
			quiet.Reset(settle) // events may be lost: look
		}
	}
}

// folders are the directories to watch: a file is watched by its folder, since
// editors replace files.
func folders(names []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, n := range names {
		if n == "-" {
			continue
		}
		dir := n
		if !isDir(n) {
			dir = filepath.Dir(n)
		}
		if !seen[dir] {
			seen[dir] = true
			out = append(out, dir)
		}
	}
	return out
}

func concerns(file string, names []string) bool {
	for _, n := range names {
		if filepath.Clean(n) == filepath.Clean(file) || filepath.Clean(n) == filepath.Dir(filepath.Clean(file)) {
			return true
		}
	}
	return false
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
