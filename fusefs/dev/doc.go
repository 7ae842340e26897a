// Package dev serves FUSE requests over /dev/fuse, which every kernel has.
//
//	                ┌────────────── readers ──────────────┐
//	/dev/fuse ────► │ read ─► quick? ─► answered in place │ ────► /dev/fuse
//	                └───────────│─────────────────────────┘           ▲
//	                            └──► a goroutine, with the buffer ────┘
//
// Readers wait in the kernel, beside each other, as many as there are CPUs and a
// few more while their requests wait for a disk. A reader answers a quick request
// itself: a read and a write of the device, no allocation, no other thread. Any
// other goes, with the buffer that it lies in, to a goroutine, and may take as long
// as it likes.
//
// A buffer has room for the largest request and for the largest answer. It is
// mapped, so what of it is never touched costs no memory.
//
// # The end
//
// When the tree is unmounted or its connection aborted, reads fail with ENODEV and
// the readers end. Requests that are under way are cancelled; their answers go
// nowhere.
package dev
