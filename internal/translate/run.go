package translate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

const (
	maxOutput = 512 << 20 // 10,000 models are some tens of MB
	maxErrors = 64 << 10
)

var errTooLong = errors.New("output is too long")

// run translates with a program.
func (w *workshop) run(ctx context.Context, path string, in Input) (*Output, error) {
	request, err := marshal(in)
	if err != nil {
		return nil, fmt.Errorf("objects for the translator: %w", err)
	}
	stdout := &bounded{max: maxOutput, fail: true}
	stderr := &bounded{max: maxErrors}
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), stdout, stderr
	cmd.Env = environment()
	cmd.WaitDelay = tick
	err = w.wait(cmd, "translating", func() string { return "" })
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, errTooLong):
		return nil, fmt.Errorf("%s: got more than %d MiB of output", path, maxOutput>>20)
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %s", path, err, strings.TrimSpace(stderr.buf.String()))
	}
	out, err := decode(stdout.buf.Bytes(), w.line, in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

// environment is all a translator gets: Istio reads hundreds of feature flags from variables, and the same input must give the same output.
func environment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "SYSTEMROOT"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// bounded keeps the first bytes. Beyond them it fails, or drops the rest. The buffer is a field: embedded, its ReadFrom would go around Write.
type bounded struct {
	buf  bytes.Buffer
	max  int
	fail bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.max - b.buf.Len()
	if len(p) <= room {
		return b.buf.Write(p)
	}
	if b.fail {
		return 0, errTooLong
	}
	b.buf.Write(p[:room])
	return len(p), nil
}
