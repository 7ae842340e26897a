package containers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// Limits on the records of a store. A file of its size limit has every count in
// it bounded, so that what it takes in memory is bounded, too.
const (
	maxRecordFile = 128 << 20
	maxRecords    = 1 << 18 // in one file
	maxItems      = 1 << 16 // in one list of a record
)

// imageRecord is what images.json says of an image. Older stores have no
// digest and no big-data-digests.
type imageRecord struct {
	ID         string               `json:"id"`
	Digest     digest.Digest        `json:"digest"`
	Names      list[string]         `json:"names"`
	Layer      string               `json:"layer"`
	Data       list[string]         `json:"big-data-names"`
	DataDigest table[digest.Digest] `json:"big-data-digests"`
	Created    time.Time            `json:"created"`
}

// layerRecord is what layers.json says of a layer. Older stores know no diff
// ID of some layers, newer ones none of those that they pulled in part.
type layerRecord struct {
	ID         string        `json:"id"`
	Parent     string        `json:"parent"`
	Created    time.Time     `json:"created"`
	Compressed digest.Digest `json:"compressed-diff-digest"`
	DiffID     digest.Digest `json:"diff-digest"`
	DiffSize   int64         `json:"diff-size"`
	UIDMap     list[idRange] `json:"uidmap"`
	GIDMap     list[idRange] `json:"gidmap"`
	Flags      struct {
		Incomplete bool `json:"incomplete"`
	} `json:"flags"`

	bad error // what in the record is not what it should be
}

// idRange says which IDs of the host stand for which of a container.
type idRange struct {
	Container int64 `json:"container_id"`
	Host      int64 `json:"host_id"`
	Size      int64 `json:"size"`
}

// list is an array of bounded length.
type list[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *list[T]) UnmarshalJSON(raw []byte) error {
	*l = nil
	return each(bytes.NewReader(raw), '[', maxItems, func(d *json.Decoder) error {
		var v T
		err := d.Decode(&v)
		*l = append(*l, v)
		return err
	})
}

// table is an object of bounded size.
type table[T any] map[string]T

// UnmarshalJSON implements json.Unmarshaler.
func (t *table[T]) UnmarshalJSON(raw []byte) error {
	*t = nil
	return each(bytes.NewReader(raw), '{', maxItems, func(d *json.Decoder) error {
		key, err := d.Token()
		if err != nil {
			return err
		}
		var v T
		if err := d.Decode(&v); err != nil {
			return err
		}
		if *t == nil {
			*t = table[T]{}
		}
		(*t)[key.(string)] = v // a Decoder takes nothing else for a key
		return nil
	})
}

// each calls do for every item of an array or object, of which there may be
// limit; nothing at all and null have none.
func each(r io.Reader, open json.Delim, limit int, do func(*json.Decoder) error) error {
	d := json.NewDecoder(r)
	t, err := d.Token()
	if err == io.EOF || err == nil && t == nil {
		return nil
	}
	if err != nil {
		return err
	}
	if t != open {
		return fmt.Errorf("%v where %v is needed: %w", t, open, store.ErrCorrupt)
	}
	for n := 0; d.More(); n++ {
		if n == limit {
			return fmt.Errorf("more than %d items: %w", limit, store.ErrTooLarge)
		}
		if err := do(d); err != nil {
			return err
		}
	}
	_, err = d.Token() // what closes it
	return err
}

// parse reads a file of records. One record that is wrong does not hide the
// others: it comes with what is right of it and an error.
func parse[T any](raw []byte, add func(rec *T, bad error)) error {
	err := each(bytes.NewReader(raw), '[', maxRecords, func(d *json.Decoder) error {
		var one json.RawMessage
		if err := d.Decode(&one); err != nil {
			return err
		}
		var rec T
		err := json.Unmarshal(one, &rec)
		if err != nil {
			err = corrupt(err)
		}
		add(&rec, err)
		return nil
	})
	if err != nil {
		return corrupt(err)
	}
	return nil
}

// corrupt gives an error of package json its sentinel.
func corrupt(err error) error {
	if errors.Is(err, store.ErrTooLarge) || errors.Is(err, store.ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
}
