package fusefs

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// Small files that are read one after the other are pushed into the kernel's
// page cache before they are asked for. The inodes of a directory lie together
// in a layer, so what comes next is the inode with the next number.
//
// Whoever asks for a file while others are pushed helps, until a few are there for
// him to read; he then reads those while the rest is pushed. Without that lead each
// would be asked for in the moment it is pushed, by a reader who is as fast: all would
// be done twice, with the requests that were to be saved. What has to be decompressed
// takes longer than to ask for it, and nobody waits for that.

const (
	aheadFirst   = 8                    // files of the first push
	aheadMost    = 128                  // files of one push
	aheadLong    = 32                   // files of a push, if they are
	aheadTiny    = 4 << 10              // bytes on average, that is worth a goroutine to wait for it
	aheadSize    = 64 << 10             // bytes of the largest file that is pushed
	aheadBytes   = 512 << 10            // bytes of one push
	aheadSkip    = 32                   // inodes that the reader may pass over and still be reading on
	aheadLead    = 24                   // inodes that are pushed before a reader goes on
	aheadHelpers = 8                    // readers who push at a time
	aheadTime    = 2 * time.Millisecond // that he is kept; disks are not waited for
	aheadRest    = 6                    // pushes in a row that the kernel did not want: each doubles the files that are read before the next
	aheadCredit  = 4                    // pushes where a reader who read on goes on elsewhere, until he reads on again
)

// ahead knows the readings of all layers.
type ahead struct {
	mu     sync.Mutex
	layers map[*layerSlot]*run
}

// run is the reading of one layer.
type run struct {
	last   overlay.Ino // read by the user
	next   overlay.Ino // to be pushed
	n      int         // files of the next push
	credit int
	push   *push // under way
	tiny   bool  // pushes are of many files, and they are tiny
	jumps  int   // how often the user went elsewhere
	missed int   // pushes in a row that the kernel did not want
	rest   int   // so many files are read before the next push
}

// push is what follows a file that was read: n files from an inode on.
type push struct {
	run   *run
	jumps int // of the run when the push began

	asked atomic.Uint32 // the latest inode that the kernel waits for: it is left out

	mu     sync.Mutex // guards what follows
	next   overlay.Ino
	n      int // files that are left
	begun  int // bytes of those that are not
	over   bool
	files  int  // that were pushed
	size   int  // bytes of them
	missed bool // the kernel does not know the first
}

func newPush(r *run) *push { return &push{run: r, jumps: r.jumps, next: r.next, n: r.n} }

// to returns the inode after those that are pushed, or about to be.
func (p *push) to() overlay.Ino {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next
}

// claim returns the next file that the caller has to push; false if there is none any more.
func (p *push) claim(l *layerSlot) (i overlay.Ino, size int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.over && p.n > 0 && p.begun < aheadBytes && int(p.next) < l.index.Inodes() {
		a := l.index.Stat(p.next)
		if isDir(a.Mode) {
			break // what is in another directory is not what comes next
		}
		p.next++
		if a.Mode&unix.S_IFMT == unix.S_IFREG && a.Size > 0 && a.Size <= aheadSize {
			p.n--
			p.begun += int(a.Size)
			l.flight.add(p.next - 1)
			return p.next - 1, int(a.Size), true
		}
	}
	p.over = true
	return 0, 0, false
}

// ended tells whether there is nothing left to claim.
func (p *push) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over || p.n == 0
}

// done takes note of a file that was pushed.
func (p *push) done(size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files, p.size = p.files+1, p.size+size
}

// unwanted ends a push: the kernel does not know that file, or it cannot be read.
func (p *push) unwanted(i overlay.Ino, unknown bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over, p.next = true, min(p.next, i)
	p.missed = unknown && p.files == 0
}

// asked tells a push that is under way of an inode that the kernel waits for.
func (l *layerSlot) asked(i overlay.Ino) {
	if p := l.push.Load(); p != nil {
		p.asked.Store(uint32(i))
	}
}

// note is told of each small file that is read through the server. alone says that
// the reader may be kept waiting; see fsys.quick.
func (a *ahead) note(f *fsys, l *layerSlot, i overlay.Ino, alone bool) {
	waits := alone && !l.slow.Load()
	p, mine := a.read(l, i, waits)
	if p == nil {
		return
	}
	help := func(to overlay.Ino, most time.Duration) {
		_ = f.guard("read ahead", func() error { f.pushFiles(l, p, to, most); return nil })
	}
	rest := func() {
		help(^overlay.Ino(0), time.Minute)
		l.push.CompareAndSwap(p, nil)
		a.pushed(p)
	}
	// Over the device it is not worth a goroutine to share what the reader himself
	// soon has done, as in small directories; over io_uring his thread is one of several.
	later := waits && f.over == Dev
	if mine {
		l.push.Store(p)
		if !later {
			f.work.Go(rest)
		}
	}
	// The kernel has what a reader waits for locked until the answer, and who pushes
	// that waits, with an unmount behind him. So who is waited for never pushes: he
	// helps with what comes after his own inode, if nobody pushes that just now. And
	// some are left to answer, since the kernel asks for so many files at a time only.
	if waits && p.to() > i && !l.flight.has(i) {
		if f.helpers.Add(1) <= aheadHelpers {
			help(i+1+aheadLead, aheadTime)
		}
		f.helpers.Add(-1)
	}
	switch {
	case !mine || !later:
	case p.ended():
		rest()
	default:
		f.work.Go(rest)
	}
}

// read returns what is pushed after a file that was read, nil for nothing; mine is
// set if the caller has to do it, and not if that is under way already.
// A reader who does not wait has read the few files of a small directory before they
// are pushed: for him it must be clear that he reads on.
func (a *ahead) read(l *layerSlot, i overlay.Ino, waits bool) (p *push, mine bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.layers[l]
	if r == nil {
		if len(a.layers) >= 256 || a.layers == nil {
			a.layers = map[*layerSlot]*run{}
		}
		a.layers[l] = &run{last: i, next: i + 1}
		return nil, false
	}
	if p = r.push; p != nil && p.jumps == r.jumps {
		r.next = max(r.next, p.to())
	}
	if i > r.last && i <= max(r.last, r.next)+aheadSkip {
		r.credit = aheadCredit
		r.n = min(max(2*r.n, aheadFirst), aheadMost)
		r.next = max(r.next, i+1)
	} else {
		r.jumps++
		r.n, r.next = aheadFirst, i+1
		if r.credit--; r.credit < 0 || !waits {
			r.n, r.credit = 0, max(r.credit, 0)
		}
	}
	r.last = i
	l.readOn.Store(r.n > 0 && r.tiny)
	// Nobody waits for a push that comes from a thread with other work, and to leave
	// it out made such a reader slower, not faster: he then moves between CPUs.
	rests := waits && r.rest > 0
	if rests {
		r.rest--
	}
	if r.n == 0 || rests {
		return nil, false
	}
	if p != nil {
		if p.jumps != r.jumps {
			return nil, false // it is elsewhere
		}
		return p, false
	}
	r.push = newPush(r)
	return r.push, true
}

// pushed takes note of the end of a push.
func (a *ahead) pushed(p *push) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.run
	r.tiny = !p.missed && p.size <= p.files*aheadTiny && (r.tiny || p.files >= aheadLong)
	if r.push = nil; r.jumps == p.jumps {
		r.next = max(r.next, p.next)
	}
	if r.missed++; !p.missed {
		r.missed = 0
	}
	r.rest = 1<<min(r.missed, aheadRest) - 1
}

var aheadBuffers = sync.Pool{New: func() any { return new([aheadSize]byte) }}

// pushFiles takes part in a push until it has come to an inode, or for so long.
func (f *fsys) pushFiles(l *layerSlot, p *push, to overlay.Ino, most time.Duration) {
	end := time.Now().Add(most)
	buf := aheadBuffers.Get().(*[aheadSize]byte)
	defer aheadBuffers.Put(buf)
	for f.life.Err() == nil && p.to() < to && time.Now().Before(end) {
		i, size, ok := p.claim(l)
		if !ok {
			return
		}
		if !f.pushFile(l, p, i, buf[:size]) {
			return
		}
	}
}

// pushFile pushes one file that was claimed; false if that ends the push.
func (f *fsys) pushFile(l *layerSlot, p *push, i overlay.Ino, buf []byte) bool {
	defer l.flight.remove(i)
	if store.ReadWhole(f.life, l.l, i, buf) != nil {
		p.unwanted(i, false) // whoever asks for it is told why
		return false
	}
	if uint32(i) == p.asked.Load() {
		return true
	}
	// A file that the kernel does not know yet is not about to be read.
	if f.conn.Load().InodeNotifyStoreCache(uint64(fileID(l.slot, i)), 0, buf) != fuse.OK {
		p.unwanted(i, true)
		return false
	}
	p.done(len(buf))
	return true
}

// inFlight has the inodes of a layer that are being pushed: a few.
type inFlight struct {
	mu sync.Mutex
	at []overlay.Ino
}

func (t *inFlight) add(i overlay.Ino) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at = append(t.at, i)
}

func (t *inFlight) has(i overlay.Ino) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(t.at, i)
}

func (t *inFlight) remove(i overlay.Ino) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := slices.Index(t.at, i); n >= 0 {
		t.at = slices.Delete(t.at, n, n+1)
	}
}
