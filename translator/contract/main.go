package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sort"
)

// Line is one Istio line: the version that translates, and the translation.
type Line struct {
	Version   string
	Translate func(*World) ([]ProxyConfig, error)
}

// Main is a translator's main function. It exits 0 with a Response on stdout, 1 if the translation failed, 2 if the request is wrong.
func (l Line) Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == "-version" {
		fmt.Fprintln(stdout, l.Version)
		return 0
	}
	if len(args) != 0 {
		fmt.Fprintf(stderr, "translator %s: got arguments %q, want a request on stdin and no argument but -version\n", l.Version, args)
		return 2
	}
	var req Request
	dec := json.NewDecoder(stdin)
	dec.DisallowUnknownFields()
	err := dec.Decode(&req)
	if err == nil {
		err = req.validate()
	}
	if err == nil && dec.More() {
		err = errors.New("more than one JSON value")
	}
	if err != nil {
		fmt.Fprintf(stderr, "translator %s: request: %v\n", l.Version, err)
		return 2
	}
	out, err := l.Run(&req)
	if err != nil {
		fmt.Fprintf(stderr, "translator %s: %v\n", l.Version, err)
		return 1
	}
	if _, err := stdout.Write(out); err != nil {
		fmt.Fprintf(stderr, "translator %s: %v\n", l.Version, err)
		return 1
	}
	return 0
}

// Run translates one request and returns the bytes of the Response.
func (l Line) Run(req *Request) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("istio panicked: %v\n%s", p, debug.Stack())
		}
	}()
	w := newWorld(req)
	proxies, err := l.Translate(w)
	if err != nil {
		return nil, err
	}
	inbound := map[string]bool{}
	for _, p := range req.Proxies {
		inbound[p.Name] = p.Inbound
	}
	for i, p := range proxies {
		if inbound[p.Name] {
			if proxies[i], err = inboundOnly(p); err != nil {
				return nil, err
			}
		}
	}
	sort.Slice(proxies, func(i, j int) bool { return proxies[i].Name < proxies[j].Name })
	if proxies == nil {
		proxies = []ProxyConfig{}
	}
	return marshal(Response{Istio: l.Version, Rejected: w.rejections(), Warnings: w.warned(), Proxies: proxies})
}

// marshal is json.Marshal without the escapes for HTML, with a newline at the end.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}
