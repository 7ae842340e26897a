package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/report"
)

// Difference is one path that is not the same in two root file systems.
type Difference struct {
	overlay.Difference
	From, To Node // what is there in the first and in the second; the zero Node if nothing is
}

// AppendLine appends a line of `imagefs diff`: the letter, the path, of a change
// in brackets what differs. A path with anything in it that a terminal could take
// amiss is quoted. No two paths have the same line.
func (d Difference) AppendLine(b []byte) []byte {
	b = append(append(b, d.Op, ' '), report.Path(d.Path)...)
	if d.Op == 'C' {
		b = append(append(append(b, " ("...), d.What.String()...), ')')
	}
	return append(b, '\n')
}

// Diff calls yield with the differences between two root file systems until it
// returns false, as overlay.Compare orders them. Content is compared only where
// the two have a file from different layers, and of the same size.
func Diff(ctx context.Context, a, b *FS, yield func(Difference) bool) error {
	_, err := Record(ctx, a, b, yield)
	return err
}

// Answers are which contents a comparison found equal, a bit each, in the order
// in which it came to them. Immutable.
type Answers struct {
	bits []uint64
	n    int
}

// Bytes is how much memory the answers take.
func (an *Answers) Bytes() int { return 8 * cap(an.bits) }

// Record does what Diff does. If yield always returned true, the answers let
// Replay tell of the same differences without reading a file.
func Record(ctx context.Context, a, b *FS, yield func(Difference) bool) (*Answers, error) {
	an := &Answers{}
	err := compare(ctx, a, b, func(x, y overlay.NodeID) (bool, error) {
		p, q := a.node(x), b.node(y)
		same, err := sameContent(ctx, int64(p.Size),
			func() (store.File, error) { return a.Open(p) }, func() (store.File, error) { return b.Open(q) })
		if an.n&63 == 0 {
			an.bits = append(an.bits, 0)
		}
		if same {
			an.bits[an.n>>6] |= 1 << (an.n & 63)
		}
		an.n++
		return same, err
	}, yield)
	an.bits = slices.Clip(an.bits)
	return an, err
}

// Replay tells once more of the differences of the two that the answers are of.
func (an *Answers) Replay(ctx context.Context, a, b *FS, yield func(Difference) bool) error {
	n := 0
	return compare(ctx, a, b, func(_, _ overlay.NodeID) (bool, error) {
		if n == an.n {
			return false, fmt.Errorf("the answers are of other root file systems: %w", store.ErrInvalid)
		}
		same := an.bits[n>>6]>>(n&63)&1 != 0
		n++
		return same, nil
	}, yield)
}

// compare runs overlay.Compare, which an end of ctx ends.
func compare(ctx context.Context, a, b *FS, equal func(x, y overlay.NodeID) (bool, error), yield func(Difference) bool) error {
	ask := func(x, y overlay.NodeID) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		return equal(x, y)
	}
	var stopped error
	err := overlay.Compare(a.tree, b.tree, ask, func(d overlay.Difference) bool {
		if stopped = ctx.Err(); stopped != nil {
			return false
		}
		out := Difference{Difference: d}
		if d.Op != 'A' {
			out.From = a.node(d.A)
		}
		if d.Op != 'D' {
			out.To = b.node(d.B)
		}
		return yield(out)
	})
	return errors.Join(err, stopped)
}

// sameContent compares two files of one size.
func sameContent(ctx context.Context, size int64, a, b func() (store.File, error)) (bool, error) {
	p, err := a()
	if err != nil {
		return false, err
	}
	defer p.Close()
	q, err := b()
	if err != nil {
		return false, err
	}
	defer q.Close()
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

// Count is how many paths, and how many bytes the regular files among them
// have. A file with several names among the paths has its bytes once, as for du.
type Count struct {
	Paths int64 `json:"paths"`
	Bytes int64 `json:"bytes"`
}

// Summary counts differences.
type Summary struct {
	Added   Count `json:"added"`
	Deleted Count `json:"deleted"`
	Changed Count `json:"changed"` // Bytes: in the second tree
	// Growth is how many bytes the regular files of the second tree have more than
	// those of the first, each file once in a whole tree: one of which a name was
	// deleted and another stays takes what it took.
	Growth int64 `json:"growth"`
}

// String is a line each for what was added, deleted and changed, and for the
// growth: "added 12 paths 3456 bytes".
func (s Summary) String() string {
	var b strings.Builder
	for _, c := range []struct {
		what string
		Count
	}{{"added", s.Added}, {"deleted", s.Deleted}, {"changed", s.Changed}} {
		fmt.Fprintf(&b, "%s %d paths %d bytes\n", c.what, c.Paths, c.Bytes)
	}
	fmt.Fprintf(&b, "growth %d bytes\n", s.Growth)
	return b.String()
}

// Tally counts the differences between two root file systems. It keeps some
// memory for each file that has several names.
type Tally struct {
	sum   Summary
	added tallied
	gone  tallied
	other tallied
}

// tallied are the files with several names of which one was counted.
type tallied map[overlay.NodeID]struct{}

// Add counts a difference.
func (t *Tally) Add(d Difference) {
	switch d.Op {
	case 'A':
		t.added.add(&t.sum.Added, d.To)
	case 'D':
		t.gone.add(&t.sum.Deleted, d.From)
	default:
		t.other.add(&t.sum.Changed, d.To)
	}
}

func (t *tallied) add(c *Count, n Node) {
	c.Paths++
	if n.Type() != unix.S_IFREG {
		return
	}
	if n.Nlink > 1 {
		if _, ok := (*t)[n.ID]; ok {
			return
		}
		if *t == nil {
			*t = tallied{}
		}
		(*t)[n.ID] = struct{}{}
	}
	c.Bytes += int64(n.Size)
}

// Summary is what was counted, and the growth from a to b.
func (t *Tally) Summary(ctx context.Context, a, b *FS) (Summary, error) {
	var err error
	t.sum.Growth, err = overlay.Growth(a.tree, b.tree, ctx.Err)
	return t.sum, err
}
