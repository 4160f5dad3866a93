package kubelet

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// mount is one of a container's volumes: a folder or file of this machine at a path of the container.
type mount struct {
	Source, Target string
	ReadOnly       bool
}

// shimSpec is what a container's first process needs to know to become its program.
type shimSpec struct {
	Root   string // a folder of its own on a file system that can be an overlay's upper
	Binds  []mount
	Links  map[string]string // path in the container -> what it is a link to
	Files  map[string]string // path -> contents
	Reach  []string          // paths whose folders every user may pass
	Args   []string
	Env    []string
	Dir    string
	UID    int
	GID    int
	Groups []int
}

// Shim is the first process of a container: it builds the container's root around itself and becomes
// the container's program. It runs in namespaces that the caller made (mount, pid, network). It returns only an error.
func Shim(specFile string) error {
	data, err := os.ReadFile(specFile)
	if err != nil {
		return err
	}
	var s shimSpec
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	merged, err := s.overlay()
	if err != nil {
		return err
	}
	if err := s.fill(merged); err != nil {
		return err
	}
	if err := syscall.Chroot(merged); err != nil {
		return fmt.Errorf("chroot %s: %w", merged, err)
	}
	return s.become()
}

// overlay mounts the container's root: this machine's, with a layer of its own above it.
func (s *shimSpec) overlay() (string, error) {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("make mounts private: %w", err)
	}
	dirs := map[string]string{}
	for _, d := range []string{"upper", "work", "merged"} {
		dirs[d] = filepath.Join(s.Root, d)
		if err := os.MkdirAll(dirs[d], 0o755); err != nil {
			return "", err
		}
	}
	options := fmt.Sprintf("lowerdir=/,upperdir=%s,workdir=%s", dirs["upper"], dirs["work"])
	if err := syscall.Mount("overlay", dirs["merged"], "overlay", 0, options); err != nil {
		return "", fmt.Errorf("mount an overlay (%s): %w", options, err)
	}
	return dirs["merged"], nil
}

func (s *shimSpec) fill(merged string) error {
	// Links to absolute paths would lead out of the overlay while it is being filled.
	for _, d := range []string{"var/run", "var/lock"} {
		p := filepath.Join(merged, d)
		if fi, err := os.Lstat(p); err == nil && fi.Mode()&os.ModeSymlink != 0 {
			if err := os.Remove(p); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(p, 0o755); err != nil {
			return err
		}
	}
	for _, p := range s.Reach {
		for d := filepath.Dir(p); d != "/"; d = filepath.Dir(d) {
			if fi, err := os.Stat(filepath.Join(merged, d)); err == nil && fi.Mode()&0o5 != 0o5 {
				_ = os.Chmod(filepath.Join(merged, d), fi.Mode().Perm()|0o55)
			}
		}
	}
	for _, m := range []struct{ source, target, kind string }{{"proc", "proc", "proc"}, {"sysfs", "sys", "sysfs"}, {"/dev", "dev", ""}} {
		flags := uintptr(0)
		if m.kind == "" {
			flags = syscall.MS_BIND | syscall.MS_REC
		}
		if err := syscall.Mount(m.source, filepath.Join(merged, m.target), m.kind, flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for path, text := range s.Files {
		p := filepath.Join(merged, path)
		_ = os.Remove(p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for path, to := range s.Links {
		p := filepath.Join(merged, path)
		_ = os.RemoveAll(p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(to, p); err != nil {
			return err
		}
	}
	for _, m := range s.Binds {
		if err := m.bind(merged); err != nil {
			return fmt.Errorf("volume at %s: %w", m.Target, err)
		}
	}
	return nil
}

func (m mount) bind(merged string) error {
	target := filepath.Join(merged, m.Target)
	fi, err := os.Stat(m.Source)
	if err != nil {
		return err
	}
	if fi.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := syscall.Mount(m.Source, target, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return err
	}
	if m.ReadOnly {
		return syscall.Mount("", target, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	}
	return nil
}

func (s *shimSpec) become() error {
	dir := s.Dir
	if dir == "" {
		dir = "/"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := syscall.Chdir(dir); err != nil {
		return err
	}
	for _, kv := range s.Env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			os.Setenv("PATH", path) // where LookPath looks
		}
	}
	program, err := exec.LookPath(s.Args[0])
	if err != nil {
		return err
	}
	if err := syscall.Setgroups(s.Groups); err != nil {
		return err
	}
	if err := syscall.Setgid(s.GID); err != nil {
		return err
	}
	if err := syscall.Setuid(s.UID); err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", program, syscall.Exec(program, s.Args, s.Env))
}
