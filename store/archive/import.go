package archive

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/change"
	"imagefs/store/platform"
)

// importedFrom is the comment of an import that has none. Docker's client sends
// every file as a stream, which its daemon calls "-".
const importedFrom = "Imported from -"

var _ store.Importer = (*Loader)(nil)

// Import implements store.Importer. What Load says of its reader holds here too.
func (l *Loader) Import(ctx context.Context, r io.Reader, o store.ImportOptions) (store.Loaded, error) {
	f, rest, err := regular(r)
	if err != nil {
		return store.Loaded{}, err
	}
	if f == nil {
		return l.imported(ctx, r, -1, o)
	}
	out, err := l.imported(ctx, rest, rest.Size(), o)
	if err == nil {
		_, _ = f.Seek(0, io.SeekEnd)
	}
	return out, err
}

// ImportPath implements store.Importer. The path may be reached through links;
// a fifo is read as a stream. store.ErrInvalid for a directory.
func (l *Loader) ImportPath(ctx context.Context, path string, o store.ImportOptions) (store.Loaded, error) {
	f, _, err := openInput(ctx, path, false)
	if err != nil {
		return store.Loaded{}, err
	}
	defer f.Close()
	return l.Import(ctx, f, o)
}

// imported imports what can be read once; total is how much that is, -1 if
// nobody knows and a Read may have to wait.
func (l *Loader) imported(ctx context.Context, r io.Reader, total int64, o store.ImportOptions) (out store.Loaded, err error) {
	config := &store.ContainerConfig{}
	if err := change.Apply(config, o.Changes); err != nil {
		return out, err
	}
	if o.Name != "" {
		name, err := store.NewTag(o.Name)
		if err != nil {
			return out, err
		}
		out.Names = []string{name}
	}
	err = l.session(ctx, o.Platform, func(ld *load) error {
		if ld.want.OS != "linux" {
			return fmt.Errorf("platform %s: images can be made for Linux only: %w", ld.want, store.ErrInvalid)
		}
		ld.meter.total(total)
		diff, staged, err := ld.rootfs(r, total < 0)
		if err != nil {
			return err
		}
		raw, err := importConfig(config, ld.want, o.Message, diff, time.Now().UTC())
		if err != nil {
			return err
		}
		out.ID = digest.FromBytes(raw)
		ld.meter.what("commit")
		return ld.in.Commit(ld.ctx, []store.NewImage{{Config: raw, Names: out.Names, Layers: []store.NewLayer{{DiffID: diff, Staged: staged}}}})
	})
	if err != nil {
		return store.Loaded{}, err
	}
	return out, nil
}

// rootfs unpacks a tar, plain or compressed, as a layer.
func (l *load) rootfs(r io.Reader, live bool) (digest.Digest, store.Staged, error) {
	src, err := l.plain(r, live)
	if err != nil {
		return "", nil, err
	}
	in := bufio.NewReaderSize(src, 64<<10)
	head, err := in.Peek(headSize)
	switch {
	case err != nil && err != io.EOF:
		return "", nil, err
	case len(head) == 0:
		return "", nil, errEmpty
	case !looksLikeTar(head):
		return "", nil, fmt.Errorf("no root file system: neither a tar nor a compressed one: %w", store.ErrCorrupt)
	}
	if err := l.begin(); err != nil {
		return "", nil, err
	}
	l.meter.what("layer")
	b, err := l.unpack("", in)
	if err != nil {
		return "", nil, err
	}
	if b.err != nil {
		return "", nil, b.err
	}
	return b.staged.DiffID(), b.staged, nil
}

// importConfig makes the config of an image with one layer, as a daemon writes
// it: its keys sorted, container_config there and empty. docker_version is not,
// since no Docker made it.
func importConfig(config *store.ContainerConfig, p platform.Platform, message string, diff digest.Digest, created time.Time) ([]byte, error) {
	if message == "" {
		message = importedFrom
	}
	fields := map[string]any{
		"architecture":     p.Arch,
		"comment":          message,
		"config":           config,
		"container_config": store.ContainerConfig{},
		"created":          created,
		"history":          []store.History{{Created: created, Comment: message}},
		"os":               p.OS,
		"rootfs": struct {
			Type    string          `json:"type"`
			DiffIDs []digest.Digest `json:"diff_ids"`
		}{"layers", []digest.Digest{diff}},
	}
	if v := p.Named(); v != "" {
		fields["variant"] = v
	}
	raw, err := json.Marshal(fields)
	if err == nil && len(raw) > store.MaxConfigSize {
		err = fmt.Errorf("an image config of %d bytes: %w", len(raw), store.ErrTooLarge)
	}
	return raw, err
}
