package explain

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxLine bounds one line of Requests.
const maxLine = 1 << 20

// badLine is the answer to a line that cannot be asked about.
type badLine struct {
	Outcome Outcome `json:"outcome"` // unknown
	Line    int     `json:"line"`
	Error   string  `json:"error"`
}

// Requests answers JSON lines, each a Call, with one JSON line each, in order.
// What a line leaves out is taken from otherwise. The status is the worst of
// all: 0 reaches a backend, 1 does not, 2 cannot be told or was no good line.
// The error is one of reading or writing.
func (s *System) Requests(ctx context.Context, in io.Reader, out io.Writer, otherwise Call) (status int, err error) {
	lines := bufio.NewReaderSize(in, 64<<10)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for n := 1; ; n++ {
		line, readErr := readLine(lines)
		if errors.Is(readErr, io.EOF) && len(line) == 0 {
			return status, nil
		}
		if readErr != nil && !errors.Is(readErr, io.EOF) && !errors.Is(readErr, errLong) {
			return status, readErr
		}
		if len(bytes.TrimSpace(line)) == 0 && !errors.Is(readErr, errLong) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return 2, err
		}
		var answer *Answer
		if err = readErr; err == nil || errors.Is(err, io.EOF) {
			answer, err = s.line(ctx, line, otherwise)
		}
		if err != nil {
			status = 2
			err = enc.Encode(badLine{Unknown, n, err.Error()})
		} else {
			status = max(status, answer.Exit())
			err = enc.Encode(answer)
		}
		if err != nil {
			return 2, err
		}
	}
}

func (s *System) line(ctx context.Context, line []byte, call Call) (*Answer, error) {
	// What the line says replaces the default whole.
	if err := strict(line, &call); err != nil {
		return nil, err
	}
	if call.URL == "" {
		return nil, errors.New(`"url" is required`)
	}
	return s.Explain(ctx, call)
}

func strict(line []byte, call *Call) error {
	var given Call
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&given); err != nil {
		return fmt.Errorf("want one JSON object: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("got more than one JSON value, want one a line")
	}
	set(&given.From, call.From)
	set(&given.Door, call.Door)
	set(&given.Method, call.Method)
	given.ScaledToZero = given.ScaledToZero || call.ScaledToZero
	if given.Headers == nil {
		given.Headers = call.Headers
	}
	if given.Authz == nil && given.Session == "" {
		given.Authz, given.Session = call.Authz, call.Session
	}
	*call = given
	return nil
}

func set(s *string, otherwise string) {
	if *s == "" {
		*s = otherwise
	}
}

// Exit is the exit status of an answer: 0 reaches a backend, 1 does not, 2
// could not tell.
func (a *Answer) Exit() int {
	switch a.Outcome {
	case Forwarded:
		return 0
	case Refused, Redirected, Answered:
		return 1
	}
	return 2
}

var errLong = fmt.Errorf("longer than %d bytes", maxLine)

// readLine reads one line without its end; one that is too long is read past
// and gives errLong.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := r.ReadSlice('\n')
		if !long {
			line = append(line, part...)
		}
		long = long || len(line) > maxLine
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case long && (err == nil || errors.Is(err, io.EOF)):
			return nil, errLong
		}
		return bytes.TrimSuffix(line, []byte("\n")), err
	}
}
