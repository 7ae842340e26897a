package prune

import (
	"errors"
	"fmt"
	"time"

	"imagefs/store"
	"imagefs/store/filter"
)

// Filter chooses images. The zero value is dangling ones.
type Filter struct {
	All bool // those with names too

	dangling *bool // what a condition asked for
	labels   filter.Labels
	until    time.Time // zero: any age
}

// Filters is a list of all filters for help texts.
const Filters = "label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME"

// Add adds a condition of the form name=value, as Docker's --filter takes it.
// All conditions must hold. store.ErrInvalid, wrapped, for one that is none.
func (f *Filter) Add(condition string) error {
	name, value, err := filter.Cut(condition, Filters)
	if err != nil {
		return err
	}
	switch name {
	case "dangling":
		is, err := filter.Bool(name, value)
		if err != nil {
			return err
		}
		f.dangling = &is
	case "label":
		f.labels.Require(value)
	case "label!":
		f.labels.Exclude(value)
	case "until":
		if !f.until.IsZero() {
			return fmt.Errorf("more than one filter until: %w", store.ErrInvalid)
		}
		if f.until, err = filter.Time(name, value, time.Now()); err != nil {
			return err
		}
	default:
		return filter.Unknown(name, Filters)
	}
	return nil
}

var errContradiction = errors.New("the filter dangling says one thing, and whether all images are to go another")

func (f *Filter) check() error {
	if f.dangling != nil && *f.dangling == f.All {
		return fmt.Errorf("%w: %w", errContradiction, store.ErrInvalid)
	}
	return nil
}

// match tells whether an image fulfils the conditions, its names aside.
func (f *Filter) match(img store.Image) bool {
	if created := img.Config().Created; !f.until.IsZero() && (created.IsZero() || created.After(f.until)) {
		return false
	}
	return f.labels.Match(img)
}
