package report

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
)

// ImagesOptions of WriteImages. The zero value is the table of `docker images`.
type ImagesOptions struct {
	Format  string // "" or "table", "json", a template, or "table" with a template
	Quiet   bool   // IDs only, unless there is a format
	NoTrunc bool
	Digests bool      // with a column DIGEST
	Now     time.Time // zero: the time of the call
}

type imageRow struct {
	Containers   string
	CreatedAt    string
	CreatedSince string
	Digest       string
	ID           string
	Repository   string
	SharedSize   string
	Size         string
	Store        string `json:",omitempty"` // Docker has no such field
	Tag          string
	UniqueSize   string
	VirtualSize  string
}

// MarshalJSON implements json.Marshaler with Docker's escapes: "<none>" is "\u003cnone\u003e".
func (r imageRow) MarshalJSON() ([]byte, error) {
	type plain imageRow
	return json.Marshal(plain(r))
}

var imagesHeader = map[string]string{
	"Containers":   "CONTAINERS",
	"CreatedAt":    "CREATED AT",
	"CreatedSince": "CREATED",
	"Digest":       "DIGEST",
	"ID":           "IMAGE ID",
	"Repository":   "REPOSITORY",
	"SharedSize":   "SHARED SIZE",
	"Size":         "SIZE",
	"Store":        "STORE",
	"Tag":          "TAG",
	"UniqueSize":   "UNIQUE SIZE",
	"VirtualSize":  "SIZE",
}

// WriteImages writes what `docker images` prints, one row a reference.
// ErrTemplate for a format that is none.
func WriteImages(w io.Writer, images []Summary, o ImagesOptions) error {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	format := o.Format
	if format == "" || format == tableFormat {
		switch {
		case o.Quiet:
			format = "{{.ID}}"
		case o.Digests:
			format = "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
		default:
			format = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
		}
	}
	asked := strings.Contains(format, "{{.Digest}}")
	if o.Digests && !asked && isTable(format) {
		format += "\t{{.Digest}}"
	}
	var rows []imageRow
	for _, s := range images {
		rows = append(rows, s.rows(o, asked || o.Digests)...)
	}
	return writeRows(w, format, imagesHeader, rows)
}

// rows returns one row for each reference, with the digests of its repository
// if they are shown. Digests have rows of their own only where no tag of their
// repository does: one each with o.Digests, else one without a digest.
func (s Summary) rows(o ImagesOptions, shown bool) []imageRow {
	row := imageRow{
		Containers: unknown, SharedSize: unknown, UniqueSize: unknown,
		ID: string(s.ID), Size: humanSize(s.Size), VirtualSize: unknown,
		CreatedAt: unknown, CreatedSince: unknown, Store: strings.Join(s.Stores, ","),
	}
	if s.Size >= 0 {
		row.VirtualSize = units.HumanSize(float64(s.Size))
	}
	if !s.Created.IsZero() {
		row.CreatedAt = time.Unix(s.Created.Unix(), 0).String()
		row.CreatedSince = since(o.Now, time.Unix(s.Created.Unix(), 0))
	}
	if !o.NoTrunc {
		row.ID = truncateID(row.ID)
	}
	tags, digests := byRepo(s.RepoTags), byRepo(s.RepoDigests)
	var out []imageRow
	add := func(repo, tag, digest string) {
		row.Repository, row.Tag, row.Digest = repo, tag, digest
		out = append(out, row)
	}
	for _, repo := range tags.repos {
		of := digests.of[repo]
		delete(digests.of, repo)
		if !shown || len(of) == 0 {
			of = []string{none}
		}
		for _, t := range tags.of[repo] {
			for _, d := range of {
				add(repo, t, d)
			}
		}
	}
	for _, repo := range digests.repos {
		of := digests.of[repo]
		if len(of) > 0 && !o.Digests {
			of = []string{""}
		}
		for _, d := range of {
			add(repo, none, d)
		}
	}
	if out == nil {
		add(none, none, none)
	}
	return out
}

// parts are the tags or digests of each repository.
type parts struct {
	repos []string // in order
	of    map[string][]string
}

func byRepo(refs []string) parts {
	p := parts{of: map[string][]string{}}
	for _, r := range refs {
		n, err := reference.ParseNormalizedNamed(r)
		if err != nil {
			continue
		}
		repo, part := reference.FamiliarName(n), ""
		switch v := n.(type) {
		case reference.NamedTagged:
			part = v.Tag()
		case reference.Canonical:
			part = v.Digest().String()
		default:
			continue
		}
		if !slices.Contains(p.repos, repo) {
			p.repos = append(p.repos, repo)
		}
		p.of[repo] = append(p.of[repo], part)
	}
	return p
}
