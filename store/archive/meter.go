package archive

import (
	"io"
	"path"
	"strings"
	"sync"
	"time"
)

// reportEvery is the time between two calls of Options.Progress.
const reportEvery = 50 * time.Millisecond

// meter counts what is read and tells Options.Progress. A nil meter does nothing.
type meter struct {
	report func(Progress)

	mu    sync.Mutex // guards all below
	p     Progress
	last  time.Time
	ended bool
}

func newMeter(report func(Progress)) *meter {
	if report == nil {
		return nil
	}
	return &meter{report: report, p: Progress{Total: -1}, last: time.Now()}
}

func (m *meter) change(now bool, f func(*Progress)) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	f(&m.p)
	if t := time.Now(); now || t.Sub(m.last) >= reportEvery {
		m.last = t
		m.report(m.p)
	}
}

func (m *meter) add(n int64)                  { m.change(false, func(p *Progress) { p.Read += n }) }
func (m *meter) total(n int64)                { m.change(false, func(p *Progress) { p.Total = n }) }
func (m *meter) what(s string)                { m.change(s == "commit", func(p *Progress) { p.What = s }) }
func (m *meter) reader(r io.Reader) io.Reader { return &metered{r, m} }

// stop reports for the last time.
func (m *meter) stop() {
	m.change(true, func(*Progress) {})
	if m != nil {
		m.mu.Lock()
		m.ended = true
		m.mu.Unlock()
	}
}

// inputError is an error of what is read, as opposed to one of what is in it.
type inputError struct{ err error }

func (e *inputError) Error() string { return e.err.Error() }
func (e *inputError) Unwrap() error { return e.err }

// metered counts what is read of the input, and marks its errors.
type metered struct {
	r io.Reader
	m *meter
}

func (r *metered) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.m.add(int64(n))
	}
	if err != nil && err != io.EOF {
		err = &inputError{err}
	}
	return n, err
}

// shorten makes a name in an archive fit for a terminal.
func shorten(name string) string {
	for s := range strings.SplitSeq(name, "/") {
		if s, _, _ = strings.Cut(strings.TrimPrefix(s, "sha256:"), "."); len(s) == 64 {
			return s[:12]
		}
	}
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, path.Base(name))
	return name[:min(len(name), 40)]
}
