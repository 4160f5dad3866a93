package cli

import (
	"errors"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/lab/control"
)

func execCommand(s streams) *cobra.Command {
	var namespace string
	var stdin, tty bool
	var pid int
	c := &cobra.Command{
		Use:   "exec POD -- COMMAND [ARG...]",
		Short: "Run a command with a pod's network (finds the running postern up)",
		Long: `Exec runs a command of this machine with the network of a pod of the running
"postern up": http_proxy names a proxy that knows the cluster's names and calls
from that pod's own address. The command sees this machine's files.

As with kubectl exec, -i and -t may be given; the terminal is passed on anyway.`,
		Example: `  postern exec myapp-pod -- curl -s http://sklearn-iris.kserve-test.svc.cluster.local/v1/models
  postern exec --stdin --tty myapp-pod -- /bin/sh`,
		Args: func(c *cobra.Command, args []string) error {
			if c.ArgsLenAtDash() != 1 || len(args) < 2 {
				return withHint(errors.New("want one pod, then -- and a command"), "for example: "+self()+" exec myapp-pod -- /bin/sh")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			info, err := control.Find(pid)
			if errors.Is(err, control.ErrNotRunning) {
				return withHint(err, "start it in another terminal: "+self()+" up")
			}
			if err != nil {
				return err
			}
			pod, err := info.Pod(c.Context(), namespace, strings.TrimPrefix(args[0], "pod/"))
			if err != nil {
				return err
			}
			return run(s, args[1:], environment(os.Environ(), pod))
		},
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "the pod's namespace")
	c.Flags().BoolVarP(&stdin, "stdin", "i", false, "pass standard input on (always done)")
	c.Flags().BoolVarP(&tty, "tty", "t", false, "standard input is a terminal (passed on as it is)")
	c.Flags().IntVar(&pid, "up", 0, "the process id of the postern up to use, when several run")
	return c
}

// environment is env with the pod's proxy in place of every other, and the
// variables by which a pod knows itself.
func environment(env []string, pod control.Pod) []string {
	drop := map[string]bool{"http_proxy": true, "https_proxy": true, "all_proxy": true, "no_proxy": true}
	var out []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if !drop[strings.ToLower(name)] {
			out = append(out, kv)
		}
	}
	return append(out, "http_proxy="+pod.Proxy, "HTTP_PROXY="+pod.Proxy, "https_proxy="+pod.Proxy, "HTTPS_PROXY="+pod.Proxy,
		"HOSTNAME="+pod.Name, "POD_NAME="+pod.Name, "POD_NAMESPACE="+pod.Namespace, "POD_IP="+pod.Address)
}

// run runs the command and ends with its exit status.
func run(s streams, args, env []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	err := cmd.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		if code := failed.ExitCode(); code >= 0 {
			return exit(code)
		}
		return exit(130) // ended by a signal
	}
	return err
}
