package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"imagefs/store"
)

// endlessLines repeats a line for ever.
type endlessLines struct {
	line  string
	block []byte
	at    int
	read  int64
}

func (e *endlessLines) Read(p []byte) (int, error) {
	if e.block == nil {
		e.block = bytes.Repeat([]byte(e.line), 1+64<<10/len(e.line))
	}
	n := copy(p, e.block[e.at:])
	e.at = (e.at + n) % len(e.block)
	e.read += int64(n)
	return n, nil
}

// TestEndlessSplit reads what a few megabytes can unpack to: each reader of a
// tar-split ends.
func TestEndlessSplit(t *testing.T) {
	was := defaultSplit
	defaultSplit.records = 100_000
	defer func() { defaultSplit = was }()
	for reader, read := range map[string]func(io.Reader) error{
		"SplitSize": func(r io.Reader) error { _, err := SplitSize(r); return err },
		"ScanSplit": func(r io.Reader) error {
			_, err := ScanSplit(context.Background(), r, nil, Limits{})
			return err
		},
		"OpenTar": func(r io.Reader) error {
			_, err := OpenTar(TarSource{Split: func() (io.ReadCloser, error) { return io.NopCloser(r), nil },
				Temp: func() (*os.File, error) { return os.CreateTemp(t.TempDir(), "map") }})
			return err
		},
	} {
		r := &endlessLines{line: `{"type":2}` + "\n"}
		if err := read(r); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("%s: %v", reader, err)
		}
		if r.read > 4<<20 {
			t.Errorf("%s: read %d bytes", reader, r.read)
		}
	}
	// The other limits, with smaller numbers.
	for _, c := range []struct {
		line string
		lim  splitLimits
	}{
		{`{"type":2,"payload":"` + strings.Repeat("AAAA", 100) + `"}` + "\n", splitLimits{text: 1 << 40, records: 1 << 40, payload: 1 << 20}},
		{`{"type":2,"x":"` + strings.Repeat(" ", 1000) + `"}` + "\n", splitLimits{text: 1 << 20, records: 1 << 40, payload: 1 << 40}},
	} {
		in := &endlessLines{line: c.line}
		r := newSplitReader(in)
		r.lim = c.lim
		var e splitEntry
		var err error
		for err == nil {
			err = r.next(&e)
		}
		if !errors.Is(err, store.ErrTooLarge) || in.read > 4<<20 {
			t.Errorf("%.30s: %d bytes, %v", c.line, in.read, err)
		}
	}
}
