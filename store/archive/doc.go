// Package archive loads image archives into a store, and shows them as a store
// where they lie (Open; the layers are package blob's): everything that docker
// save, podman save, skopeo, buildah, BuildKit, kaniko, bazel and their like
// have written, compressed or not, from a file, a directory or a pipe.
//
// # What it reads
//
//	docker-archive                     OCI archive, OCI layout directory
//	  manifest.json                      oci-layout          (not insisted on)
//	  <hex>.json                         index.json
//	  <id>/{VERSION,json,layer.tar}      blobs/<alg>/<hex>
//	  repositories
//	before Docker 1.10                 since Docker 25: both in one
//	  <id>/{VERSION,json,layer.tar}      manifest.json, whose paths are blobs/sha256/<hex>
//	  repositories                       oci-layout, index.json, blobs/<alg>/<hex>
//
// manifest.json goes first where it is, then index.json, then the directories
// of Docker before 1.10. A file in an archive may be a symbolic or hard link to
// another one; names are keys of a map and never touch a file system. In a
// directory, links are followed as long as they stay in it.
//
// # How
//
//	pipe ─▶ pump ─▶ decompress ─▶ pump ─▶ archive/tar ─▶ decompress ─▶ Ingest.Unpack
//	                                         └▶ memory: what can be JSON
//
// In a pipe, and in a compressed file, layers come before what says whose they
// are. So each member that looks like a layer (by its first bytes, not its name)
// is unpacked at once and remembered by name with its diff ID and its digest;
// what may be JSON is kept in memory, within Limits; when the stream has ended
// the manifests are read and the images put together. In a regular file that is
// not compressed, and in a directory, the manifests are read first, and layers
// that the store has already are not read at all.
//
// Every diff ID is checked, and every digest of a config, manifest, index or
// layer that is known by its digest, and every size that a descriptor says.
// Exception: a layer whose chain the store has already is taken from there. The
// error names what was expected and what was found; of an uncompressed layer in a
// pipe that is no tar any more, only why.
//
// Memory is bounded by some buffers of 2 to 4 MiB, Limits.Held, and the window
// that the compression asks for: 8 MiB or less as a rule, up to Limits.Window
// (`zstd --long`, `xz -9`).
//
// # Decisions
//
//   - All images of an archive are committed in one step. If one is broken, none is loaded.
//   - A <hex>.json whose content does not hash to <hex> is loaded, as docker load
//     does: the image ID is computed, never believed. blobs/<alg>/<hex> and
//     sha256:<hex> must fit.
//   - Names: RepoTags, with "latest" if there is no tag; a bad one is an error. For OCI
//     io.containerd.image.name, else org.opencontainers.image.ref.name if it has a
//     ":" or a "/": alone it is a tag by the OCI image spec, and without a repository
//     it names nothing. Annotations that are no references are ignored. One name for
//     two images means the later one.
//   - Platforms: an entry of index.json that is an index is one image for several
//     platforms, and the best is taken; entries that are manifests are images of their
//     own, unless they carry the same name (or none) and differ in platform. Without
//     Options.Platform, an index with only one image gives that one, whatever it is
//     for. manifest.json lists images, and all are loaded, whatever they are for; with
//     Options.Platform those for it.
//   - Attestations and artifacts (signatures, charts, SBOMs) are passed over. If nothing
//     else is there, that is an error which says what is.
//   - Pre-1.10 images get the config, and so the ID, that docker load gives them. Their
//     parents, which docker load makes images of their own without a name, are not kept.
//   - In place (Store), every image that is there is shown, for whatever platform: a name
//     stands for the one that suits this machine, else for the first. Broken images are
//     listed with what is wrong; one whose manifest cannot be read goes under the digest of
//     that. Of a multi-platform image, manifests that are not there are passed over, unless
//     none is. manifest.json and index.json are both read.
//   - An archive that is written to while it is shown gives store.ErrGone and no more bytes
//     (size, time and inode are looked at with every read). One that was replaced shows what
//     it is now; what is open of the old one is read on, since its file still is what it was.
//   - What an archive was before is kept, its descriptors included, as long as somebody has an
//     image, a layer or a file of it: users of a store do not say when they have done with
//     an image, so that the garbage collector finds it out (held.go). Memory that is mapped
//     is unmapped only if the layer was forgotten too (store.Forgetter), since the names in an
//     index lie in it.
//   - A compressed archive is read through once, with all its layers, and through a seek
//     index from then on; xz and bzip2 can only be loaded.
//   - The parent in a manifest.json is kept if it is in the same archive and really is below.
package archive
