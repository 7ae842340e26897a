package conn

// The operations (linux/fuse.h) that are not left to go-fuse, which keeps its own to itself.
const (
	OpLookup      = 1
	OpForget      = 2
	OpGetattr     = 3
	OpReadlink    = 5
	OpOpen        = 14
	OpRead        = 15
	OpWrite       = 16
	OpRelease     = 18
	OpGetxattr    = 22
	OpListxattr   = 23
	OpInit        = 26
	OpReaddir     = 28
	OpInterrupt   = 36
	OpPoll        = 40
	OpBatchForget = 42
	OpReaddirplus = 44
)
