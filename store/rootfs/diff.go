package rootfs

import (
	"bytes"
	"context"
	"io"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// Difference is one path that is not the same in two root file systems.
type Difference struct {
	overlay.Difference
	From, To Node // what is there in the first and in the second; the zero Node if nothing is
}

// Diff calls yield with the differences between two root file systems until it
// returns false, as overlay.Compare orders them. Content is compared only where
// the two have a file from different layers, and of the same size.
func Diff(ctx context.Context, a, b *FS, yield func(Difference) bool) error {
	equal := func(x, y overlay.NodeID) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		return sameContent(ctx, a, b, a.node(x), b.node(y))
	}
	return overlay.Compare(a.tree, b.tree, equal, func(d overlay.Difference) bool {
		out := Difference{Difference: d}
		if d.Op != 'A' {
			out.From = a.node(d.A)
		}
		if d.Op != 'D' {
			out.To = b.node(d.B)
		}
		return yield(out)
	})
}

func sameContent(ctx context.Context, a, b *FS, x, y Node) (bool, error) {
	p, err := a.Open(x)
	if err != nil {
		return false, err
	}
	defer p.Close()
	q, err := b.Open(y)
	if err != nil {
		return false, err
	}
	defer q.Close()
	size := int64(x.Size)
	n := min(size, copySize)
	one, two := make([]byte, n), make([]byte, n)
	for off := int64(0); off < size; off += n {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n = min(n, size-off)
		for _, r := range []struct {
			f store.File
			b []byte
		}{{p, one[:n]}, {q, two[:n]}} {
			if k, err := r.f.ReadAt(r.b, off); k < len(r.b) {
				if err == nil || err == io.EOF {
					err = errShort
				}
				return false, err
			}
		}
		if !bytes.Equal(one[:n], two[:n]) {
			return false, nil
		}
	}
	return true, nil
}

// Count is how many paths, and how many bytes the regular files among them have.
type Count struct {
	Paths int64 `json:"paths"`
	Bytes int64 `json:"bytes"`
}

func (c *Count) add(n Node) {
	c.Paths++
	if n.Type() == unix.S_IFREG {
		c.Bytes += int64(n.Size)
	}
}

// Summary counts differences.
type Summary struct {
	Added   Count `json:"added"`
	Deleted Count `json:"deleted"`
	Changed Count `json:"changed"` // Bytes: in the second tree
	Growth  int64 `json:"growth"`  // bytes that the second tree has more
}

// Add counts a difference.
func (s *Summary) Add(d Difference) {
	var from, to Count
	if d.Op != 'A' {
		from.add(d.From)
	}
	if d.Op != 'D' {
		to.add(d.To)
	}
	s.Growth += to.Bytes - from.Bytes
	switch d.Op {
	case 'A':
		s.Added.add(d.To)
	case 'D':
		s.Deleted.add(d.From)
	default:
		s.Changed.add(d.To)
	}
}
