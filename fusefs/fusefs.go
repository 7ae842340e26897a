package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/store"
)

// FSType is the type of the mounts in the mount table.
const FSType = "fuse.imagefs"

// Options of Mount.
type Options struct {
	Source     string // what the mount table names as the device: the store's path
	AllowOther bool   // users other than the mounting one may look; the kernel checks permissions
	ReadOnly   bool   // no ctl/, images cannot be changed
	// Passthrough lets the kernel read large files itself on a ReadOnly mount too,
	// at the price of an OPEN for every file; without ReadOnly it always does.
	Passthrough bool
	// ListOrigin lists the extended attributes that tell a file's layer; they can be read anyway.
	ListOrigin bool
	Suid       bool           // honour setuid and file capabilities
	Dev        bool           // honour device nodes
	NoExec     bool           // no program in it can be run
	Loader     store.Loader   // for ctl/load; nil: loading is not supported
	Importer   store.Importer // for ctl/import; nil: importing is not supported
	Version    string         // of the program, for ctl/status
	Kind       string         // of a store that is no store.Parter, for ctl/status
	Log        *slog.Logger   // nil: silent
	// Poll answers poll(2) for ctl/events. Only for a process that opens no file
	// of the tree itself, least of all with package os: see conn.Options.
	Poll      bool
	Debug     bool      // log every request
	Transport Transport // "": Auto
}

// Server is a mounted tree.
type Server struct {
	dir  string
	fs   *fsys
	over Transport
	done chan struct{}
	stop context.CancelFunc

	abandoned atomic.Bool
}

// ErrServing is wrapped by an error of Mount after which the tree is in use for
// longer than Mount waits: the store must not be closed.
var ErrServing = errors.New("the tree is still in use")

// maxRequest is the size of the largest read and write in bytes.
const maxRequest = 1 << 20

// Mount shows a store at dir, an existing directory, and returns when the tree
// is ready. The store stays the caller's, who closes it after Wait, or after an
// error that is not ErrServing: nothing uses it then. As root it mounts by itself,
// else with fusermount3.
func Mount(ctx context.Context, dir string, st store.Store, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Server{dir: dir, done: make(chan struct{}), stop: stop}
	f, err := newFS(life, st, o)
	if err != nil {
		stop()
		return nil, err
	}
	s.fs, f.dir = f, dir
	srv, over, err := f.attach(dir)
	if err != nil {
		stop()
		return nil, mountError(dir, err)
	}
	s.over = over
	id := mountID(dir)
	// Held until the watcher is added: an unmount before that must not end the wait.
	f.work.Add(1)
	go func() {
		srv.Serve()
		if !s.abandoned.Load() {
			clearDead(dir, id)
		}
		stop()
		f.work.Wait()
		f.close()
		close(s.done)
	}()
	err = f.begin(srv)
	f.work.Done()
	if err != nil {
		if e := s.abandon(); e != nil {
			err = fmt.Errorf("%w; %w", err, e)
		}
		return nil, err
	}
	return s, nil
}

// begin returns when a tree that is served is ready, and its store is watched.
func (f *fsys) begin(srv server) error {
	if err := srv.WaitMount(); err != nil {
		return fmt.Errorf("mount at %s: %w", f.dir, err)
	}
	if !f.o.ReadOnly {
		f.work.Go(func() {
			if err := watchMount(f.life, f.dir, f.history.Release); err != nil && f.life.Err() == nil {
				f.log.Warn("who reads ctl/events must end before a lazy unmount is complete", "err", err)
			}
		})
	}
	w, ok := f.st.(store.Watcher)
	if !ok {
		return nil
	}
	changes, err := w.Watch(f.life)
	if err != nil {
		return fmt.Errorf("watch the store: %w", err)
	}
	f.work.Go(func() {
		for range changes {
			_ = f.guard("look at the store", func() error { f.refresh(); return nil })
		}
	})
	// What changed between the first look and the watch.
	f.refresh()
	return nil
}

const (
	// quietEnd is how long a mount that failed is given to end by itself.
	quietEnd = time.Second
	// abortedEnd is how long after that what is under way is waited for.
	abortedEnd = 10 * time.Second
)

// abandon takes away a mount that failed, and returns when nothing uses the store
// any more, else ErrServing. Who stands in the tree already would keep a lazy
// unmount from being complete: the connection is ended under their feet.
func (s *Server) abandon() error {
	s.abandoned.Store(true)
	s.Leave()
	root, lookErr := lookAt(s.dir)
	const force = unix.MNT_FORCE | unix.MNT_DETACH | unix.UMOUNT_NOFOLLOW // aborts, then unmounts
	if os.Geteuid() != 0 || unix.Unmount(s.dir, force) != nil {
		_ = s.Unmount(true)
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(quietEnd):
	}
	if lookErr == nil {
		abort(root.Dev_minor)
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(abortedEnd):
		return ErrServing
	}
}

// abort ends a connection where that can be asked for, which its owner may do.
func abort(device uint32) {
	f, err := os.OpenFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", device), os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteString("1")
}

func (f *fsys) mountOptions() *fuse.MountOptions {
	o := f.o
	m := &fuse.MountOptions{
		AllowOther:               o.AllowOther,
		FsName:                   o.Source,
		Name:                     "imagefs",
		Options:                  []string{"default_permissions"},
		MaxWrite:                 maxRequest,
		MaxBackground:            64,
		Debug:                    o.Debug,
		Logger:                   slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		DirectMountStrict:        os.Geteuid() == 0,
		PanicHandler: func(what any) fuse.Status {
			_ = f.panicked("request", what)
			return fuse.EIO
		},
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if o.Suid {
		flags &^= unix.MS_NOSUID
	}
	if o.Dev {
		flags &^= unix.MS_NODEV
	}
	if o.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	if o.NoExec {
		flags |= unix.MS_NOEXEC
	}
	if os.Geteuid() != 0 {
		// fusermount3 takes words, and decides by itself about suid and dev.
		if o.ReadOnly {
			m.Options = append(m.Options, "ro")
		}
		if o.NoExec {
			m.Options = append(m.Options, "noexec")
		}
	} else if m.DirectMountFlags = flags; flags == 0 {
		m.DirectMountFlags = unix.MS_MGC_VAL
	}
	return m
}

func mountError(dir string, err error) error {
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("mount at %s: fusermount3 is not installed (Debian: apt-get install fuse3): %w", dir, err)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT):
		if _, e := os.Stat("/dev/fuse"); e != nil {
			return fmt.Errorf("mount at %s: this machine has no /dev/fuse (modprobe fuse): %w", dir, err)
		}
	case strings.Contains(err.Error(), "fusermount exited"):
		return fmt.Errorf("mount at %s: fusermount3 refused; its message is above", dir)
	}
	return fmt.Errorf("mount at %s: %w", dir, err)
}

// Transport tells over what the tree is served: Dev or IOUring.
func (s *Server) Transport() Transport { return s.over }

// Wait returns when the tree is unmounted, by whomever, and nothing uses the store any more.
func (s *Server) Wait() { <-s.done }

// Leave is called before Unmount by who means it: those who wait for events get
// the end of the file, so that they do not keep the tree in use.
func (s *Server) Leave() { s.fs.history.Close() }

// Unmount unmounts the tree, as the function Unmount does.
func (s *Server) Unmount(lazy bool) error { return Unmount(s.dir, lazy) }

// Unmount takes away the topmost mount at dir, an absolute path without links;
// EBUSY, wrapped, if it is in use. With lazy it goes as soon as nobody uses it
// any more. As root it unmounts by itself, else with fusermount3, and
// exec.ErrNotFound is wrapped if there is none.
func Unmount(dir string, lazy bool) error {
	if os.Geteuid() == 0 {
		flags := unix.UMOUNT_NOFOLLOW
		if lazy {
			flags |= unix.MNT_DETACH
		}
		if err := unix.Unmount(dir, flags); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	out, err := exec.Command("fusermount3", append(args, "--", dir)...).CombinedOutput()
	switch text := strings.Join(strings.Fields(string(out)), " "); {
	case err == nil:
		return nil
	case strings.Contains(text, "busy"):
		return fmt.Errorf("unmount %s: %w", dir, unix.EBUSY)
	case text != "":
		return fmt.Errorf("unmount %s: %s: %w", dir, text, err)
	default:
		return fmt.Errorf("unmount %s: fusermount3: %w", dir, err)
	}
}

// forever is how long the kernel keeps what cannot change.
const forever = 10 * 365 * 24 * time.Hour

// nameTime is how long the kernel keeps a name of an image.
const nameTime = time.Second
