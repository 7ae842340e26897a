// Package conn is one connection of a FUSE file system with the kernel: it mounts,
// greets, answers requests, and tells the kernel of changes. What brings requests
// and takes answers away is package dev, or uring.
//
// A request is answered in one of two ways. The operations that a walk through a
// tree is made of are decoded here and allocate nothing (Call.InPlace). All others,
// and these too while requests are logged, go through go-fuse's protocol server
// (Conn.Answer), but for POLL, which that does not know.
//
//	        request                                       answer
//	┌──────────┬─────────────────┬─────────┐        ┌───────────┬─────────┐
//	│ InHeader │ operation's own │ payload │  ───►  │ OutHeader │ payload │
//	│ 40 bytes │ 0 to 128 bytes  │ a name… │        │ 16 bytes  │         │
//	└──────────┴─────────────────┴─────────┘        └───────────┴─────────┘
//
// What of a request is where is the transport's matter: on the device the three
// parts lie behind each other, in a ring's entry each has a place of its own.
//
// # Interrupts
//
// An INTERRUPT can overtake its request, so one that finds none is kept for a while.
package conn
