package union_test

import (
	"fmt"
	"testing"

	"imagefs/store"
	"imagefs/store/storetest"
	"imagefs/store/union"
)

// A store of a thousand images with ten names each, and another beside it.
func BenchmarkUnion(b *testing.B) {
	base := storetest.Files("etc/", "etc/f=the base\n")
	var many []storetest.Image
	for n := range 1000 {
		img := storetest.Image{Layers: [][]byte{base}, Comment: fmt.Sprint(n)}
		for tag := range 10 {
			img.Names = append(img.Names, fmt.Sprintf("team/app%d:%d", n, tag))
		}
		many = append(many, img)
	}
	a, z := root(b, many...), root(b, imgB)
	for name, u := range map[string]store.Store{
		"found":   open(b, union.Options{}, part(b, "a", a, true), part(b, "z", z, true)),
		"scanned": open(b, union.Options{}, readOnly(part(b, "a", a, true)), readOnly(part(b, "z", z, true))),
	} {
		b.Run("names/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := u.Names(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("IDs/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := u.IDs(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("image/"+name, func(b *testing.B) {
			for b.Loop() {
				// The other store's image, whose base is looked for in the first.
				if _, err := u.Image(ctx, imgB.ID()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
