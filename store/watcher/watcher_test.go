package watcher

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const patience = 30 * time.Second

func told(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case _, ok := <-ch:
		if !ok {
			t.Fatalf("%s: the channel is closed", what)
		}
	case <-time.After(patience):
		t.Fatalf("%s: nothing was sent", what)
	}
}

func closed(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the channel stays open")
		}
	}
}

func replace(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func TestDirs(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "names")
	replace(t, file, "one")
	for _, c := range []struct {
		name string
		dirs []string
	}{
		{"watched", []string{dir}},
		{"looked at", []string{dir, filepath.Join(dir, "missing")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			ch := Dirs(ctx, slog.New(slog.DiscardHandler), c.dirs, file)
			replace(t, file, "two")
			told(t, ch, "a file was replaced")
			stop()
			closed(t, ch)
		})
	}
}

func TestWritten(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "database")
	replace(t, file, "one")
	for _, dirs := range [][]string{{dir}, {dir, filepath.Join(dir, "missing")}} {
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		ch := Written(ctx, slog.New(slog.DiscardHandler), dirs, file)
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("two"), 0); err != nil {
			t.Fatal(err)
		}
		told(t, ch, "a file was written to")
		stop()
		closed(t, ch)
	}
}
