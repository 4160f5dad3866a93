package envoy

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The pairs were seen with Envoy 1.40 under Istio 1.17's connection manager
// (normalize_path: true, slashes not merged, escaped slashes kept).
func TestNormalizePath(t *testing.T) {
	tests := []struct{ in, want string }{
		{"/v%31/x", "/v1/x"},
		{"/a/../v1/x", "/v1/x"},
		{"/a/%2e%2e/v1", "/v1"},
		{"/a/%2E%2e%2fv1", "/a/..%2fv1"},
		{"//v1//x", "//v1//x"},
		{`/a\b`, "/a/b"},
		{`/a\..\b`, "/b"},
		{"/a/./b/.", "/a/b/"},
		{"/a/..", "/"},
		{"/..", "/"},
		{"/a%zz", "/a%zz"},
		{"/a%", "/a%"},
		{"/a%00b", ""},
		{"/a;b/c", "/a;b/c"},
		{"/%7Euser/%41%61%2d%2F%5c", "/~user/Aa-%2F%5c"},
		{"/a|b^c`d{e}\"<>", "/a%7Cb%5Ec%60d%7Be%7D%22%3C%3E"},
		{"/a/%2e./b", "/b"},
		{"/%c0%af", "/%c0%af"},
		{"/a[b]:@!$&()*+,='", "/a[b]:@!$&()*+,='"},
		{"/a/%2E", "/a/"},
		{"/...", "/..."},
		{"/a/%2e%2e%2e", "/a/..."},
		{"/a//../b", "/a/b"},
		{"/a/b/../..//c", "//c"},
		{"/%5c..", "/%5c.."},
		{`/a?b\c`, `/a?b\c`},
		{"/%25%32e", "/%252e"},
		{"/a/..?", "/?"},
		{"///..", "//"},
		{"//..", "/"},
		{"/..//..", "/"},
		{"?x", ""},
		{"a", ""},
		{"", ""},
		// literal dots with parameters, and the near misses with escaped dots
		{"/a/..;/b", "/b"},
		{"/a/..;x/b", "/b"},
		{"/a/.;x", "/a/"},
		{"/a/%2e%2e;/b", "/a/..;/b"},
		{"/a/.%2e;q=1/b", "/a/..;q=1/b"},
		{"/a/..%3b/b", "/a/..%3b/b"},
		{"/a/..,/b", "/a/..,/b"},
		{"/a/b/c;/..;d/../e", "/a/e"},
		{`/de/\.;/x`, "/de//.;/x"},
		{"/a%3%311", "/a%25311"},
		{"/a%%31x", "/a%1x"},
		{"/a%/../%31", "/1"},
		{"/%/../ab%63", "/abc"},
		{"/a%%312", "/a%2512"},
	}
	for _, test := range tests {
		got, ok := normalizePath(test.in)
		if !ok {
			got = ""
		}
		if got != test.want {
			t.Errorf("normalizePath(%q) = %q, want %q", test.in, got, test.want)
		}
	}
}

// recorded is testdata/paths.txt: what Envoy 1.40 made of each target, without and
// with merged slashes (e2e/paths wrote it and asks again).
func recorded(t testing.TB) map[string][2]string {
	t.Helper()
	data, err := os.ReadFile("testdata/paths.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][2]string{}
	for line := range strings.Lines(string(data)) {
		columns := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		target, err := strconv.Unquote(columns[0])
		if err != nil || len(columns) != 3 {
			t.Fatalf("line %q: %v", line, err)
		}
		out[target] = [2]string{columns[1], columns[2]}
	}
	return out
}

// normalized is what the connection manager makes of a target, as the table says it.
func normalized(t testing.TB, target string) [2]string {
	t.Helper()
	var out [2]string
	for i, merge := range []bool{false, true} {
		var s stream
		switch o := (&connManager{useRemoteAddress: true, normalize: true, mergeSlashes: merge}).accept(Request{Method: "GET", Authority: "a", Path: target}, &s); {
		case o == nil:
			out[i] = strconv.Quote(s.path)
		case o.Kind == Local:
			out[i] = strconv.Itoa(o.Status)
		default:
			t.Fatal(o.Reason)
		}
	}
	return out
}

func TestPathsAsEnvoyRecorded(t *testing.T) {
	table := recorded(t)
	if len(table) < 4000 {
		t.Errorf("got %d recorded targets", len(table))
	}
	for target, want := range table {
		if got := normalized(t, target); got != want {
			t.Errorf("%q: got %s, want %s", target, got, want)
		}
	}
}

// FuzzNormalizePath holds what must be true of every target; its seeds, the
// recorded ones, must also come out as recorded.
func FuzzNormalizePath(f *testing.F) {
	table := recorded(f)
	for i, target := range slices.Sorted(maps.Keys(table)) {
		if i%8 == 0 {
			f.Add(target)
		}
	}
	f.Fuzz(func(t *testing.T, in string) {
		got := normalized(t, in)
		if want, ok := table[in]; ok && got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
		path, _, _ := strings.Cut(in, "#")
		once, ok := normalizePath(path)
		if !ok {
			return
		}
		if once == "" || once[0] != '/' {
			t.Errorf("normalizePath(%q) = %q: no leading slash", path, once)
		}
		if traits, valid := targetTraits(path); valid && traits&pathUnusual == 0 && once != path {
			t.Errorf("normalizePath(%q) = %q, and nothing in it was found unusual", path, once)
		}
		clean, _, _ := strings.Cut(once, "?")
		for segment := range strings.SplitSeq(clean, "/") {
			if segment == "." || segment == ".." {
				t.Errorf("normalizePath(%q) = %q: a dot segment is left", path, once)
			}
		}
	})
}
