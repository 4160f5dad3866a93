//go:build e2e

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// walkthroughs are the same transcript with explanations in two languages.
var walkthroughs = []string{"docs/walkthrough.md", "docs/walkthrough.ko.md"}

// block is a part of a walkthrough that the tests write: its name in a comment, and what was run.
var block = regexp.MustCompile("(?s)<!-- run: ([a-z0-9 -]+) -->\n```console\n(.*?)```\n")

// TestWalkthrough, the last, holds the committed transcript against what the tests before it ran. What varies from run
// to run is taken out of both (transcript_test.go); POSTERN_UPDATE=1 writes the rest anew.
func TestWalkthrough(t *testing.T) {
	names, shown := map[string][]string{}, map[string]string{}
	for _, file := range walkthroughs {
		path := filepath.Join(root, file)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if os.Getenv("POSTERN_UPDATE") != "" {
			text = block.ReplaceAllFunc(text, func(old []byte) []byte {
				name := string(block.FindSubmatch(old)[1])
				if ran, ok := script.blocks[name]; ok {
					return []byte("<!-- run: " + name + " -->\n```console\n" + ran + "```\n")
				}
				return old
			})
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range block.FindAllStringSubmatch(string(text), -1) {
			names[file] = append(names[file], m[1])
			if other, ok := shown[m[1]]; ok && other != m[2] {
				t.Errorf("%s, %q: the other language shows another block:\n%s", file, m[1], differing(other, m[2]))
			}
			shown[m[1]] = m[2]
			if ran, ok := script.blocks[m[1]]; ok && ran != m[2] {
				t.Errorf("%s, %q: it is not what ran:\n%s", file, m[1], differing(m[2], ran))
			}
		}
		for _, name := range script.order {
			if !slices.Contains(names[file], name) {
				t.Errorf("%s does not show %q, which ran", file, name)
			}
		}
	}
	if a, b := names[walkthroughs[0]], names[walkthroughs[1]]; !slices.Equal(a, b) {
		t.Errorf("the languages show different blocks: %q and %q", a, b)
	}
	for _, file := range walkthroughs {
		if finished && len(names[file]) != len(script.order) {
			t.Errorf("%s shows %q, and %q ran", file, names[file], script.order)
		}
	}
}

// differing are the lines that are in one text and not in the other, in their order.
func differing(committed, ran string) string {
	a, b := strings.Split(committed, "\n"), strings.Split(ran, "\n")
	var out strings.Builder
	for _, line := range a {
		if !slices.Contains(b, line) {
			out.WriteString("- " + line + "\n")
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			out.WriteString("+ " + line + "\n")
		}
	}
	if out.Len() == 0 {
		return "the same lines, in another order or number"
	}
	return out.String()
}
