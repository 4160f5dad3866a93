// Package cli is the command line, one file per command.
//
// The answer goes to standard output and the talk to standard error, prefixed
// with "postern:". Exit status 0 is yes, 1 is no, 2 is "could not tell": wrong
// usage, bad input, or something unknown.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// exit is an error that says how the program ends. It has been reported.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// hinted is an error with what to do about it.
type hinted struct {
	err   error
	hints []string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

func withHint(err error, hints ...string) error { return &hinted{err, hints} }

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// say writes talk.
func (s streams) say(format string, args ...any) {
	fmt.Fprintf(s.err, "postern: "+format+"\n", args...)
}

// Main runs one command and returns the exit status.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s := streams{stdin, stdout, stderr}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:   "postern",
		Short: "A side door for machines in Kubeflow's wall of logins",
		Long: `Postern keeps the login that is there for Kubeflow and gives each model and
each application behind the same Istio gateway its own rule for machines, in
Kubernetes RBAC.

Begin with "postern up" (the whole system in this process) or "postern demo"
(the problem, its usual fix, what that opens, and Postern's answer).`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return withHint(err, "see "+c.CommandPath()+" --help")
	})
	root.AddCommand(upCommand(s), demoCommand(s), explainCommand(s), execCommand(s), keyCommand(s), versionCommand(s))
	return s.status(root.ExecuteContext(ctx))
}

// status reports an error and turns it into an exit status.
func (s streams) status(err error) int {
	var e exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return int(e)
	}
	for line := range strings.Lines(err.Error()) {
		s.say("%s", strings.TrimRight(line, "\n"))
	}
	var h *hinted
	if errors.As(err, &h) {
		for _, hint := range h.hints {
			s.say("hint: %s", hint)
		}
	}
	return 2
}

// self is how the user called this program, for lines to paste.
func self() string {
	exe, err := os.Executable()
	if err == nil && strings.Contains(filepath.ToSlash(exe), "/go-build") {
		return "go run ./cmd/postern"
	}
	if len(os.Args) > 0 && os.Args[0] != "" && !strings.HasSuffix(os.Args[0], ".test") {
		return os.Args[0]
	}
	return "postern"
}
