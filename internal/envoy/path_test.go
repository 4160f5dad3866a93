package envoy

import "testing"

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

func FuzzNormalizePath(f *testing.F) {
	f.Add("/a/..;x/%2e/b?c")
	f.Fuzz(func(t *testing.T, in string) {
		once, ok := normalizePath(in)
		if ok && (once == "" || once[0] != '/') {
			t.Errorf("normalizePath(%q) = %q: no leading slash", in, once)
		}
	})
}
