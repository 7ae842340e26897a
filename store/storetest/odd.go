package storetest

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/storetest/stacks"
)

// Held is an image that a store under test holds.
type Held struct {
	Image
	// Stack is what the layers were packed from; nil for layers whose files are checked against their tars.
	Stack stacks.Stack
	// As is the ID that the store gives the image; "" stands for that of the Image.
	As digest.Digest
}

// id is the image's ID in the store.
func (h Held) id() digest.Digest {
	if h.As != "" {
		return h.As
	}
	return h.Image.ID()
}

// Images are those of several Held.
func Images(held []Held) []Image {
	var out []Image
	for _, h := range held {
		out = append(out, h.Image)
	}
	return out
}

// oddSeeds are stacks with everything that a tar can have, among them sparse
// files, links before their targets, and whiteouts in all their forms.
var oddSeeds = []uint64{1, 7, 1003, 1010}

// Odd are images as odd as images get, the same at each call: every kind of
// store is to show the same of them.
func Odd() []Held {
	base := Tar(
		Entry{Name: "etc/", Mode: 0o750, UID: 7, GID: 8},
		Entry{Name: "etc/passwd", Body: "root\n"},
		Entry{Name: "etc/shadow", Body: "secret\n", Mode: 0o600},
		Entry{Name: "etc/link", Link: "passwd"},
		Entry{Name: "bin/su", Body: "#!/bin/sh\n", Mode: 0o4755},
		Entry{Name: "empty", Body: ""},
		Entry{Name: "zeros", Body: string(make([]byte, 300_000))},
		Entry{Name: "deep/er/and/deeper/file", Body: "without its directories\n"},
		Entry{Name: "old/gone", Body: "gone\n"},
		Entry{Name: "old/kept", Body: "kept\n"},
	)
	one := Files("etc/version=1\n", "etc/.wh.shadow=", "old/.wh..wh..opq=", "old/new=new\n")
	two := Files("etc/version=2\n", ".wh.old=", "zeros=no longer\n")
	none := Tar()
	held := []Held{
		{Image: Image{Names: []string{"odd/app:1", "odd/app/deeper:x", "odd:app"}, Layers: [][]byte{base, one}}},
		{Image: Image{Names: []string{"odd/app:2"}, Layers: [][]byte{base, two}}},
		{Image: Image{Names: []string{"localhost:5000/odd/registry:V.1_-"}, Layers: [][]byte{base, one, two}}},
		{Image: Image{Names: []string{"odd/twice:1"}, Layers: [][]byte{one, none, one}, Comment: "the same layer twice, and an empty one"}},
		{Image: Image{Layers: [][]byte{base}, Comment: "without a name"}},
		{Image: Image{Names: []string{"odd/other:arm"}, Layers: [][]byte{two}, Platform: "linux/arm64/v8"}},
	}
	for _, seed := range oddSeeds {
		s := stacks.New(seed)
		held = append(held, Held{Stack: s, Image: Image{Names: []string{fmt.Sprintf("stack/seed:%d", seed)}, Layers: s.Tars(), Comment: fmt.Sprint(seed)}})
	}
	return held
}

// Fill loads images into a store.
func Fill(t testing.TB, dst store.Ingester, images ...Image) {
	t.Helper()
	in, err := dst.Ingest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Abort()
	if err := Commit(in, images...); err != nil {
		t.Fatal(err)
	}
}

// Commit makes images in a load.
func Commit(in store.Ingest, images ...Image) (err error) {
	ctx := context.Background()
	staged := map[digest.Digest]store.Staged{}
	var all []store.NewImage
	for _, img := range images {
		n := store.NewImage{Config: img.Config(), Names: img.Names}
		ids := img.DiffIDs()
		for i, l := range img.Layers {
			nl := store.NewLayer{DiffID: ids[i]}
			chain := store.ChainID(ids[:i+1])
			if !in.HasLayer(chain) {
				if staged[chain] == nil {
					if staged[chain], err = in.Unpack(ctx, bytes.NewReader(l)); err != nil {
						return fmt.Errorf("unpack layer %d of %q: %w", i, img.Names, err)
					}
				}
				nl.Staged = staged[chain]
			}
			n.Layers = append(n.Layers, nl)
		}
		all = append(all, n)
	}
	return in.Commit(ctx, all)
}
