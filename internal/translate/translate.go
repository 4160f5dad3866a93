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
	// Inbound asks of a sidecar only for what becomes of requests to its workload: listener virtualInbound, and the clusters it leads to.
	Inbound bool `json:"inbound,omitempty"`
}

// Input is what is translated: Kubernetes and Istio objects in JSON, and the proxies to translate them for.
type Input struct {
	Objects []json.RawMessage `json:"objects"`
	Proxies []Proxy           `json:"proxies"`

	// JWKS are key sets that istiod would fetch for RequestAuthentications without inline keys, in JSON: by a rule's jwksUri or, for a
	// rule without one, by its issuer. Where one is missing a placeholder key of Istio's stands in, with a warning: nothing is fetched.
	JWKS map[string]string `json:"jwks,omitempty"`
}

// Rejection is an object the translation goes without, or does not take whole, and why.
type Rejection struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
	Message    string `json:"message"`
}

// Warning is something that is not as in the cluster, and why: an object, or all of the translation where no object is named.
type Warning struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Message   string `json:"message"`
}

// String is the warning in one line.
func (w Warning) String() string {
	if w.Kind == "" {
		return w.Message
	}
	return fmt.Sprintf("%s %s/%s: %s", w.Kind, w.Namespace, w.Name, w.Message)
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
	Warnings []Warning     `json:"warnings,omitempty"`
	Proxies  []ProxyConfig `json:"proxies"`
}

// Options say which Istio translates and where things are. The zero value but for Version works.
type Options struct {
	Version  string    // "1.17.5", a line "1.17", an image of istiod, or "newest"
	Bundled  fs.FS     // committed translations, *.json as Bundle writes them; may be nil
	Dir      string    // cache directory; empty: os.UserCacheDir()/postern
	Checkout string    // the directory that holds translator/; empty: searched upward from the working directory
	Progress io.Writer // what takes more than two seconds says so here; nil: nowhere

	// Nearest takes another line where there is no translator for the one asked for: the newest that is not newer, else the oldest,
	// but none from across 1.19, where EnvoyFilters stop matching by deprecated names. Each answer then has a warning. Without it a missing line is an error.
	Nearest bool
}

// Translate answers from the committed translations, from the cache, or by running the line's translator, which it builds if need be.
// Equal inputs give equal outputs, wherever they come from.
func Translate(ctx context.Context, in Input, o Options) (*Output, error) {
	w, err := newWorkshop(o)
	if err != nil {
		return nil, err
	}
	out, err := w.translate(ctx, in, o.Bundled)
	if err != nil {
		return nil, err
	}
	// Only here: what is kept is right for the line that it is kept under.
	if w.asked != "" {
		warning := Warning{Message: fmt.Sprintf("there is no translator for istio %s: this is what istio %s makes of it, the nearest there is. "+
			"Istio %s may answer otherwise", w.asked, out.Istio, w.asked)}
		out.Warnings = append([]Warning{warning}, out.Warnings...)
	}
	return out, nil
}

func (w *workshop) translate(ctx context.Context, in Input, committed fs.FS) (*Output, error) {
	key := in.Key(w.line)
	if out, err := bundled(committed, w.line, key, in); out != nil || err != nil {
		return out, err
	}
	found := w.find()
	if out := w.cached(key, found.identity, in); out != nil {
		return out, nil
	}
	if found.path == "" {
		var err error
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
// and proxies does not count, as it does not count in a translation. Key sets count only where there are some, so that the keys of
// translations made before there were any stay.
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
	for uri, keys := range in.JWKS {
		b, err := json.Marshal([]string{uri, keys})
		if err != nil {
			panic(err) // strings only
		}
		lines = append(lines, "jwks "+string(b))
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
	asked    string // the line asked for, where line is the nearest to it; else empty
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
	known := linesOf(w.checkout)
	if w.line, err = lineOf(o.Version, known); err != nil {
		asked, wrong := parseLine(o.Version)
		if !o.Nearest || wrong != nil {
			return nil, err
		}
		w.line, w.asked = nearest(asked, known), asked
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
