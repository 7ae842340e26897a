package fusefs

import (
	"time"

	"imagefs/store"
)

func historyTable(f *fsys, im *image, img store.Image) []byte { return nil }
func historyJSON(f *fsys, im *image, img store.Image) []byte  { return nil }
func inspectJSON(f *fsys, im *image, img store.Image) []byte  { return nil }

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
