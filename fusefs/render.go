package fusefs

import (
	"bytes"
	"strings"
	"time"

	"imagefs/store"
	"imagefs/store/report"
)

// rendered is what write makes; nil if it fails, which it does for no image that has a config.
func rendered(img store.Image, write func(b *bytes.Buffer) error) []byte {
	var b bytes.Buffer
	if img.RawConfig() == nil || write(&b) != nil {
		return nil
	}
	return b.Bytes()
}

func historyTable(f *fsys, _ *image, img store.Image) []byte {
	return rendered(img, func(b *bytes.Buffer) error {
		return report.WriteHistory(b, report.History(f.life, f.st, img, f.snap.Load().refs), report.HistoryOptions{NoTrunc: true, Human: true})
	})
}

func historyJSON(f *fsys, _ *image, img store.Image) []byte {
	return rendered(img, func(b *bytes.Buffer) error {
		return report.HistoryJSON(b, report.History(f.life, f.st, img, f.snap.Load().refs))
	})
}

func inspectJSON(f *fsys, _ *image, img store.Image) []byte {
	return rendered(img, func(b *bytes.Buffer) error {
		return report.WriteInspect(b, []report.Inspection{report.Inspect(img, f.snap.Load().refs)}, "")
	})
}

// value is a file of values, one a line; nil if there is none. A line's end in a value is none in the file.
func value(lines ...string) []byte {
	var b []byte
	for _, l := range lines {
		if l != "" {
			b = append(append(b, strings.ReplaceAll(l, "\n", `\n`)...), '\n')
		}
	}
	return b
}

// stamp formats a time, "" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// imageTime is the modification time of an image's own files.
func (f *fsys) imageTime(img store.Image) time.Time {
	if t := img.Config().Created; !t.IsZero() {
		return clamp(t)
	}
	return f.started
}

// clamp keeps a time that a stranger wrote within what file systems can hold.
func clamp(t time.Time) time.Time {
	if t.Unix() < -1<<31 || t.Unix() > 1<<33 {
		return time.Unix(0, 0)
	}
	return t
}
