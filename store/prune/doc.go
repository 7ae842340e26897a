// Package prune removes the images of a store that nobody needs, as `docker
// image prune` does. It decides which go; the store's Remover says what goes
// with them.
//
// # Decisions
//
//   - Dangling is what has no tag and what no other image was built on. Digest
//     references do not save an image. With All, every image goes that no
//     container uses, but for those without a name that others were built on:
//     they go with those.
//   - An image is removed name by name, as Docker does it, so that one that a
//     container uses keeps its last name.
//   - What must stay (ErrBusy) is skipped and told of, as are broken images:
//     nobody knows their labels and age, and a daemon does not see them at all.
//   - Of several label!= an image must have none to go. Docker keeps only
//     those that have all of them, which nobody expects.
//   - Of several stores shown as one, each is pruned by itself, by its own names.
//   - Newest first, so that an image goes before those that it was built on.
package prune
