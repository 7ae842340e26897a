// Package uring serves FUSE requests over io_uring: a request and its answer
// cost one system call and no copy through /dev/fuse. It needs Linux 6.14 with
// CONFIG_FUSE_IO_URING and the setting that Setting names.
//
// # Queues
//
// The kernel has one queue for each possible CPU and puts a request into that
// of the CPU that its caller runs on. Here, a thread serves each, pinned to that
// CPU, so that the caller and its server share a cache and never wait for an
// interrupt of another CPU. A queue has entries: pieces of memory that one
// request at a time is in. The queue of a CPU that is not online has entries too,
// because the kernel uses no queue before all have some; another CPU's thread
// serves it.
//
//	 kernel's queue n                    ring of thread n (io_uring)
//	┌───────────────────┐  request      ┌───────────────────────────────────┐
//	│ entry 0 … depth-1 │ ────────────► │ completion: user data = entry     │ ─► quick? ─► answered in place
//	│                   │               │                                   │      │
//	│                   │  answer       │ submission: COMMIT_AND_FETCH of   │ ◄────┤
//	│                   │ ◄──────────── │ the entry, which waits for the    │      ▼
//	└───────────────────┘               │ next request                      │   a goroutine, which puts the entry on
//	                                    │ submission: READ of the eventfd   │ ◄─ the list of answers and wakes the
//	                                    └───────────────────────────────────┘    thread through the eventfd
//
// A quick request is one that the file system says it answers without waiting.
// Everything else goes to a goroutine: it may take as long as it likes without
// holding up its queue, but for the entry that it occupies; a queue most of whose
// entries are occupied gets more.
//
// # An entry
//
// Entries lie in mappings, two for each time that a queue gets some: what is never
// touched costs no memory.
//
//	headers, 512 bytes an entry
//	0         40          128             256                288       320     512
//	┌──────────┬───────────┬───────────────┬──────────────────┬─────────┬───────┐
//	│ InHeader │           │ the operation │ flags, commit ID │ 2 iovec │       │
//	│ or       │           │ 's own header │ payload size     │         │       │
//	│ OutHeader│           │               │                  │         │       │
//	└──────────┴───────────┴───────────────┴──────────────────┴─────────┴───────┘
//
//	payloads, as large as the largest request each
//	┌─────────────────────────────────────────────────────────────────┐
//	│ in: names, data to write; out: all of the answer but its header │
//	└─────────────────────────────────────────────────────────────────┘
//
// The iovecs are for REGISTER, which tells the kernel of the entry once. Each
// answer is committed under the request's commit ID.
//
// # The device
//
// INIT, FORGET and INTERRUPT come over /dev/fuse, and notices to the kernel go
// that way: package conn has what both transports share.
//
// # The end
//
// When the tree is unmounted or its connection aborted, the kernel completes all
// waiting entries with ENOTCONN, and answers to requests that were under way get
// it too. A thread ends when it has seen the end of each of its entries. Then
// nothing of the kernel's points into the mappings any more, and they can go.
package uring
