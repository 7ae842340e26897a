package report

import (
	"context"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// HistoryEntry is one step of an image's history, with the fields of the
// Engine API's /images/{name}/history.
type HistoryEntry struct {
	Comment   string
	Created   int64 // seconds since 1970; 0 if the step has no time
	CreatedBy string
	ID        string `json:"Id"` // of the image at that step, "<missing>" if it is not in the store
	Size      int64  // of the step's layer, 0 if it made none, -1 if the store does not know it
	Tags      []string
}

// ImageSource gives images by their IDs. A store.Store is one.
type ImageSource interface {
	Image(ctx context.Context, id digest.Digest) (store.Image, error)
}

// History returns an image's history, newest first. The images of earlier
// steps are those that the classic builder recorded as parents, as far as src
// has them.
func History(ctx context.Context, src ImageSource, img store.Image, refs Refs) []HistoryEntry {
	steps, layers := img.Config().History, img.Layers()
	out := make([]HistoryEntry, len(steps))
	n := 0
	for i, h := range steps {
		e := HistoryEntry{ID: missing, CreatedBy: h.CreatedBy, Comment: h.Comment}
		if !h.Created.IsZero() {
			e.Created = h.Created.Unix()
		}
		if !h.EmptyLayer {
			e.Size = -1
			if n < len(layers) {
				e.Size = layers[n].Size()
			}
			n++
		}
		out[len(steps)-1-i] = e
	}
	at := img
	for i := range out {
		out[i].ID, out[i].Tags = string(at.ID()), refs[at.ID()].Tags
		if at.Parent() == "" {
			break
		}
		parent, err := src.Image(ctx, at.Parent())
		if err != nil {
			break
		}
		at = parent
	}
	return out
}

// HistoryOptions of WriteHistory. The zero value cuts what is long and prints plain numbers.
type HistoryOptions struct {
	Format  string // "" or "table", "json", a template, or "table" with a template
	Quiet   bool   // IDs only, unless there is a format
	NoTrunc bool
	Human   bool      // sizes and times in words
	Now     time.Time // zero: the time of the call
}

type historyRow struct {
	Comment      string
	CreatedAt    string
	CreatedBy    string
	CreatedSince string
	ID           string
	Size         string
}

// MarshalJSON implements json.Marshaler with Docker's escapes: "&&" is "\u0026\u0026".
func (r historyRow) MarshalJSON() ([]byte, error) {
	type plain historyRow
	return json.Marshal(plain(r))
}

var historyHeader = map[string]string{
	"ID":           "IMAGE",
	"CreatedSince": "CREATED",
	"CreatedAt":    "CREATED AT",
	"CreatedBy":    "CREATED BY",
	"Size":         "SIZE",
	"Comment":      "COMMENT",
}

// createdByWidth is where CREATED BY is cut, in columns.
const createdByWidth = 45

// wordless is the time up to which an age is not told in words: dates of
// builds that have none.
var wordless = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix()

// WriteHistory writes what `docker history` prints. ErrTemplate for a format that is none.
func WriteHistory(w io.Writer, entries []HistoryEntry, o HistoryOptions) error {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	format := o.Format
	if format == "" || format == tableFormat {
		switch {
		case o.Quiet:
			format = "{{.ID}}"
		case o.Human:
			format = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
		default:
			format = "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
		}
	}
	rows := make([]historyRow, len(entries))
	for i, e := range entries {
		rows[i] = e.row(o, isTable(format))
	}
	return writeRows(w, format, historyHeader, rows)
}

func (e HistoryEntry) row(o HistoryOptions, table bool) historyRow {
	r := historyRow{
		ID:        e.ID,
		CreatedAt: time.Unix(e.Created, 0).Format(time.RFC3339),
		CreatedBy: strings.ReplaceAll(e.CreatedBy, "\t", " "),
		Comment:   e.Comment,
		Size:      strconv.FormatInt(e.Size, 10),
	}
	if table {
		r.CreatedBy, r.Comment = Printable(r.CreatedBy), Printable(r.Comment)
	}
	r.CreatedSince = r.CreatedAt
	if o.Human {
		r.Size, r.CreatedSince = humanSize(e.Size), unknown
		if e.Created > wordless {
			r.CreatedSince = since(o.Now, time.Unix(e.Created, 0))
		}
	}
	if !o.NoTrunc {
		r.ID, r.CreatedBy = truncateID(r.ID), ellipsis(r.CreatedBy, createdByWidth)
	}
	return r
}

// HistoryJSON writes the history as one array in one line, as the Engine API gives it.
func HistoryJSON(w io.Writer, entries []HistoryEntry) error {
	if entries == nil {
		entries = []HistoryEntry{}
	}
	return encode(w, entries, "")
}
