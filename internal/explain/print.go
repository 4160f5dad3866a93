package explain

import (
	"fmt"
	"io"
	"strings"
)

// Write prints an answer for a reader: the outcome first, then why, the walk,
// the headers, and what would change it.
func Write(out io.Writer, a *Answer) error {
	var b strings.Builder
	b.WriteString(a.headline() + "\n")
	list(&b, "warning: the cluster may answer otherwise", a.Warnings)
	list(&b, "why", a.Why)
	list(&b, "nearest", a.Nearest)
	list(&b, "assumed", a.Assumed)
	b.WriteString("\nthe walk:\n")
	for i, h := range a.Hops {
		h.write(&b, i+1)
	}
	if len(a.Headers) > 0 {
		title := "headers that reached the backend"
		switch {
		case a.Status != 0:
			title = "headers of the answer"
		case a.Outcome == Unknown:
			title = "headers so far"
		}
		b.WriteString("\n" + title + ":\n")
		for _, h := range a.Headers {
			fmt.Fprintf(&b, "  %s: %s\n", h[0], h[1])
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (a *Answer) headline() string {
	text := string(a.Outcome)
	switch a.Outcome {
	case Forwarded:
		text += fmt.Sprintf(" to %s, host %s, path %s", a.Backend, a.Host, a.Path)
		for _, h := range a.Headers {
			if h[0] == "kubeflow-userid" || h[0] == "x-postern-caller" {
				text += fmt.Sprintf(", %s %s", h[0], h[1])
			}
		}
		return text
	case Unknown:
		if len(a.Why) > 0 {
			text += ": " + a.Why[len(a.Why)-1]
		}
		return text
	}
	if a.Status != 0 {
		text += fmt.Sprintf(" with %d", a.Status)
	}
	for _, h := range a.Headers {
		if h[0] == "location" && a.Outcome == Redirected {
			text += " to " + h[1]
		}
	}
	if a.By != nil {
		text += " by " + a.By.String()
	}
	return text
}

func list(b *strings.Builder, title string, lines []string) {
	for i, line := range lines {
		if i == 0 {
			fmt.Fprintf(b, "\n%s:\n", title)
		}
		fmt.Fprintf(b, "  - %s\n", line)
	}
}

func (h Hop) write(b *strings.Builder, n int) {
	line := fmt.Sprintf("  %d %-6s %s", n, h.Kind, h.Name)
	if h.Address != "" && !strings.Contains(h.Name, h.Address) {
		line += " (" + h.Address + ")"
	}
	if h.Text != "" {
		line += ": " + h.Text
	}
	b.WriteString(line + "\n")
	width := 0
	for _, s := range h.Steps {
		width = max(width, len(s.stage()))
	}
	for _, s := range h.Steps {
		line := fmt.Sprintf("           %-*s  %s", width, s.stage(), s.Text)
		if s.By != nil {
			line += "; " + s.By.String()
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	for _, s := range h.Shares {
		line := "           by weight: " + s.String()
		if s.Taken {
			line += " (this walk)"
		}
		b.WriteString(line + "\n")
	}
}

// stage is a filter's name without what all have in common.
func (s Step) stage() string { return strings.TrimPrefix(s.Stage, "envoy.filters.http.") }
