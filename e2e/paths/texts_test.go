//go:build e2e

package paths

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"postern.dev/postern/internal/envoy"
)

// TestTextsBeyondASCII compares string matchers on header values that are no ASCII,
// or no UTF-8: Envoy's RE2 reads bytes, and only the letters A to Z have a case.
func TestTextsBeyondASCII(t *testing.T) {
	matchers := []string{
		`{"safeRegex":{"regex":".+"}}`, `{"safeRegex":{"regex":"[^a]+"}}`, `{"safeRegex":{"regex":"(?i)k"}}`, `{"safeRegex":{"regex":"(?i)K+|S"}}`, `{"safeRegex":{"regex":"\\pL"}}`,
		`{"safeRegex":{"regex":"\\w+"}}`, `{"safeRegex":{"regex":"a.b"}}`, `{"safeRegex":{"regex":"a...b"}}`, `{"safeRegex":{"regex":"\\d"}}`, `{"safeRegex":{"regex":"(?s).*"}}`, `{"safeRegex":{"regex":".*"}}`,
		`{"safeRegex":{"regex":"é"}}`, `{"safeRegex":{"regex":"[é]"}}`, `{"safeRegex":{"regex":"(?i)É|x"}}`, `{"safeRegex":{"regex":"(?i)\\xb5"}}`, `{"safeRegex":{"regex":"(?i)\\xff"}}`,
		`{"exact":"É","ignoreCase":true}`, `{"exact":"k","ignoreCase":true}`, `{"contains":"ké","ignoreCase":true}`, `{"prefix":"É","ignoreCase":true}`, `{"suffix":"é","ignoreCase":true}`,
	}
	values := []string{"\xff", "\xed\xa0\x80", "é", "\u212a", "k", "ſ", "É", "xKé", "xkÉ", "\ufffd", "a\xffb", "\xc3", "\xe3", "\xa9", "\xb5", "\xdf", "a\u2028b", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xc0\x80", "٣", "a\tb", "\xf4\x8f\xbf\xbf"}
	var routes []string
	for i, m := range matchers {
		routes = append(routes, fmt.Sprintf(`{"match":{"prefix":"/%d/","headers":[{"name":"x","stringMatch":%s}]},"route":{"cluster":"up","timeout":"0s"}}`, i, m))
	}
	r, err := envoy.ParseResources([]json.RawMessage{json.RawMessage(fmt.Sprintf(listener, ports[0], false, strings.Join(routes, ",")))}, nil, []json.RawMessage{json.RawMessage(`{"name":"up"}`)})
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := envoy.Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	g := start(t, r)
	for i, m := range matchers {
		for _, v := range values {
			target := fmt.Sprintf("/%d/", i)
			got := g.ask(t, ports[0], target, "x: "+v+"\r\n")
			if ours := engine(proxy, ports[0], target, envoy.Header{Name: "x", Value: v}); ours != got {
				t.Errorf("%s on %q: Envoy %s, the engine %s", m, v, got, ours)
			}
		}
	}
}
