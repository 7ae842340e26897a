// Package storetest is what tests of stores share: the fixtures, and builders of
// images and archives in every form that engines write, byte for byte the same
// at each call, so that an odd archive is a few lines in the test that needs it.
package storetest
