// Package translate asks the translator of an Istio line what that Istio makes of objects: it finds the program or builds it, runs it,
// and keeps its answers by their content. It links no Istio; the contract is described in translator/README.md.
package translate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Proxy is a workload's Envoy, as it would introduce itself to istiod.
type Proxy struct {
	Name           string            `json:"name"` // POD.NAMESPACE
	Type           string            `json:"type"` // router or sidecar
	Namespace      string            `json:"namespace"`
	ServiceAccount string            `json:"serviceAccount,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Addresses      []string          `json:"addresses"`
}

// Input is what is translated: Kubernetes and Istio objects in JSON, and the proxies to translate them for.
type Input struct {
	Objects []json.RawMessage `json:"objects"`
	Proxies []Proxy           `json:"proxies"`
}

// Rejection is an object the translation goes without, or does not take whole, and why.
type Rejection struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
	Message    string `json:"message"`
}

// ProxyConfig is the configuration of one proxy: Envoy's v3 protos as protojson, each list sorted by name.
type ProxyConfig struct {
	Name      string            `json:"name"`
	Listeners []json.RawMessage `json:"listeners"`
	Routes    []json.RawMessage `json:"routes"`
	Clusters  []json.RawMessage `json:"clusters"`
}

// Output is what an Istio version made of an Input. Proxies are sorted by name.
type Output struct {
	Istio    string        `json:"istio"` // the version that did it
	Rejected []Rejection   `json:"rejected"`
	Proxies  []ProxyConfig `json:"proxies"`
}

// Options say which Istio translates and where things are. The zero value but for Version works.
type Options struct {
	Version  string    // "1.17.5", a line "1.17", an image of istiod, or "newest"
	Bundled  fs.FS     // committed translations, *.json as Bundle writes them; may be nil
	Dir      string    // cache directory; empty: os.UserCacheDir()/postern
	Checkout string    // the directory that holds translator/; empty: searched upward from the working directory
	Progress io.Writer // what takes more than two seconds says so here; nil: nowhere
}

// Translate answers from the committed translations, from the cache, or by running the line's translator, which it builds if need be.
// Equal inputs give equal outputs, wherever they come from.
func Translate(ctx context.Context, in Input, o Options) (*Output, error) {
	w, err := newWorkshop(o)
	if err != nil {
		return nil, err
	}
	key := in.Key(w.line)
	if out, err := bundled(o.Bundled, w.line, key, in); out != nil || err != nil {
		return out, err
	}
	found := w.find()
	if out := w.cached(key, found.identity, in); out != nil {
		return out, nil
	}
	if found.path == "" {
		if found, err = w.build(ctx); err != nil {
			return nil, err
		}
	}
	out, err := w.run(ctx, found.path, in)
	if err != nil {
		return nil, err
	}
	if err := w.keep(key, found.identity, out); err != nil {
		w.sayf("the translation could not be kept: %v", err)
	}
	return out, nil
}

// Key is the content address of a translation: SHA-256 over the line and the canonical JSON of the input, in hex. The order of objects
// and proxies does not count, as it does not count in a translation.
func (in Input) Key(line string) string {
	var lines []string
	for _, o := range in.Objects {
		lines = append(lines, "object "+canonical(o))
	}
	for _, p := range in.Proxies {
		b, err := json.Marshal(p)
		if err != nil {
			panic(err) // strings only
		}
		lines = append(lines, "proxy "+canonical(b))
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte("line " + line + "\n" + strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:])
}

// canonical sorts an object's keys and drops white space. What is no JSON stays as it is: the translator will refuse it.
func canonical(b []byte) string {
	var v any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil || dec.More() {
		return string(b)
	}
	out, err := marshal(v)
	if err != nil {
		return string(b)
	}
	return string(out)
}

// marshal is json.Marshal that leaves <, > and & alone.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// decode reads a translator's answer to in, from wherever it comes, and checks that it is one.
func decode(b []byte, line string, in Input) (*Output, error) {
	var compact bytes.Buffer // raw messages keep the white space around them, and committed translations are indented
	if err := json.Compact(&compact, b); err != nil {
		return nil, err
	}
	var out Output
	if err := json.Unmarshal(compact.Bytes(), &out); err != nil {
		return nil, err
	}
	if got, err := parseLine(out.Istio); err != nil || got != line {
		return nil, fmt.Errorf("got a translation by istio %q, want one by %s", out.Istio, line)
	}
	var got, want []string
	for _, p := range out.Proxies {
		got = append(got, p.Name)
	}
	for _, p := range in.Proxies {
		want = append(want, p.Name)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return nil, fmt.Errorf("got a translation for proxies %q, want %q", got, want)
	}
	return &out, nil
}

// workshop is where the translations of one line are made and kept.
type workshop struct {
	line     string
	dir      string // empty: nothing is kept
	checkout string // empty: nothing can be built
	progress io.Writer
}

func newWorkshop(o Options) (*workshop, error) {
	w := &workshop{dir: o.Dir, checkout: o.Checkout, progress: o.Progress}
	if w.progress == nil {
		w.progress = io.Discard
	}
	if w.checkout != "" && !isCheckout(w.checkout) {
		return nil, fmt.Errorf("%s is no checkout of postern: it has no translator/contract/go.mod", w.checkout)
	}
	if w.checkout == "" {
		w.checkout = findCheckout()
	}
	var err error
	if w.line, err = lineOf(o.Version, linesOf(w.checkout)); err != nil {
		return nil, err
	}
	if w.dir == "" {
		if cache, err := os.UserCacheDir(); err == nil {
			w.dir = filepath.Join(cache, "postern")
		}
	}
	return w, nil
}

// sayf reports progress, one line at a time.
func (w *workshop) sayf(format string, args ...any) {
	fmt.Fprintf(w.progress, "istio "+w.line+": "+format+"\n", args...)
}
