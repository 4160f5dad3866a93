package translate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// entry is a kept translation. In the cache it names the program that made it and the sum of its output; committed ones are reviewed and
// compared with the translator in tests instead.
type entry struct {
	Key     string          `json:"key"`
	Line    string          `json:"line"`
	Program string          `json:"program,omitempty"`
	Sum     string          `json:"sum,omitempty"`
	Output  json.RawMessage `json:"output"`
}

// several is a file of committed translations that belong together. An entry has the keys of all inputs that give its output.
type several struct {
	entry
	Entries []struct {
		Keys []string `json:"keys"`
		entry
	} `json:"entries,omitempty"`
}

// Pair is a translation with what it is of.
type Pair struct {
	In  Input
	Out *Output
}

// BundleAll returns the bytes of several committed translations in one file, one output to a line, in the order of the pairs.
func BundleAll(line string, pairs []Pair) ([]byte, error) {
	var outputs []string
	keys := map[string][]string{}
	for _, p := range pairs {
		one, err := Bundle(line, p.In, p.Out) // which also checks it
		if err != nil {
			return nil, err
		}
		var e entry
		if err := json.Unmarshal(one, &e); err != nil {
			return nil, err
		}
		output := canonical(e.Output)
		if keys[output] == nil {
			outputs = append(outputs, output)
		}
		keys[output] = append(keys[output], e.Key)
	}
	var b bytes.Buffer
	b.WriteString(`{"entries":[`)
	for i, output := range outputs {
		list, err := json.Marshal(keys[output])
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s\n{\"keys\":%s,\"line\":%q,\"output\":%s}", map[bool]string{true: ","}[i > 0], list, line, output)
	}
	b.WriteString("\n]}\n")
	return b.Bytes(), nil
}

// Bundle returns the bytes of a committed translation: indented, ending with a newline, and the same for the same translation.
func Bundle(line string, in Input, out *Output) ([]byte, error) {
	raw, err := marshal(out)
	if err != nil {
		return nil, err
	}
	// What decode refuses would never be found again.
	if _, err := decode(raw, line, in); err != nil {
		return nil, err
	}
	raw, err = marshal(entry{Key: in.Key(line), Line: line, Output: json.RawMessage(canonical(raw))})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// bundled looks a key up in the committed translations; nil if it is not among them. A file there that cannot be read is an error: it
// is part of the program.
func bundled(files fs.FS, line, key string, in Input) (*Output, error) {
	if files == nil {
		return nil, nil
	}
	names, err := fs.Glob(files, "*.json")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("committed translation: %w", err)
		}
		var file several
		if err := json.Unmarshal(b, &file); err != nil {
			return nil, fmt.Errorf("committed translation %s: %w", name, err)
		}
		found := file.entry
		for _, e := range file.Entries {
			if slices.Contains(e.Keys, key) {
				found = e.entry
				found.Key = key
			}
		}
		if found.Key != key || found.Line != line {
			continue
		}
		out, err := decode(found.Output, line, in)
		if err != nil {
			return nil, fmt.Errorf("committed translation %s: %w", name, err)
		}
		return out, nil
	}
	return nil, nil
}

// cached looks a key up in the cache. An entry that is cut off, changed, of another key, or made by another program than the one at hand
// (an empty identity is none at hand) counts as none, and is made again.
func (w *workshop) cached(key, identity string, in Input) *Output {
	if w.dir == "" {
		return nil
	}
	b, err := os.ReadFile(w.entryPath(key))
	if err != nil {
		return nil
	}
	var e entry
	if err := json.Unmarshal(b, &e); err != nil {
		return nil
	}
	if e.Key != key || e.Line != w.line || e.Sum != sum(e.Output) || identity != "" && e.Program != identity {
		return nil
	}
	out, err := decode(e.Output, w.line, in)
	if err != nil {
		return nil
	}
	return out
}

// keep writes a translation to the cache.
func (w *workshop) keep(key, identity string, out *Output) error {
	if w.dir == "" {
		return nil
	}
	raw, err := marshal(out)
	if err != nil {
		return err
	}
	b, err := marshal(entry{Key: key, Line: w.line, Program: identity, Sum: sum(raw), Output: raw})
	if err != nil {
		return err
	}
	return writeFile(w.entryPath(key), append(b, '\n'))
}

func (w *workshop) entryPath(key string) string {
	return filepath.Join(w.dir, "translations", w.line, key+".json")
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// writeFile replaces a file at once, so that a reader sees the old or the new one whole. Only its owner may read it: objects may hold
// secrets.
func writeFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
