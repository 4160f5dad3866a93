package translate

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// knownLines are the lines there are translators for, oldest first: what is known without a checkout. A test compares it with translator/.
var knownLines = []string{"1.17", "1.22", "1.26", "1.28", "1.31"}

// ErrNoLine is that of a version for whose line there is no translator. Options.Nearest takes another line instead.
var ErrNoLine = errors.New("there is no translator for")

var (
	versionForm = regexp.MustCompile(`^v?((?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*))(?:\.(?:0|[1-9][0-9]*))?(?:[-+][0-9A-Za-z.+-]+)?$`)
	moduleForm  = regexp.MustCompile(`(?m)^module postern\.dev/postern/translator/contract$`)
)

// Line returns the Istio line of a version or of istiod's image: "docker.io/istio/pilot:1.17.5" and "1.17.5" are "1.17", "newest" is the
// newest there is. It is an error that lists the known lines if there is no translator for it.
func Line(version string) (string, error) {
	return lineOf(version, linesOf(findCheckout()))
}

// lineOf is Line with given lines, oldest first.
func lineOf(version string, known []string) (string, error) {
	if version == "newest" {
		return known[len(known)-1], nil
	}
	line, err := parseLine(version)
	if err != nil {
		return "", fmt.Errorf("%w; there are translators for %s", err, strings.Join(known, ", "))
	}
	if !slices.Contains(known, line) {
		return "", fmt.Errorf("%w istio %s, only for %s: "+
			"choose one of them or \"newest\", or add translator/istio-%s (translator/README.md says how)",
			ErrNoLine, line, strings.Join(known, ", "), line)
	}
	return line, nil
}

// renamed is the first line in which EnvoyFilters no longer match by deprecated filter names: what older lines let log in, it lets pass
// without. No nearest line is taken from across it (translator/README.md, "How lines differ", B).
const renamed = "1.19"

// nearest is the newest known line that is not newer than the one asked for, else the oldest known. For a line from 1.19 on, lines
// before it do not count as long as there are others.
func nearest(asked string, known []string) string {
	if compareLines(asked, renamed) >= 0 {
		after := slices.DeleteFunc(slices.Clone(known), func(line string) bool { return compareLines(line, renamed) < 0 })
		if len(after) > 0 {
			known = after
		}
	}
	out := known[0]
	for _, line := range known {
		if compareLines(line, asked) <= 0 {
			out = line
		}
	}
	return out
}

// parseLine reads a version or an image's tag.
func parseLine(version string) (string, error) {
	tag, _, _ := strings.Cut(version, "@") // a digest says nothing about the version
	tag = tag[strings.LastIndex(tag, "/")+1:]
	if _, after, ok := strings.Cut(tag, ":"); ok {
		tag = after
	} else if strings.Contains(version, "/") {
		return "", fmt.Errorf("got istio version %q, an image without a tag; want a version such as 1.17.5, a line such as 1.17, or newest", version)
	}
	m := versionForm.FindStringSubmatch(tag)
	if m == nil {
		return "", fmt.Errorf("got istio version %q, want a version such as 1.17.5, a line such as 1.17, or newest", version)
	}
	return m[1], nil
}

// linesOf lists the lines of a checkout, oldest first, or those known without one.
func linesOf(checkout string) []string {
	dirs, _ := filepath.Glob(filepath.Join(checkout, "translator", "istio-*", "go.mod"))
	var lines []string
	for _, d := range dirs {
		line := strings.TrimPrefix(filepath.Base(filepath.Dir(d)), "istio-")
		if got, err := parseLine(line); err == nil && got == line {
			lines = append(lines, line)
		}
	}
	if checkout == "" || len(lines) == 0 {
		return slices.Clone(knownLines)
	}
	slices.SortFunc(lines, compareLines)
	return lines
}

// compareLines orders 1.9 before 1.17.
func compareLines(a, b string) int {
	number := func(line string) (major, minor int) {
		x, y, _ := strings.Cut(line, ".")
		major, _ = strconv.Atoi(x)
		minor, _ = strconv.Atoi(y)
		return major, minor
	}
	amajor, aminor := number(a)
	bmajor, bminor := number(b)
	return cmp.Or(cmp.Compare(amajor, bmajor), cmp.Compare(aminor, bminor))
}

// findCheckout looks for a checkout upward from the working directory; empty if there is none.
func findCheckout() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		if isCheckout(dir) {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// isCheckout asks for the module, not only for a directory of that name.
func isCheckout(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "translator", "contract", "go.mod"))
	return err == nil && moduleForm.Match(b)
}
