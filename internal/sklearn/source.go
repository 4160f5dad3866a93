package sklearn

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
)

// magic lists how a joblib file begins when it is compressed (joblib/compressor.py, the prefixes).
var magic = []struct {
	prefix string
	name   string
	open   func(io.Reader) (io.ReadCloser, error) // nil: not read here
}{
	{"\x1f\x8b", "gzip", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"\x78", "zlib", zlib.NewReader},
	{"BZ", "bz2", nil},
	{"\xfd7zXZ", "xz", nil},
	{"\x5d\x00", "lzma", nil},
	{"\x04\x22\x4d\x18", "lz4", nil},
	{"ZF", "a joblib before 0.10", nil},
}

// readAll reads and decompresses r, at most limit bytes of either.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := readLimited(r, limit)
	if err != nil {
		return nil, fmt.Errorf("read the model: %w", err)
	}
	for _, m := range magic {
		if !bytes.HasPrefix(data, []byte(m.prefix)) {
			continue
		}
		if m.open == nil {
			return nil, fmt.Errorf("the model is compressed by %s, want none, zlib or gzip (joblib.dump(model, file) compresses with none)", m.name)
		}
		return decompress(data, m.name, m.open, limit)
	}
	return data, nil
}

func decompress(data []byte, name string, open func(io.Reader) (io.ReadCloser, error), limit int64) ([]byte, error) {
	r, err := open(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("decompress the model (%s): %w", name, err)
	}
	defer r.Close()
	data, err = readLimited(r, limit)
	if err != nil {
		return nil, fmt.Errorf("decompress the model (%s): %w", name, err)
	}
	return data, nil
}

func readLimited(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("larger than the limit of %d bytes", limit)
	}
	if len(data) == 0 {
		return nil, errors.New("empty")
	}
	return data, nil
}

// cursor walks over the bytes of a file. What it hands out aliases them.
type cursor struct {
	data []byte
	at   int
}

func (c *cursor) take(n uint64) ([]byte, error) {
	if left := uint64(len(c.data) - c.at); n > left {
		return nil, fmt.Errorf("truncated at byte %d: want %d more bytes, got %d", c.at, n, left)
	}
	part := c.data[c.at : c.at+int(n) : c.at+int(n)]
	c.at += int(n)
	return part, nil
}

func (c *cursor) byte() (byte, error) {
	b, err := c.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// line takes the bytes up to a line's end, which it drops.
func (c *cursor) line() (string, error) {
	n := bytes.IndexByte(c.data[c.at:], '\n')
	if n < 0 {
		return "", fmt.Errorf("truncated at byte %d: a line without an end", c.at)
	}
	text := string(c.data[c.at : c.at+n])
	c.at += n + 1
	return text, nil
}
