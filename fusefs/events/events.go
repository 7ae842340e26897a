package events

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// The operations.
const (
	Mount  = "mount"  // the log begins
	Load   = "load"   // an image appeared
	Import = "import" // an image appeared that was made of a root file system
	Tag    = "tag"    // a name was given, or leads to another image
	Untag  = "untag"  // a name was taken away
	Delete = "delete" // an image was deleted
	Lost   = "lost"   // the reader missed events
)

// Event is one change.
type Event struct {
	Time  time.Time     `json:"time"`
	Op    string        `json:"op"`
	ID    digest.Digest `json:"id,omitempty"`    // the image
	Ref   string        `json:"ref,omitempty"`   // of tag and untag: the name, in its familiar form
	Was   digest.Digest `json:"was,omitempty"`   // of tag: the image that had the name before
	Count int64         `json:"count,omitempty"` // of lost
}

// line is the event as one line of JSON. The time has always nine decimals, so
// that lines sort by it as text.
func (e Event) line() []byte {
	type plain Event
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// Nothing in it can fail to be encoded.
	_ = enc.Encode(struct {
		Time string `json:"time"`
		plain
	}{e.Time.UTC().Format("2006-01-02T15:04:05.000000000Z07:00"), plain(e)})
	return b.Bytes()
}

// View is what a store has at one moment.
type View struct {
	IDs   []digest.Digest // sorted
	Names store.Names
}

// Diff returns what has changed between two moments, without times: names that
// went, images that went, images that came (as op says: Load or Import), names
// that came or lead elsewhere. Each sorted.
func Diff(old, now View, op string) []Event {
	var out []Event
	for _, ref := range gone(old.Names.Tags, now.Names.Tags) {
		out = append(out, Event{Op: Untag, ID: old.Names.Tags[ref], Ref: ref})
	}
	for _, ref := range gone(old.Names.Digests, now.Names.Digests) {
		out = append(out, Event{Op: Untag, ID: old.Names.Digests[ref], Ref: ref})
	}
	for _, id := range missing(old.IDs, now.IDs) {
		out = append(out, Event{Op: Delete, ID: id})
	}
	for _, id := range missing(now.IDs, old.IDs) {
		out = append(out, Event{Op: op, ID: id})
	}
	out = append(out, came(old.Names.Tags, now.Names.Tags)...)
	return append(out, came(old.Names.Digests, now.Names.Digests)...)
}

// gone returns the names that are only in old, sorted.
func gone(old, now map[string]digest.Digest) (out []string) {
	for ref := range old {
		if _, ok := now[ref]; !ok {
			out = append(out, ref)
		}
	}
	slices.Sort(out)
	return out
}

// came returns an event for each name that old has not, or has for another image.
func came(old, now map[string]digest.Digest) (out []Event) {
	for _, ref := range slices.Sorted(maps.Keys(now)) {
		if id, was := now[ref], old[ref]; id != was {
			out = append(out, Event{Op: Tag, ID: id, Ref: ref, Was: was})
		}
	}
	return out
}

// missing returns what is in a and not in b; both are sorted.
func missing(a, b []digest.Digest) (out []digest.Digest) {
	for _, id := range a {
		if _, ok := slices.BinarySearch(b, id); !ok {
			out = append(out, id)
		}
	}
	return out
}
