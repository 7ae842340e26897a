// Package storetest is what tests of stores share: the fixtures, and builders of
// images and archives in every form that engines write, byte for byte the same
// at each call, so that an odd archive is a few lines in the test that needs it.
//
// Run is the suite that every kind of store runs, on a store that holds the
// images of Odd:
//
//	held := storetest.Odd()
//	// … write storetest.Images(held) as the kind of store keeps them …
//	storetest.Run(t, func(t testing.TB) store.Store { return open(t, dir) }, storetest.Contents{Images: held})
package storetest
