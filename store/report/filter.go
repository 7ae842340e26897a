package report

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	"imagefs/store"
)

// Filter chooses images. The zero value is what `docker images` lists.
type Filter struct {
	All bool // images that others were built on too

	dangling      answer
	references    []string
	labels        []string
	before, since []string
}

type answer uint8

const (
	either answer = iota
	yes
	no
)

// Filters is a list of all filters for help texts.
const Filters = "dangling=true|false, reference=PATTERN, label=KEY[=VALUE], before=IMAGE, since=IMAGE"

// Add adds a condition of the form name=value, as Docker's --filter takes it.
// Several references are alternatives; all other conditions must hold.
// ErrInvalid, wrapped, for a condition that is none.
func (f *Filter) Add(condition string) error {
	name, value, ok := strings.Cut(condition, "=")
	name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
	if !ok {
		return fmt.Errorf("filter %q: want name=value (%s): %w", condition, Filters, store.ErrInvalid)
	}
	switch name {
	case "dangling":
		switch strings.ToLower(value) {
		case "true", "1":
			f.dangling = yes
		case "false", "0":
			f.dangling = no
		default:
			return badFilter(name, value)
		}
	case "reference":
		if _, err := path.Match(value, ""); err != nil {
			return badFilter(name, value)
		}
		f.references = append(f.references, value)
	case "label":
		f.labels = append(f.labels, value)
	case "before":
		f.before = append(f.before, value)
	case "since":
		f.since = append(f.since, value)
	default:
		return fmt.Errorf("filter %q: there is no such filter (%s): %w", name, Filters, store.ErrInvalid)
	}
	return nil
}

func badFilter(name, value string) error {
	return fmt.Errorf("filter %s=%s: bad value: %w", name, value, store.ErrInvalid)
}

// period is the time in which listed images were created, ends excluded; zero ends are open.
type period struct{ after, before time.Time }

func (p period) has(t time.Time) bool {
	return (p.after.IsZero() || t.After(p.after)) && (p.before.IsZero() || t.Before(p.before))
}

// span looks up the images that before and since name.
func (f Filter) span(ctx context.Context, st store.Store) (period, error) {
	created := func(ref string) (time.Time, error) {
		id, _, err := store.Resolve(ctx, st, ref)
		if err != nil {
			return time.Time{}, err
		}
		img, err := st.Image(ctx, id)
		if err != nil {
			return time.Time{}, err
		}
		return img.Config().Created, nil
	}
	var p period
	for _, ref := range f.before {
		t, err := created(ref)
		if err != nil {
			return p, err
		}
		if p.before.IsZero() || t.Before(p.before) {
			p.before = t
		}
	}
	for _, ref := range f.since {
		t, err := created(ref)
		if err != nil {
			return p, err
		}
		if t.After(p.after) {
			p.after = t
		}
	}
	return p, nil
}

// label tells whether an image has all the labels that are asked for.
func (f Filter) label(img store.Image) bool {
	if len(f.labels) == 0 {
		return true
	}
	var c struct {
		Config struct{ Labels map[string]string } `json:"config"`
	}
	if err := json.Unmarshal(img.RawConfig(), &c); err != nil {
		return false
	}
	for _, l := range f.labels {
		key, want, exact := strings.Cut(l, "=")
		got, ok := c.Config.Labels[key]
		if !ok || exact && got != want {
			return false
		}
	}
	return true
}
