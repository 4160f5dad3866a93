package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"postern": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// The scripts are the contract of the command line; POSTERN_UPDATE=1 rewrites
// what they compare with.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("POSTERN_UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			root, err := filepath.Abs("../..")
			if err != nil {
				return err
			}
			e.Setenv("ROOT", root)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+"/cache")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"await": await,
		},
	})
}

// await runs a command until it succeeds: "await postern exec myapp-pod -- true".
func await(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if _, ok := err.(*exec.Error); ok || time.Now().After(deadline) {
			ts.Fatalf("%v: %v", args, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
