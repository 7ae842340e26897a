package report

import (
	"context"
	"path"
	"slices"
	"time"

	"imagefs/store"
	"imagefs/store/filter"
)

// Filter chooses images. The zero value is what `docker images` lists.
type Filter struct {
	All bool // images that others were built on too

	dangling      answer
	references    []string
	labels        filter.Labels
	before, since []string
	until         []time.Time
}

type answer uint8

const (
	either answer = iota
	yes
	no
)

// Filters is a list of all filters for help texts.
const Filters = "dangling=true|false, reference=PATTERN, label=KEY[=VALUE], before=IMAGE, since=IMAGE, until=TIME"

// Add adds a condition of the form name=value, as Docker's --filter takes it.
// Several references are alternatives; all other conditions must hold.
// ErrInvalid, wrapped, for a condition that is none.
func (f *Filter) Add(condition string) error {
	name, value, err := filter.Cut(condition, Filters)
	if err != nil {
		return err
	}
	switch name {
	case "dangling":
		f.dangling = no
		if is, err := filter.Bool(name, value); err != nil {
			return err
		} else if is {
			f.dangling = yes
		}
	case "reference":
		if _, err := path.Match(value, ""); err != nil {
			return filter.BadPattern(name, value)
		}
		f.references = append(f.references, value)
	case "label":
		f.labels.Require(value)
	case "before":
		f.before = append(f.before, value)
	case "since":
		f.since = append(f.since, value)
	case "until":
		t, err := filter.Time(name, value, time.Now())
		if err != nil {
			return err
		}
		f.until = append(f.until, t)
	default:
		return filter.Unknown(name, Filters)
	}
	return nil
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
	ends := slices.Clone(f.until)
	for _, ref := range f.before {
		t, err := created(ref)
		if err != nil {
			return p, err
		}
		ends = append(ends, t)
	}
	for _, t := range ends {
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
