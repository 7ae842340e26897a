package containers

import (
	"errors"
	"strings"
	"testing"

	"imagefs/store"
)

// FuzzRecords reads hostile files of records: whatever they say, it comes back, and all that
// is named on disk is a plain name.
func FuzzRecords(f *testing.F) {
	id := strings.Repeat("a", 64)
	f.Add([]byte(`[{"id":"`+id+`","layer":"x","names":["docker.io/library/a:1","a@sha256:`+id+`"],"digest":"sha256:`+id+`","big-data-names":["sha256:`+id+`","manifest"]}]`),
		[]byte(`[{"id":"x","parent":"x","diff-digest":"sha256:`+id+`","uidmap":[{"container_id":0,"host_id":1,"size":9}],"flags":{"incomplete":true}}]`))
	f.Add([]byte(`[{"id":"../x","names":null,"big-data-digests":{"manifest":"x"}}]`), []byte(`[{"id":"/"},{}]`))
	f.Add([]byte(`null`), []byte(`[`))
	s := openStore(f, pair(f).dir, Options{}) // a place with nothing in it that these know
	f.Fuzz(func(t *testing.T, images, layers []byte) {
		l := &listing{layers: map[string]*layerRecord{}}
		l.err, l.layErr = l.addImages(images), l.addLayers(layers)
		for _, err := range []error{l.err, l.layErr} {
			if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge) {
				t.Fatal(err)
			}
		}
		for id := range l.layers {
			if strings.ContainsAny(id, "/\x00") || strings.HasPrefix(id, ".") {
				t.Fatalf("a layer is named %q", id)
			}
		}
		c := newCatalog([]*listing{l})
		for ref := range c.names.Tags {
			if got, err := store.FamiliarTag(ref); err != nil || got != ref {
				t.Fatalf("%q is no familiar reference: %q %v", ref, got, err)
			}
		}
		for ref := range c.names.Digests {
			if got, err := store.FamiliarDigest(ref); err != nil || got != ref {
				t.Fatalf("%q is no familiar reference: %q %v", ref, got, err)
			}
		}
		for _, id := range c.ids {
			img, err := s.image(c, id)
			if err != nil {
				t.Fatal(err)
			}
			if img.Err() == nil {
				t.Fatalf("image %s is whole, and nothing of it is there", id)
			}
			layers, _ := s.stack(c, 0, c.images[id].Layer, good.DiffIDs())
			if len(layers) != len(good.DiffIDs()) {
				t.Fatalf("%d layers", len(layers))
			}
		}
	})
}
