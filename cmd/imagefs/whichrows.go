package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/store/report"
	"imagefs/store/rootfs"
)

// whichRow is a step as templates and JSON have it.
type whichRow struct {
	Path      string
	Layer     string
	Change    string // added, changed, deleted
	What      string // of changed: what differs from before; of deleted: by what
	Content   string // of changed, a file: same, changed, unknown
	Type      string
	Mode      string // octal
	Owner     string // uid:gid
	Size      string // bytes
	ModTime   string
	Target    string // of a symbolic link
	DiffID    string
	CreatedBy string
}

// MarshalJSON implements json.Marshaler, with the layer as a number as it is
// counted elsewhere, and without what a deletion does not have.
func (r whichRow) MarshalJSON() ([]byte, error) {
	n, err := strconv.Atoi(r.Layer)
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Path      string      `json:"path"`
		Layer     int         `json:"layer"`
		Change    string      `json:"change"`
		What      string      `json:"what,omitempty"`
		Content   string      `json:"content,omitempty"`
		Type      string      `json:"type,omitempty"`
		Mode      string      `json:"mode,omitempty"`
		Owner     string      `json:"owner,omitempty"`
		Size      json.Number `json:"size,omitempty"`
		ModTime   string      `json:"mtime,omitempty"`
		Target    string      `json:"target,omitempty"`
		DiffID    string      `json:"diffid"`
		CreatedBy string      `json:"created_by,omitempty"`
	}{r.Path, n, r.Change, r.What, r.Content, r.Type, r.Mode, r.Owner, json.Number(r.Size), r.ModTime, r.Target, r.DiffID, r.CreatedBy})
}

var whichHeader = map[string]string{
	"Path": "PATH", "Layer": "LAYER", "Change": "CHANGE", "What": "WHAT", "Content": "CONTENT", "Type": "TYPE", "Mode": "MODE", "Owner": "OWNER",
	"Size": "SIZE", "ModTime": "MODIFIED", "Target": "TARGET", "DiffID": "DIFF ID", "CreatedBy": "CREATED BY",
}

var changeNames = map[byte]string{'A': "added", 'C': "changed", 'D': "deleted"}

// writeWhich writes what the layers did to a path, the lowest first.
func writeWhich(w io.Writer, t rootfs.Trace, o whichOptions) error {
	table := report.IsTable(o.format)
	rows := make([]whichRow, len(t.Steps))
	for i, s := range t.Steps {
		rows[i] = rowOfStep(t.Path, s, !o.noTrunc && table)
		if table {
			r := &rows[i]
			if o.format == "" {
				r.What = r.tellContent()
			}
			for _, f := range []*string{&r.Path, &r.What, &r.Target, &r.CreatedBy} {
				*f = report.Printable(*f)
			}
		}
	}
	return report.WriteRows(w, o.format, "{{.Layer}}\t{{.Change}}\t{{.What}}\t{{.DiffID}}\t{{.CreatedBy}}", whichHeader, rows)
}

// tellContent is what differs, and of a file that was written again what does not.
func (r whichRow) tellContent() string {
	switch r.Content {
	case rootfs.SameContent.String():
		return r.What + "; same content"
	case rootfs.UnknownContent.String():
		return r.What + "; content cannot be read"
	}
	return r.What
}

// writtenAgain is the What of a change that changes nothing.
const writtenAgain = "written again"

func rowOfStep(path string, s rootfs.Step, short bool) whichRow {
	r := whichRow{
		Path: path, Layer: strconv.Itoa(s.Layer), Change: changeNames[s.Op],
		DiffID: string(s.DiffID), CreatedBy: strings.ReplaceAll(s.CreatedBy, "\t", " "),
	}
	if short {
		r.DiffID, r.CreatedBy = report.ShortID(r.DiffID), report.ShortStep(r.CreatedBy)
	}
	if s.Op == 'D' {
		r.What = s.By.String()
		if "/"+s.At != path {
			r.What += " /" + s.At
		}
		return r
	}
	r.What, r.Content, r.Target = s.What.String(), s.Content.String(), s.Target
	if s.Op == 'C' && s.What == 0 {
		r.What = writtenAgain
	}
	r.Type, r.Mode = typeNames[s.Mode&unix.S_IFMT], fmt.Sprintf("%04o", s.Mode&0o7777)
	r.Owner, r.Size = fmt.Sprintf("%d:%d", s.UID, s.GID), strconv.FormatUint(s.Size, 10)
	r.ModTime = time.Unix(s.Sec, int64(s.Nsec)).UTC().Format(time.RFC3339Nano)
	return r
}
