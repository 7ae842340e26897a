package filter_test

import (
	"errors"
	"testing"
	"time"

	"imagefs/store"
	"imagefs/store/filter"
)

type image struct {
	store.Image
	raw string
}

func (i image) RawConfig() []byte { return []byte(i.raw) }

func TestLabels(t *testing.T) {
	one := image{raw: `{"config":{"Labels":{"a":"1","b":""}}}`}
	none := image{raw: `{"config":{"Labels":null}}`}
	bare := image{raw: `{}`}
	broken := image{raw: `{"config":{"Labels":{"a":1}}}`}
	for _, c := range []struct {
		with, without []string
		want          [4]bool // one, none, bare, broken
	}{
		{nil, nil, [4]bool{true, true, true, true}},
		{[]string{"a"}, nil, [4]bool{true, false, false, false}},
		{[]string{"a=1", "b"}, nil, [4]bool{true, false, false, false}},
		{[]string{"a=1", "c"}, nil, [4]bool{false, false, false, false}},
		{[]string{"a="}, nil, [4]bool{false, false, false, false}},
		{[]string{"b="}, nil, [4]bool{true, false, false, false}},
		{nil, []string{"a"}, [4]bool{false, true, true, true}},
		{nil, []string{"a=2"}, [4]bool{true, true, true, true}},
		{nil, []string{"c", "a"}, [4]bool{false, true, true, true}}, // one of them is enough to stay
		{[]string{"b"}, []string{"a=2"}, [4]bool{true, false, false, false}},
	} {
		var l filter.Labels
		for _, s := range c.with {
			l.Require(s)
		}
		for _, s := range c.without {
			l.Exclude(s)
		}
		for n, img := range []image{one, none, bare, broken} {
			if got := l.Match(img); got != c.want[n] {
				t.Errorf("with %q without %q, %s: %v", c.with, c.without, img.raw, got)
			}
		}
	}
}

// The forms are those that Docker's documentation of --filter until lists.
func TestTime(t *testing.T) {
	zone := time.FixedZone("east", 2*3600)
	now := time.Date(2024, 5, 6, 12, 0, 0, 0, zone)
	for value, want := range map[string]string{
		"10m":                            "2024-05-06T11:50:00+02:00",
		"1h30m":                          "2024-05-06T10:30:00+02:00",
		"-1h":                            "2024-05-06T13:00:00+02:00",
		"2006-01-02T15:04:05":            "2006-01-02T15:04:05+02:00",
		"2006-01-02T15:04:05.999999999":  "2006-01-02T15:04:05.999999999+02:00",
		"2006-01-02T15:04:05Z":           "2006-01-02T15:04:05Z",
		"2006-01-02T15:04:05.5-07:00":    "2006-01-02T15:04:05.5-07:00",
		"2006-01-02T15:04":               "2006-01-02T15:04:00+02:00",
		"2006-01-02T15:04+01:00":         "2006-01-02T15:04:00+01:00",
		"2006-01-02T15":                  "2006-01-02T15:00:00+02:00",
		"2006-01-02T15Z":                 "2006-01-02T15:00:00Z",
		"2006-01-02Z":                    "2006-01-02T00:00:00Z",
		"2006-01-02":                     "2006-01-02T00:00:00+02:00",
		"1136073600":                     "2006-01-01T00:00:00Z",
		"1136073600.000000001":           "2006-01-01T00:00:00.000000001Z",
		"1136073600.5":                   "2006-01-01T00:00:00.5Z",
		"0":                              "1970-01-01T00:00:00Z",
		"":                               "",
		"yesterday":                      "",
		"2006":                           "1970-01-01T00:33:26Z", // seconds
		"2006-13-01":                     "",
		"1.":                             "",
		".5":                             "",
		"99999999999999999999999999":     "",
		"1136073600.0000000000000000001": "",
	} {
		got, err := filter.Time("until", value, now)
		if want == "" {
			if !errors.Is(err, store.ErrInvalid) {
				t.Errorf("%q: %v, %v", value, got, err)
			}
			continue
		}
		w, perr := time.Parse(time.RFC3339Nano, want)
		if err != nil || perr != nil || !got.Equal(w) {
			t.Errorf("%q: %v, %v, want %s", value, got, err, want)
		}
	}
}
