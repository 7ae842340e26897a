// Package blob makes layers of images out of layer blobs that stay where they
// are: a tar in a file, at an offset of an archive, in a content store. Nothing
// is unpacked and nothing is written but in a cache directory.
//
// # How to use it
//
// A kind of store keeps one Cache, and asks it for a Layer for each layer of
// each image:
//
//	c := blob.NewCache(blob.Options{Dir: cacheDir, Log: log})
//	l := c.Layer(blob.Spec{
//		DiffID: diff, ChainID: chain, // of the image's config
//		Blob: digest, Size: size,     // of the descriptor, "" if there is none
//		Origin: "…",                  // changes whenever the bytes may have changed
//		Open:   func() (blob.Data, error) { … }, // the bytes, at random; called when they are needed
//		Lower:  below,                // the layers below, bottom first
//	})
//
// A *Layer is a store.Layer and a store.TarHolder. One Spec.Origin and one chain
// should be one *Layer: the store keeps them. Layer.Verify reads everything
// there is to verify; Layer.Err tells what is known to be wrong; Layer.Close
// lets go of the blob, Layer.Forget of the index too. Cache.Close ends what runs
// in the background.
//
// # What is read when
//
//	          uncompressed                compressed
//	Index     headers of the tar          all of it, once: both digests are checked,
//	                                      places to start from are noted
//	content   at its offset               from the last such place before it
//	verified  by Verify, which the Cache  before Index returns
//	          calls in the background
//
// A layer's lock is held while its index is built, and while it waits for the
// indexes of layers below: it is taken from the top of a stack to its bottom.
// Nobody waits for it longer than their context lasts.
//
// A digest that does not fit makes the layer broken: Err, and every read from
// then on, is store.ErrCorrupt and names the blob.
package blob
