// Package union makes one store of several: what they hold together, each
// image and each layer once.
//
// The order of the parts decides. A name that several have is the first one's.
// An image that several have is that of the first where it is whole. A layer
// is known by its chain ID, which says what it is and what it lies on; of the
// parts that have it whole, one serves it to all images, whichever part they
// are in, so that a file that comes from the same layer is the same inode.
// Which part that is, is decided when the layer is first asked for and stays so
// as long as somebody has the layer, or until the part loses it: then the layer
// is a new one, with a new key, from the next part that has it.
//
// Changes go to one part: to the one that has the image, or for a name to the
// one whose name shows. A part that is only read, or whose kind cannot do it,
// says so by name.
//
// A part that fails hides nothing of the others. What is wrong with it is
// logged when it begins, and told by asking the part itself (store.Parter).
//
// Union.mu and a layer's mu guard memory only; of the two, a layer's is taken
// first. No part is asked for anything while Union.mu is held.
package union
