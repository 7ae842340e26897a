package store

import (
	"errors"
	"strings"
	"testing"
)

func TestParseConfig(t *testing.T) {
	id := "sha256:" + strings.Repeat("0", 64)
	for _, c := range []struct {
		raw  string
		want error
	}{
		{`{}`, nil},
		{`{"rootfs":{"diff_ids":["` + id + `"]},"history":[{"created_by":"x"},{"empty_layer":true}]}`, nil},
		{`{"rootfs":{"diff_ids":null},"history":null}`, nil},
		{`{"created":"0001-01-01T00:00:00Z"}`, nil},
		{``, ErrCorrupt},
		{`[]`, ErrCorrupt},
		{`{"history":{}}`, ErrCorrupt},
		{`{"history":[1]}`, ErrCorrupt},
		{`{"rootfs":{"diff_ids":["sha256:xyz"]}}`, ErrCorrupt},
		{`{"rootfs":{"diff_ids":["../../etc/passwd"]}}`, ErrCorrupt},
		{`{"rootfs":{"diff_ids":["sha512:` + strings.Repeat("0", 128) + `"]}}`, ErrCorrupt},
		{`{"rootfs":{"diff_ids":["` + strings.TrimSuffix(strings.Repeat(id+`","`, MaxLayers+1), `","`) + `"]}}`, ErrTooLarge},
		{`{"history":[` + strings.Repeat("{},", MaxHistory) + `{}]}`, ErrTooLarge},
		{strings.Repeat("[", 1<<20), ErrCorrupt},
		{`{"history":` + strings.Repeat("[", 1<<20), ErrCorrupt},
		{strings.Repeat(" ", MaxConfigSize+1), ErrTooLarge},
	} {
		if _, err := ParseConfig([]byte(c.raw)); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%.60s: %v, want %v", c.raw, err, c.want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"rootfs":{"diff_ids":[]},"history":[{"created":"2020-01-01T00:00:00Z"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseConfig(raw)
		if err == nil && len(c.LayerHistory()) != len(c.DiffIDs) {
			t.Error("a layer without its place in the history")
		}
	})
}
