package translate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// fakeMode is the variable by which the test binary plays the translator.
const fakeMode = "POSTERN_TEST_TRANSLATOR"

func TestMain(m *testing.M) {
	if mode := os.Getenv(fakeMode); mode != "" {
		os.Exit(fakeTranslator(mode))
	}
	os.Exit(m.Run())
}

// fakeTranslator answers with a listener for each object, rejects what is of kind Odd, and warns of each key set.
func fakeTranslator(mode string) int {
	switch mode {
	case "fails":
		fmt.Fprintln(os.Stderr, "translator 1.17.5: no luck today")
		return 1
	case "hangs":
		time.Sleep(time.Minute)
		return 1
	case "garbage":
		fmt.Println(`{"istio":"1.17.5","proxies":[`)
		return 0
	}
	var in Input
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	out := Output{Istio: "1.17.5", Rejected: []Rejection{}}
	if mode == "other line" {
		out.Istio = "1.18.7"
	}
	if mode == "leaks" {
		for _, v := range os.Environ() {
			name, _, _ := strings.Cut(v, "=")
			out.Rejected = append(out.Rejected, Rejection{Kind: "Variable", Name: name})
		}
	}
	for uri := range in.JWKS {
		out.Warnings = append(out.Warnings, Warning{"RequestAuthentication", "ns", "x", "given " + uri})
	}
	for _, p := range in.Proxies {
		c := ProxyConfig{Name: p.Name, Listeners: []json.RawMessage{}, Routes: []json.RawMessage{}, Clusters: []json.RawMessage{}}
		for _, o := range in.Objects {
			if strings.Contains(string(o), "Odd") {
				out.Rejected = append(out.Rejected, Rejection{"v1", "Odd", "ns", "x", "not read"})
				continue
			}
			c.Listeners = append(c.Listeners, o)
		}
		if mode != "no proxies" {
			out.Proxies = append(out.Proxies, c)
		}
	}
	b, _ := marshal(out)
	os.Stdout.Write(append(b, '\n'))
	return 0
}

// bench is a place without a checkout, with a translator of 1.17 in PATH that notes each run.
type bench struct {
	t       *testing.T
	options Options
	runs    string // a file with a line for each run
}

func newBench(t *testing.T, mode string) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{t: t, runs: filepath.Join(dir, "runs"), options: Options{Version: "1.17.5", Dir: filepath.Join(dir, "cache")}}
	t.Chdir(dir)
	t.Setenv("PATH", filepath.Join(dir, "bin")+":/usr/bin:/bin")
	if mode != "" {
		b.install(mode)
	}
	return b
}

// install puts a translator in PATH, in place of the one that is there.
func (b *bench) install(mode string) {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\necho run >> '%s'\nexec /usr/bin/env '%s=%s' '%s'\n", b.runs, fakeMode, mode, self)
	path := filepath.Join(filepath.Dir(b.runs), "bin", "postern-translator-istio-1.17")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) translate(in Input) *Output {
	b.t.Helper()
	out, err := Translate(b.t.Context(), in, b.options)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// wantRuns checks how often the translator ran so far.
func (b *bench) wantRuns(want int) {
	b.t.Helper()
	notes, _ := os.ReadFile(b.runs)
	if got := bytes.Count(notes, []byte("\n")); got != want {
		b.t.Errorf("got %d runs of the translator, want %d", got, want)
	}
}

func input(objects ...string) Input {
	in := Input{Proxies: []Proxy{{Name: "gw.ns", Type: "router", Namespace: "ns", Addresses: []string{"10.0.0.1"}}}}
	for _, o := range objects {
		in.Objects = append(in.Objects, json.RawMessage(o))
	}
	return in
}

var plain = input(`{"kind":"Gateway","spec":{"a":"<&>","n":1.50}}`)

func TestRunsOnceAndKeeps(t *testing.T) {
	b := newBench(t, "answers")
	first := b.translate(plain)
	if first.Istio != "1.17.5" || len(first.Proxies) != 1 || string(first.Proxies[0].Listeners[0]) != string(plain.Objects[0]) {
		t.Fatalf("got %+v, want the object as listener", first)
	}
	second := b.translate(plain)
	b.wantRuns(1)
	if !reflect.DeepEqual(first, second) {
		t.Errorf("got from the cache %+v, want %+v", second, first)
	}
	b.translate(input(`{"kind":"Gateway","spec":{"a":"<&>","n":1.51}}`))
	b.wantRuns(2)
	b.install("answers ") // another program of that name
	b.translate(plain)
	b.wantRuns(3)
	if err := os.Remove(filepath.Join(filepath.Dir(b.runs), "bin", "postern-translator-istio-1.17")); err != nil {
		t.Fatal(err)
	}
	if again := b.translate(plain); !reflect.DeepEqual(first, again) {
		t.Errorf("got without any translator %+v, want %+v", again, first)
	}
}

func TestRejectedIsPassedOn(t *testing.T) {
	b := newBench(t, "answers")
	in := input(`{"kind":"Gateway"}`, `{"kind":"Odd"}`)
	want := []Rejection{{"v1", "Odd", "ns", "x", "not read"}}
	for _, from := range []string{"translator", "cache"} {
		if got := b.translate(in).Rejected; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", from, got, want)
		}
	}
	b.wantRuns(1)
}

func TestKeysAndWarnings(t *testing.T) {
	b := newBench(t, "answers")
	in := input(`{"kind":"Gateway"}`)
	if got := b.translate(in).Warnings; got != nil {
		t.Errorf("got warnings %+v, want none", got)
	}
	in.JWKS = map[string]string{"https://a.b/keys": `{"keys":[]}`}
	want := []Warning{{"RequestAuthentication", "ns", "x", "given https://a.b/keys"}}
	for _, from := range []string{"translator", "cache"} {
		if got := b.translate(in).Warnings; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got warnings %+v, want %+v", from, got, want)
		}
	}
	b.wantRuns(2)
}

// TestNearestLine: only when asked for, with a warning in every answer, wherever the answer comes from, and in none of another question.
func TestNearestLine(t *testing.T) {
	b := newBench(t, "answers")
	b.options.Version = "docker.io/istio/pilot:1.18.3"
	if _, err := Translate(t.Context(), plain, b.options); err == nil || !strings.Contains(err.Error(), "there is no translator for istio 1.18") {
		t.Errorf("got %v, want an error: nobody asked for the nearest", err)
	}
	b.options.Nearest = true
	bundle, err := Bundle("1.17", plain, &Output{Istio: "1.17.5", Rejected: []Rejection{}, Proxies: []ProxyConfig{{Name: "gw.ns"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"translator", "cache", "committed"} {
		if from == "committed" {
			b.options.Bundled = fstest.MapFS{"plain.json": {Data: bundle}}
		}
		out := b.translate(plain)
		if len(out.Warnings) != 1 || !strings.HasPrefix(out.Warnings[0].String(), "there is no translator for istio 1.18: this is what istio 1.17.5 makes of it") {
			t.Errorf("%s: got warnings %v, want one that names 1.18 and 1.17.5", from, out.Warnings)
		}
	}
	b.wantRuns(1)
	b.options.Version, b.options.Bundled = "1.17", nil
	if got := b.translate(plain).Warnings; len(got) != 0 {
		t.Errorf("got warnings %v for the line itself, want none", got)
	}
	b.wantRuns(1)
	b.options.Version = "1.x"
	if _, err := Translate(t.Context(), plain, b.options); err == nil || !strings.Contains(err.Error(), "want a version such as") {
		t.Errorf("got %v, want an error: nothing is near to no version", err)
	}
}

func TestBundled(t *testing.T) {
	b := newBench(t, "answers")
	made := b.translate(plain)
	bundle, err := Bundle("1.17", plain, made)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Bundle("1.17", plain, made); err != nil || !bytes.Equal(bundle, again) {
		t.Errorf("got another bundle for the same translation (%v)", err)
	}
	if !bytes.Contains(bundle, []byte("\n  \"key\": ")) || !bytes.HasSuffix(bundle, []byte("}\n")) || !bytes.Contains(bundle, []byte("<&>")) {
		t.Errorf("got bundle %s, want it indented and readable", bundle)
	}

	b = newBench(t, "")
	b.options.Bundled = fstest.MapFS{"other.json": {Data: []byte(`{"key":"x","line":"1.17"}`)}, "story.json": {Data: bundle}}
	if got := b.translate(plain); !reflect.DeepEqual(got, made) {
		t.Errorf("got bundled %+v, want %+v", got, made)
	}
	if _, err := Translate(t.Context(), input(`{"kind":"Gateway2"}`), b.options); err == nil {
		t.Error("got a translation of what is not bundled, want an error")
	}
	b.options.Version = "1.31"
	if _, err := Translate(t.Context(), plain, b.options); err == nil {
		t.Error("got 1.17's bundled translation for 1.31, want an error")
	}
	b.options.Version, b.options.Bundled = "1.17", fstest.MapFS{"broken.json": {Data: bundle[:len(bundle)/2]}}
	if _, err := Translate(t.Context(), plain, b.options); err == nil || !strings.Contains(err.Error(), "broken.json") {
		t.Errorf("got %v, want an error that names broken.json", err)
	}
	if _, err := Bundle("1.31", plain, made); err == nil {
		t.Error("got a bundle of 1.17's translation as 1.31's, want an error")
	}
}

func TestDamagedCache(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func([]byte) []byte
		runs   int
	}{
		{"whole", func(b []byte) []byte { return b }, 1},
		{"cut off", func(b []byte) []byte { return b[:len(b)-10] }, 2},
		{"empty", func([]byte) []byte { return nil }, 2},
		{"not ours", func([]byte) []byte { return []byte(`{"hello":"world"}`) }, 2},
		{"another key", func(b []byte) []byte { return bytes.Replace(b, []byte(`"key":"`), []byte(`"key":"0`), 1) }, 2},
		{"another line", func(b []byte) []byte { return bytes.Replace(b, []byte(`"line":"1.17"`), []byte(`"line":"1.31"`), 1) }, 2},
		{"one byte changed", func(b []byte) []byte { return bytes.Replace(b, []byte(`1.50`), []byte(`1.60`), 1) }, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, "answers")
			want := b.translate(plain)
			path := filepath.Join(b.options.Dir, "translations", "1.17", plain.Key("1.17")+".json")
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tt.damage(bytes.Clone(whole)), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := b.translate(plain); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			b.wantRuns(tt.runs)
			if now, _ := os.ReadFile(path); !bytes.Equal(now, whole) {
				t.Errorf("got cache file %s, want it whole again", now)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	for _, tt := range []struct{ mode, version, want string }{
		{"answers", "1.17", ""},
		{"fails", "1.17", "no luck today"},
		{"garbage", "1.17", "unexpected end of JSON"},
		{"other line", "1.17", `got a translation by istio "1.18.7", want one by 1.17`},
		{"no proxies", "1.17", `got a translation for proxies []`},
		{"answers", "1.18", "there is no translator for istio 1.18, only for 1.17, 1.22, 1.26, 1.28, 1.31: "},
		{"answers", "1.17.x", `got istio version "1.17.x"`},
		{"answers", "", `got istio version ""`},
		{"", "1.17", "no checkout of postern to build it from"},
	} {
		t.Run(tt.mode+" "+tt.version, func(t *testing.T) {
			b := newBench(t, tt.mode)
			b.options.Version = tt.version
			_, err := Translate(t.Context(), plain, b.options)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	b := newBench(t, "hangs")
	var progress bytes.Buffer
	b.options.Progress = &progress
	ctx, cancel := context.WithTimeout(t.Context(), tick+time.Second)
	defer cancel()
	start := time.Now()
	_, err := Translate(ctx, plain, b.options)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 30*time.Second {
		t.Errorf("got %v after %s, want the deadline at once", err, time.Since(start))
	}
	if got := progress.String(); !strings.HasPrefix(got, "istio 1.17: translating, ") {
		t.Errorf("got progress %q, want a line after two seconds", got)
	}
}

func TestEnvironmentIsNotPassedOn(t *testing.T) {
	b := newBench(t, "leaks")
	t.Setenv("PILOT_FILTER_GATEWAY_CLUSTER_CONFIG", "true")
	for _, r := range b.translate(plain).Rejected {
		if r.Name == "PILOT_FILTER_GATEWAY_CLUSTER_CONFIG" {
			t.Error("got Istio's feature flag in the translator's environment, want none")
		}
	}
}

func TestTooMuchOutput(t *testing.T) {
	for _, tt := range []struct {
		max  int
		fail bool
		want string
		err  error
	}{{5, true, "12345", nil}, {4, true, "", errTooLong}, {4, false, "1234", nil}} {
		b := &bounded{max: tt.max, fail: tt.fail}
		if _, err := b.Write([]byte("12345")); !errors.Is(err, tt.err) || b.buf.String() != tt.want {
			t.Errorf("max %d: got %q, %v, want %q, %v", tt.max, b.buf.String(), err, tt.want, tt.err)
		}
	}
}

func TestKey(t *testing.T) {
	two := input(`{"kind":"A","spec":{"x":1,"y":2}}`, `{"kind":"B"}`)
	key := two.Key("1.17")
	for _, tt := range []struct {
		name string
		in   Input
		line string
		same bool
	}{
		{"itself", two, "1.17", true},
		{"white space and order of keys", input(`{ "spec": {"y":2, "x":1}, "kind":"A" }`, `{"kind":"B"}`), "1.17", true},
		{"order of objects", input(`{"kind":"B"}`, `{"kind":"A","spec":{"x":1,"y":2}}`), "1.17", true},
		{"another line", two, "1.31", false},
		{"a number written otherwise", input(`{"kind":"A","spec":{"x":1.0,"y":2}}`, `{"kind":"B"}`), "1.17", false},
		{"an object more", input(`{"kind":"A","spec":{"x":1,"y":2}}`, `{"kind":"B"}`, `{"kind":"B"}`), "1.17", false},
		{"another address", Input{Objects: two.Objects, Proxies: []Proxy{{Name: "gw.ns", Type: "router", Namespace: "ns", Addresses: []string{"10.0.0.2"}}}}, "1.17", false},
		{"no key sets", Input{two.Objects, two.Proxies, map[string]string{}}, "1.17", true},
		{"a key set", Input{two.Objects, two.Proxies, map[string]string{"https://a.b/keys": `{"keys":[]}`}}, "1.17", false},
	} {
		if got := tt.in.Key(tt.line); (got == key) != tt.same || len(got) != 64 {
			t.Errorf("%s: got key %s, same as %s: want %v", tt.name, got, key, tt.same)
		}
	}
}
