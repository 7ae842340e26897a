package fusefs

import (
	"context"
	"errors"
	"log/slog"

	"imagefs/store"
)

// Options of Mount.
type Options struct {
	Source     string       // what the mount table names as the device: the store's path
	AllowOther bool         // users other than the mounting one may look; the kernel checks permissions
	ReadOnly   bool         // no ctl/, images cannot be changed
	Suid       bool         // honour setuid and file capabilities
	Dev        bool         // honour device nodes
	Loader     store.Loader // for ctl/load; nil: loading is not supported
	Log        *slog.Logger // nil: silent
	Debug      bool         // log every request
}

// Server is a mounted tree.
type Server struct{}

// Mount shows a store at dir, an existing directory, and returns when the tree
// is ready. The store stays the caller's, who closes it after Wait.
func Mount(ctx context.Context, dir string, st store.Store, o Options) (*Server, error) {
	return nil, errors.ErrUnsupported
}

// Wait returns when the tree is unmounted, by whomever.
func (s *Server) Wait() {}

// Unmount unmounts the tree; EBUSY if it is in use. With lazy it goes as soon as nobody uses it any more.
func (s *Server) Unmount(lazy bool) error { return nil }
