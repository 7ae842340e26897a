package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// lineHandler writes log records as people read them: "imagefs: warning: what key=value".
type lineHandler struct {
	w     io.Writer
	level slog.Level
	attrs []slog.Attr
	stamp bool // begin with the time, for a file

	mu *sync.Mutex // guards w; shared with those that WithAttrs made
}

var _ slog.Handler = (*lineHandler)(nil)

// newLog returns a logger that writes lines.
func newLog(w io.Writer, level slog.Level, stamp bool) *slog.Logger {
	return slog.New(&lineHandler{w: w, level: level, stamp: stamp, mu: &sync.Mutex{}})
}

func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
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
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	n.attrs = append(append([]slog.Attr{}, h.attrs...), attrs...)
	return &n
}

// WithGroup implements slog.Handler; lines have no groups.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }
