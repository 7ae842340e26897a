// Package copy brings images from one store into another.
//
//	source                                    target
//	Layer.Tar ──▶ readers ahead ──▶ pipe ──▶ Ingest.Unpack      two layers at a time
//	RawConfig, names ──────────────────────▶ Ingest.Commit      all images in one step
//
// A layer that the target has, by its chain ID, is not read: not even the size of
// its tar is asked for. One that several images have is read once. Every layer is
// hashed on both sides of the pipe, and every config hashes to its image's ID, so
// that what has arrived is what was there. What is not committed is cleared away
// by the target. Memory does not depend on the images' sizes: some buffers for
// each layer under way.
//
// Archives and OCI layouts as targets are package save's.
//
// # Decisions
//
//   - All images are committed in one step, as with a load: either all are there or none.
//   - A layer whose tar its store cannot give back (podman's and Docker's without a
//     tar-split) is an error, before anything is read. Made anew of its files the tar
//     would be another one, with another diff ID, and the image another image.
package copy
