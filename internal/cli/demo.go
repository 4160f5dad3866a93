package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/lab/demo"
	"postern.dev/postern/internal/manifest"
)

func demoCommand(s streams) *cobra.Command {
	f := &systemFlags{}
	var output string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run the story's four states and print who gets through in each",
		Long: `Demo runs four systems one after the other, sends the same requests to each and
prints one table: login everywhere (the problem), the EnvoyFilter that changes
nothing, the path exemption (the usual fix, and what it opens), and Postern.

Exit status 0: every answer is the one the story tells. 1: some differ; they are
marked. 2: it could not be run.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return withHint(fmt.Errorf("got output %q, want json", output), "leave -o out for a table")
			}
			table, err := runDemo(c, s, f)
			if err != nil {
				return err
			}
			if output == "json" {
				e := json.NewEncoder(s.out)
				e.SetIndent("", "  ")
				err = e.Encode(table)
			} else {
				err = printDemo(s.out, table)
			}
			if err == nil && !table.OK() {
				return exit(1)
			}
			return err
		},
	}
	f.add(c)
	c.Flags().StringVarP(&output, "output", "o", "", "`FORMAT` of the answer: json (default: a table)")
	return c
}

func runDemo(c *cobra.Command, s streams, f *systemFlags) (demo.Table, error) {
	var states []demo.State
	for _, st := range story.States() {
		cfg, cleanup, err := f.config(s, func() (*manifest.Set, error) { return manifest.FS(story.FS, st.Dirs...) })
		if err != nil {
			return demo.Table{}, err
		}
		defer cleanup()
		states = append(states, demo.State{Title: st.Title, Config: cfg})
	}
	table, err := demo.Run(c.Context(), states, s.err)
	if err != nil && c.Context().Err() != nil {
		return table, errors.New("interrupted")
	}
	return table, err
}

// printDemo writes the table, then what differs and why.
func printDemo(w io.Writer, t demo.Table) error {
	lines := [][]string{append([]string{""}, t.States...)}
	for _, r := range t.Rows {
		line := []string{r.Name}
		for i, c := range r.Got {
			text := c.String()
			if r.Got[i] != r.Want[i] {
				text += " (!)"
			}
			line = append(line, text)
		}
		lines = append(lines, line)
	}
	width := make([]int, len(lines[0]))
	for _, l := range lines {
		for i, text := range l {
			width[i] = max(width[i], utf8.RuneCountInString(text))
		}
	}
	var b strings.Builder
	for n, l := range lines {
		var row strings.Builder
		for i, text := range l {
			row.WriteString(text + strings.Repeat(" ", width[i]-utf8.RuneCountInString(text)+2))
		}
		b.WriteString(strings.TrimRight(row.String(), " ") + "\n")
		if n == 0 {
			total := 0
			for _, x := range width {
				total += x + 2
			}
			b.WriteString(strings.Repeat("-", total-2) + "\n")
		}
	}
	b.WriteString("\n\"as\" is whom the backend was told it serves: kubeflow-userid, or x-postern-caller for a machine.\n")
	for _, state := range t.States {
		for _, why := range t.Why[state] {
			fmt.Fprintf(&b, "\n%s: nothing changes: %s\n", state, why)
		}
	}
	for _, r := range t.Rows {
		for _, i := range r.Wrong() {
			fmt.Fprintf(&b, "\n(!) %s, %s: got %s, want %s\n", r.Name, t.States[i], r.Got[i], r.Want[i])
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
