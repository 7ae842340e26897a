// Package filter reads conditions on images as Docker's --filter takes them:
// name=value. What `images` and `prune` have in common is here.
package filter

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"imagefs/store"
)

// Cut splits a condition: "label!=a=b" is the name "label!" and the value
// "a=b". The name is in lower case. known is for the message of the error,
// store.ErrInvalid.
func Cut(condition, known string) (name, value string, err error) {
	name, value, ok := strings.Cut(condition, "=")
	if !ok {
		return "", "", fmt.Errorf("filter %.200q: want name=value (%s): %w", condition, known, store.ErrInvalid)
	}
	return strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value), nil
}

// Unknown is the error of a condition that there is not.
func Unknown(name, known string) error {
	return fmt.Errorf("filter %.200q: there is no such filter (%s): %w", name, known, store.ErrInvalid)
}

// BadPattern is the error of a value that is no shell pattern.
func BadPattern(name, value string) error {
	return fmt.Errorf("filter %s=%.200s: the pattern does not end, as in [a-: %w", name, value, store.ErrInvalid)
}

// Bool reads true, false, 1 and 0.
func Bool(name, value string) (bool, error) {
	switch strings.ToLower(value) {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("filter %s=%.200s: neither true nor false: %w", name, value, store.ErrInvalid)
}

// Labels are conditions on the labels of an image. The zero value is none.
type Labels struct{ with, without []string }

// Require adds "key" or "key=value", which an image must have.
func (l *Labels) Require(label string) { l.with = append(l.with, label) }

// Exclude adds "key" or "key=value", which an image must not have.
func (l *Labels) Exclude(label string) { l.without = append(l.without, label) }

// Match tells whether an image has all labels that are required and none that
// is excluded. An image without a readable config has no labels.
func (l Labels) Match(img store.Image) bool {
	if len(l.with)+len(l.without) == 0 {
		return true
	}
	var c struct {
		Config struct{ Labels map[string]string } `json:"config"`
	}
	if err := json.Unmarshal(img.RawConfig(), &c); err != nil {
		c.Config.Labels = nil
	}
	has := func(label string) bool {
		key, want, exact := strings.Cut(label, "=")
		got, ok := c.Config.Labels[key]
		return ok && (!exact || got == want)
	}
	for _, label := range l.with {
		if !has(label) {
			return false
		}
	}
	for _, label := range l.without {
		if has(label) {
			return false
		}
	}
	return true
}

// layouts of a moment, from the most exact to a day; those with a zone first.
var layouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15Z07:00", "2006-01-02Z07:00",
	"2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02",
}

// Time reads a moment as Docker does: a Go duration before now, a time in the
// form of RFC 3339 or the beginning of one, in now's time zone where it names
// none, or seconds since 1970 with or without a fraction. store.ErrInvalid.
func Time(name, value string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(value); err == nil && value != "0" {
		return now.Add(-d), nil
	}
	for _, l := range layouts {
		if t, err := time.ParseInLocation(l, value, now.Location()); err == nil {
			return t, nil
		}
	}
	if t, ok := unixTime(value); ok {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("filter %s=%.200s: neither a duration like 24h nor a time like 2006-01-02T15:04:05: %w", name, value, store.ErrInvalid)
}

// unixTime reads "1136073600" and "1136073600.000000001".
func unixTime(s string) (time.Time, bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	if !digits(whole, 18) || len(fraction) > 0 && !digits(fraction, 18) || strings.HasSuffix(s, ".") {
		return time.Time{}, false
	}
	d, err := time.ParseDuration("0." + fraction + "0s")
	if err != nil {
		return time.Time{}, false
	}
	var sec int64
	for _, c := range []byte(whole) {
		sec = sec*10 + int64(c-'0')
	}
	return time.Unix(sec, int64(d)), true
}

// digits tells whether s is 1 to most decimal digits.
func digits(s string, most int) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != "" && len(s) <= most
}
