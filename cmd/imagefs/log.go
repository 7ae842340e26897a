package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"

	"imagefs/cmd/imagefs/detach"
)

// The log has one line a record. It goes to standard error; from a mount in the
// background to the journal, if the machine has one; from one whose standard
// error is the journal, as systemd's services have it, there as entries with a
// level; or to a file that was asked for.

// The formats of --log-format.
const (
	logText = "text" // imagefs: warning: what key=value
	logJSON = "json" // one object a line
)

// output is where the lines of a log go. That can change.
type output struct {
	mu    sync.Mutex // guards write, and one line at a time
	write func(level slog.Level, line string) error
}

func (o *output) line(level slog.Level, line string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.write(level, line)
}

func (o *output) turn(write func(slog.Level, string) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.write = write
}

func toWriter(w io.Writer) func(slog.Level, string) error {
	return func(_ slog.Level, line string) error {
		_, err := io.WriteString(w, line+"\n")
		return err
	}
}

// nowhere is where the log of a mount in the background goes on a machine without a journal.
func nowhere(slog.Level, string) error { return nil }

// toJournal writes entries for a mount at dir: journalctl IMAGEFS_MOUNT=/mnt.
func toJournal(dir string) func(slog.Level, string) error {
	vars := map[string]string{"SYSLOG_IDENTIFIER": "imagefs", "IMAGEFS_MOUNT": dir}
	return func(level slog.Level, line string) error {
		p := journal.PriDebug
		switch {
		case level >= slog.LevelError:
			p = journal.PriErr
		case level >= slog.LevelWarn:
			p = journal.PriWarning
		case level >= slog.LevelInfo:
			p = journal.PriInfo
		}
		return journal.Send(strings.TrimPrefix(line, "imagefs: "), p, vars)
	}
}

// stderrIsJournal tells whether systemd gave the journal as standard error.
func stderrIsJournal() bool {
	is, err := journal.StderrIsJournalStream()
	return err == nil && is && journal.Enabled()
}

// lineHandler writes log records one a line, as people or programs read them.
type lineHandler struct {
	out   *output
	level slog.Level
	json  bool
	stamp bool // text begins with the time, for a file
	attrs []slog.Attr
}

var _ slog.Handler = (*lineHandler)(nil)

// newLog returns a logger that writes lines of text.
func newLog(w io.Writer, level slog.Level, stamp bool) *slog.Logger {
	return slog.New(&lineHandler{out: &output{write: toWriter(w)}, level: level, stamp: stamp})
}

func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *lineHandler) Handle(ctx context.Context, r slog.Record) error {
	if !h.json {
		return h.out.line(r.Level, h.text(r))
	}
	var b bytes.Buffer
	err := slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: h.level}).WithAttrs(h.attrs).Handle(ctx, r)
	if err != nil {
		return err
	}
	return h.out.line(r.Level, strings.TrimSuffix(b.String(), "\n"))
}

func (h *lineHandler) text(r slog.Record) string {
	var b strings.Builder
	if h.stamp {
		b.WriteString(r.Time.Format("2006-01-02T15:04:05.000Z07:00 "))
	}
	b.WriteString("imagefs: ")
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	case r.Level < slog.LevelInfo:
		b.WriteString("debug: ")
	}
	b.WriteString(oneLine(r.Message))
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%s", a.Key, oneLine(fmt.Sprint(a.Value.Resolve().Any())))
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	return b.String()
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	n.attrs = append(append([]slog.Attr{}, h.attrs...), attrs...)
	return &n
}

// WithGroup implements slog.Handler; lines have no groups.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }

// logOptions are what --log-level and --log-format say.
type logOptions struct{ level, format choice }

// choice is a flag that takes one of several words.
type choice struct {
	word string // "" if the flag was not used
	of   []string
}

func (c *choice) String() string { return c.word }
func (c *choice) Type() string   { return strings.Join(c.of, "|") }
func (c *choice) Set(word string) error {
	for _, w := range c.of {
		if w == word {
			c.word = word
			return nil
		}
	}
	return fmt.Errorf("it is one of %s", strings.Join(c.of, ", "))
}

func newLogOptions() logOptions {
	return logOptions{level: choice{of: []string{"debug", "info", "warn", "error"}}, format: choice{of: []string{logText, logJSON}}}
}

// handler makes a log of what the flags say; usual is the level without one.
func (o logOptions) handler(usual slog.Level, stamp bool) *lineHandler {
	h := &lineHandler{out: &output{write: nowhere}, level: usual, stamp: stamp, json: o.format.word == logJSON}
	if o.level.word != "" {
		// The flag takes only words that this knows.
		_ = h.level.UnmarshalText([]byte(o.level.word))
	}
	return h
}

// log is the log of a command, on standard error.
func (a *app) log(usual slog.Level) *slog.Logger {
	h := a.logs.handler(usual, false)
	h.out.turn(toWriter(a.err))
	return slog.New(h)
}

// mountLog returns the log of a mount, and two functions: one to be called when
// the tree is ready and standard error may be gone, and one for the end.
func mountLog(a *app, o mountOptions, dir string) (log *slog.Logger, ready, done func(), err error) {
	usual := slog.LevelInfo
	if o.debug {
		usual = slog.LevelDebug
	}
	h := a.logs.handler(usual, o.logFile != "")
	log = slog.New(h)
	ready, done = func() {}, func() {}
	switch {
	case o.logFile != "":
		f, err := os.OpenFile(o.logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("log file: %w", err)
		}
		h.out.turn(toWriter(f))
		done = func() { f.Close() }
	case stderrIsJournal():
		h.out.turn(toJournal(dir))
	default:
		h.out.turn(toWriter(a.err))
		if detach.Second() {
			ready = func() {
				if journal.Enabled() {
					h.out.turn(toJournal(dir))
				} else {
					h.out.turn(nowhere)
				}
			}
		}
	}
	return log, ready, done, nil
}
