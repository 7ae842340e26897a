// Package ctl carries out the commands that are written to control files, and
// remembers what became of them. It knows no file system protocol: it takes
// bytes and returns errors that wrap the sentinels of package store.
package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// MaxCommand bounds a command in bytes, the newline included.
const MaxCommand = 4096

// keepErrors is how many failures Errors tells of.
const keepErrors = 64

// Result is what became of a command. Last gives it as JSON.
type Result struct {
	OK      bool            `json:"ok"`
	Op      string          `json:"op"`
	ID      digest.Digest   `json:"id,omitempty"`
	Tags    []string        `json:"tags,omitempty"`
	Deleted []digest.Digest `json:"deleted,omitempty"`
	Error   string          `json:"error,omitempty"`
	Images  []digest.Digest `json:"images,omitempty"` // load: all that came, if more than one
	*Pruned                 // prune
}

// Options of New. All may be nil.
type Options struct {
	Loader   store.Loader
	Importer store.Importer
	// Changed is called after a command changed the store, before it returns.
	Changed func()
	// InUse tells why an image must not be deleted now although the store would, nil if nothing forbids it.
	InUse func(ctx context.Context, refOrID string) error
	// Log gets a line for each command, and one for each that failed.
	Log *slog.Logger
}

// Ctl runs commands, one call at a time or several. Safe for concurrent use.
type Ctl struct {
	st store.Store
	o  Options

	naming sync.Mutex // taken to give a name that must not be there

	mu     sync.Mutex // guards what follows; never held while a command runs
	last   map[uint32]Result
	errors []failure // oldest first
	counts counts
}

type failure struct {
	At    time.Time `json:"time"`
	Op    string    `json:"op"`
	Args  string    `json:"args,omitempty"`
	Error string    `json:"error"`
}

// New returns a Ctl for a store.
func New(st store.Store, o Options) *Ctl {
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Ctl{st: st, o: o, last: map[uint32]Result{}}
}

// line checks that b is one command and returns it without its newline.
func line(b []byte) (string, error) {
	if len(b) > MaxCommand {
		return "", fmt.Errorf("a command of more than %d bytes: %w", MaxCommand, store.ErrInvalid)
	}
	s := strings.TrimSuffix(string(b), "\n")
	if strings.ContainsAny(s, "\n\r") {
		return "", fmt.Errorf("more than one line; write one command at a time: %w", store.ErrInvalid)
	}
	if strings.IndexByte(s, 0) >= 0 {
		return "", fmt.Errorf("a command with a NUL byte: %w", store.ErrInvalid)
	}
	return s, nil
}

// Tag handles "SRC TARGET".
func (c *Ctl) Tag(ctx context.Context, uid uint32, cmd []byte) error {
	return c.command(uid, "tag", cmd, func(s string) (r Result, err error) {
		f, err := words(s)
		if err != nil {
			return r, err
		}
		if len(f) != 2 {
			return r, fmt.Errorf("want two words, SRC TARGET, got %d: %w", len(f), store.ErrInvalid)
		}
		t, ok := c.st.(store.Tagger)
		if !ok {
			return r, store.Cannot(c.st, "name images")
		}
		ref, err := store.NewTag(f[1])
		if err != nil {
			return r, err
		}
		id, _, err := store.Resolve(ctx, c.st, f[0])
		if err != nil {
			return r, err
		}
		return Result{ID: id, Tags: []string{ref}}, t.Tag(ctx, ref, id)
	})
}

// Rmi handles "REF" and "-f REF".
func (c *Ctl) Rmi(ctx context.Context, uid uint32, cmd []byte) error {
	return c.command(uid, "rmi", cmd, func(s string) (r Result, err error) {
		f, err := words(s)
		if err != nil {
			return r, err
		}
		force := len(f) > 0 && (f[0] == "-f" || f[0] == "--force")
		if force {
			f = f[1:]
		}
		if len(f) != 1 || strings.HasPrefix(f[0], "-") {
			return r, fmt.Errorf("want [-f] REF: %w", store.ErrInvalid)
		}
		rm, ok := c.st.(store.Remover)
		if !ok {
			return r, store.Cannot(c.st, "remove images")
		}
		if !force && c.o.InUse != nil {
			if err := c.o.InUse(ctx, f[0]); err != nil {
				return r, err
			}
		}
		done, err := rm.Remove(ctx, f[0], force)
		return Result{Tags: done.Untagged, Deleted: done.Deleted}, err
	})
}

// LoadPath handles "/absolute/path" of an archive or a layout directory, quoted or not.
func (c *Ctl) LoadPath(ctx context.Context, uid uint32, cmd []byte) error {
	return c.command(uid, "load", cmd, func(s string) (r Result, err error) {
		if s, err = path(s); err != nil {
			return r, err
		}
		if !strings.HasPrefix(s, "/") {
			return r, fmt.Errorf("%.200q is not an absolute path: %w", s, store.ErrInvalid)
		}
		if c.o.Loader == nil {
			return r, store.Cannot(c.st, "load images")
		}
		return loaded(c.o.Loader.LoadPath(ctx, s))
	})
}

// Load reads an archive from a stream.
func (c *Ctl) Load(ctx context.Context, uid uint32, r io.Reader) error {
	return c.run(uid, "load", "", func() (Result, error) {
		if c.o.Loader == nil {
			return Result{}, store.Cannot(c.st, "load images")
		}
		return loaded(c.o.Loader.Load(ctx, r))
	})
}

// Nothing notes that a stream was opened and ended without a byte.
func (c *Ctl) Nothing(uid uint32, op string) {
	_ = c.run(uid, op, "", func() (Result, error) {
		return Result{}, fmt.Errorf("nothing was written: %w", store.ErrInvalid)
	})
}

func loaded(images []store.Loaded, err error) (Result, error) {
	var r Result
	for _, i := range images {
		r.Tags = append(r.Tags, i.Names...)
		r.Images = append(r.Images, i.ID)
	}
	slices.Sort(r.Tags)
	if len(images) > 0 {
		r.ID = images[0].ID
	}
	if len(images) == 1 {
		r.Images = nil
	}
	return r, err
}

// command carries out what was written.
func (c *Ctl) command(uid uint32, op string, cmd []byte, do func(line string) (Result, error)) error {
	s, err := line(cmd)
	return c.run(uid, op, s, func() (Result, error) {
		if err != nil {
			return Result{}, err
		}
		return do(s)
	})
}

// run carries out anything, and lets what became of it be known; args may have any bytes.
func (c *Ctl) run(uid uint32, op, args string, do func() (Result, error)) error {
	defer c.begin(op)()
	r, err := do()
	if err == nil || len(r.Deleted) > 0 || r.Pruned != nil {
		c.o.Changed()
	}
	c.note(uid, op, args, r, err)
	return err
}

func (c *Ctl) note(uid uint32, op, args string, r Result, err error) {
	r.Op, r.OK = op, err == nil
	if err != nil {
		r.Error = sentence(err)
		c.o.Log.Warn("command failed", "op", op, "args", args, "uid", uid, "err", r.Error)
	} else {
		c.o.Log.Debug("command", "op", op, "args", args, "uid", uid)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[uid] = r
	c.counts.run++
	if err != nil {
		c.counts.failed++
		c.fail(op, args, err)
	}
}

// Note remembers a failure that is not one of a command: what went wrong inside, where errno says EIO only.
func (c *Ctl) Note(op, args string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail(op, args, err)
}

// fail adds a failure; c.mu is held.
func (c *Ctl) fail(op, args string, err error) {
	if len(c.errors) == keepErrors {
		c.errors = slices.Delete(c.errors, 0, 1)
	}
	c.errors = append(c.errors, failure{time.Now().UTC(), op, args, sentence(err)})
}

// Last returns the result of a user's last command, one line of JSON; empty if there was none.
func (c *Ctl) Last(uid uint32) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.last[uid]
	if !ok {
		return nil
	}
	return encode(r)
}

// Errors returns the last failures, oldest first, one line of JSON each.
func (c *Ctl) Errors() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b []byte
	for _, f := range c.errors {
		b = append(b, encode(f)...)
	}
	return b
}

func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return []byte(fmt.Sprintf("{\"ok\":false,\"error\":%q}\n", err))
	}
	return b.Bytes()
}

// sentence is an error in one line.
func sentence(err error) string {
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	return strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")
}

// Help is the text of ctl/help.
const Help = `Write one command, of one line, to a file in this directory. When the write
returns, or for a streamed archive the close, it is done and durable, or it
failed with an errno and nothing has changed, but for a prune, which goes on
from image to image.

  echo 'SRC TARGET' > tag       give the image SRC (a name or an ID) the name TARGET
  echo REF > rmi                remove a name, and with the last one the image
  echo '-f REF' > rmi           the same, whatever else the image is called
  echo /abs/app.tar > load      load an archive, or an OCI layout directory
  cp app.tar load               load an archive; cat app.tar > load does too. One
                                program writes it: the first close is its end
  echo '/abs/root.tar NAME' > import
                                make an image of a root file system; NAME may be
                                left out; cp root.tar import makes one without
  echo '"/abs/my root.tar" NAME' > import
                                a word with blanks is quoted, with " or ', as in a
                                shell
  echo dangling > prune         remove images that have no name; all: whatever no
                                container uses. Further words: dry-run, label=L,
                                label!=L, until=24h. last has what went
  cat last                      the result of your last command, JSON
  cat errors                    the last 64 failures, one line of JSON each
  cat status                    the state of the mount and its stores, JSON
  tail -f events                one line of JSON for each change, whoever makes it;
                                cat events waits for those to come

Names are links, and change as links do. An image is a name, an ID, or a path.

  ln -s IMAGE images/me/app/v1  give the image a name that is not taken
  ln -sfn IMAGE images/me/app/v1    let a name, taken or not, name the image
  mv -T images/a/x images/b/y   rename, in one step
  rm images/foo/latest          remove a name, never the image
  rm -r images/foo              remove all names of a repository
  mkdir -p images/me/app        a place for names; if it stays empty, for 10 minutes
  rmdir ids/ID                  remove an image, as rmi does

Archives may be of docker save (all ages) or OCI, plain or compressed with gzip,
zstd, bzip2 or xz.

  EINVAL      bad reference or syntax       ENOENT    no such image or file
  EBUSY       other names, or in use        EROFS     the store cannot be written
  EEXIST      the name is taken             ENOTEMPTY the repository has names
  EBADMSG     corrupt or truncated archive  EFBIG     over the size limits
  EOPNOTSUPP  this store cannot do that     EACCES    you are not the mount's owner
`
