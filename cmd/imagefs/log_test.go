package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// Every record is one line, whatever is in it, and only those of the level show.
func TestLogFormats(t *testing.T) {
	for _, c := range []struct {
		level, format string
		want          []string // what each line has
	}{
		{"", "", []string{"imagefs: warning: bad; thing err=a; b"}},
		{"debug", "text", []string{"imagefs: debug: detail n=1", "imagefs: done", "imagefs: warning: bad; thing"}},
		{"error", "", nil},
		{"info", "json", []string{`"level":"INFO","msg":"done","store":"/s"}`, `"msg":"bad\nthing","store":"/s","err":"a\nb"}`}},
	} {
		o := newLogOptions()
		for f, word := range map[*choice]string{&o.level: c.level, &o.format: c.format} {
			if word != "" {
				if err := f.Set(word); err != nil {
					t.Fatal(err)
				}
			}
		}
		var out bytes.Buffer
		a := &app{err: &out, logs: o}
		log := a.log(slog.LevelWarn).With("store", "/s")
		log.Debug("detail", "n", 1)
		log.Info("done")
		log.Warn("bad\nthing", "err", errors.New("a\nb"))
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if out.Len() == 0 {
			lines = nil
		}
		if len(lines) != len(c.want) {
			t.Errorf("%s %s: %q", c.level, c.format, lines)
			continue
		}
		for i, want := range c.want {
			want, _, _ = strings.Cut(want, " err=")
			want, _, _ = strings.Cut(want, " n=")
			if !strings.Contains(lines[i], want) || c.format == logJSON && !json.Valid([]byte(lines[i])) {
				t.Errorf("%s %s: %q, want %q", c.level, c.format, lines[i], want)
			}
		}
	}
	o := newLogOptions()
	if o.level.Set("loud") == nil || o.format.Set("") == nil {
		t.Error("a level or a format that there is not is taken")
	}
}
