package daemon

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/credentials/insecure"
)

// maxProgram is a limit in bytes for the program with its symbols, as built here;
// stripped it is less by a third.
const maxProgram = 48 << 20

// buildProgram builds posternd as it is shipped, but for its symbols.
func buildProgram(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "posternd")
	cmd := exec.Command("go", "build", "-o", file, "./cmd/posternd")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// TestProgram runs the program itself with the story's manifests.
func TestProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	file := buildProgram(t)
	if info, err := os.Stat(file); err != nil || info.Size() > maxProgram {
		t.Errorf("got %d bytes %v, want at most %d", info.Size(), err, maxProgram)
	}
	if runtime.GOOS == "linux" {
		if f, err := elf.Open(file); err != nil || f.Section(".interp") != nil {
			t.Errorf("want a static program: it needs nothing of where it runs (%v)", err)
		}
	}
	dirs := storyDirs(t)
	config := filepath.Join(t.TempDir(), "config.yaml")
	write(t, config, storyConfig(t)+"\nlisten: {grpc: '127.0.0.1:0', http: '127.0.0.1:0', linger: 1ms}\nmanifests: {pods: 10.244.0.0/16, dirs: ["+dirs[0]+"]}\n")
	var out, said output
	cmd := exec.Command(file, "--config", config, "--manifests", dirs[1])
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	eventually(t, "in force", func() bool { return strings.Contains(said.String(), "the manifests are read and in force") })
	_, rest, _ := strings.Cut(said.String(), "checks at ")
	addr, _, _ := strings.Cut(rest, " ")
	conn := dial(t, addr, insecure.NewCredentials())
	expect(t, conn, check(podAddress(t), inside, modelHost, modelPath), "allow")
	expect(t, conn, check("1.2.3.4", outside, "sklearn-iris.kserve-test.example.com", modelPath), "401 credential_required")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("%v: %s", err, said.String())
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("does not end: %s", said.String())
	}
	if n := strings.Count(out.String(), `"msg":"decision"`); n != 2 {
		t.Errorf("got %d decisions on standard output, want 2: %s", n, out.String())
	}
	for line := range strings.Lines(said.String()) {
		if !strings.HasPrefix(line, "posternd: ") {
			t.Errorf("got talk %q", line)
		}
	}
}

func TestGCFor(t *testing.T) {
	for live, want := range map[uint64]int{0: gcMost, 4 << 20: gcMost, 8 << 20: 400, 16 << 20: 200, 25 << 20: 100, 32 << 20: 100, 100 << 20: gcLeast, 10 << 30: gcLeast} {
		if got := gcFor(live); got != want {
			t.Errorf("%d MiB: got %d, want %d", live>>20, got, want)
		}
	}
}
