package archive

import (
	"context"
	"io"
	"time"

	"imagefs/store/guard"
)

const (
	pumpChunk  = 256 << 10
	pumpChunks = 8
)

// pump reads ahead in a goroutine of its own, so that waiting for a pipe,
// decompressing and unpacking overlap, and so that its reader need not wait for
// a Read that does not return.
type pump struct {
	ctx  context.Context
	full chan []byte
	free chan []byte
	done chan struct{} // the goroutine has ended

	cur []byte // what is left of buf
	buf []byte
	err error // of the source; valid after full is closed
}

// newPump starts reading r, until it ends or ctx does. least is how many bytes make a chunk.
func newPump(ctx context.Context, r io.Reader, least int) *pump {
	p := &pump{ctx: ctx, full: make(chan []byte, pumpChunks), free: make(chan []byte, pumpChunks), done: make(chan struct{})}
	for range pumpChunks {
		p.free <- nil
	}
	go p.fill(r, least)
	return p
}

func (p *pump) fill(r io.Reader, least int) {
	defer close(p.done)
	defer close(p.full)
	p.err = guard.Run(func() error {
		for {
			var b []byte
			select {
			case b = <-p.free:
			case <-p.ctx.Done():
				return p.ctx.Err()
			}
			if b == nil {
				b = make([]byte, pumpChunk)
			}
			n, err := readAtLeast(r, b[:pumpChunk], least)
			if n > 0 {
				p.full <- b[:n] // never waits: there are no more chunks than room for them
			}
			if err != nil {
				return err
			}
		}
	})
}

// readAtLeast is io.ReadAtLeast with the source's own error in every case.
func readAtLeast(r io.Reader, b []byte, least int) (n int, err error) {
	for n < least && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

// Read implements io.Reader. It returns when the context ends.
func (p *pump) Read(b []byte) (int, error) {
	if len(p.cur) == 0 {
		if p.buf != nil {
			p.free <- p.buf
			p.buf = nil
		}
		select {
		case c, ok := <-p.full:
			if !ok {
				return 0, p.err
			}
			p.buf, p.cur = c, c
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		}
	}
	n := copy(b, p.cur)
	p.cur = p.cur[n:]
	return n, nil
}

// stop waits for the goroutine, whose context has ended. A source that can be
// interrupted is; one that cannot is left to its Read.
func (p *pump) stop(r io.Reader) {
	select {
	case <-p.done:
		return
	default:
	}
	d, ok := r.(interface{ SetReadDeadline(time.Time) error })
	if !ok || d.SetReadDeadline(time.Unix(1, 0)) != nil {
		return
	}
	<-p.done
	_ = d.SetReadDeadline(time.Time{})
}
