package fusefs

import (
	"sync"
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
// Whoever asks for a file waits until the next ones are pushed, if that is soon.
// Pushed at the same time, each would be asked for in the moment it is pushed, by a
// reader who is as fast: all would be done twice, with the requests that were to be
// saved. What has to be decompressed takes longer than to ask for it, and is pushed
// at the same time.

const (
	aheadFirst  = 8                    // files of the first push
	aheadMost   = 128                  // files of one push
	aheadLong   = 32                   // files of a push, if they are
	aheadTiny   = 4 << 10              // bytes on average, that is worth a goroutine to wait for it
	aheadSize   = 64 << 10             // bytes of the largest file that is pushed
	aheadBytes  = 512 << 10            // bytes of one push
	aheadSkip   = 32                   // inodes that the reader may pass over and still be reading on
	aheadTime   = 2 * time.Millisecond // that somebody waits for a push; disks are not waited for
	aheadRest   = 63                   // files that are read before the next push, after several that the kernel did not want
	aheadCredit = 4                    // pushes where a reader who read on goes on elsewhere, until he reads on again
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
	busy   bool
	tiny   bool // the last push was of many files, and they were tiny
	jumps  int  // how often the user went elsewhere
	missed int  // pushes in a row that the kernel did not want
	rest   int  // so many files are read before the next push
}

// push is what follows a file that was read: n files from an inode on.
type push struct {
	run   *run
	from  overlay.Ino
	n     int
	jumps int // of the run when the push began

	// how it ended
	to     overlay.Ino // the inode after those that were pushed
	files  int         // that were pushed
	size   int         // bytes of them
	missed bool        // the kernel does not know the first
}

// note is told of each small file that is read through the server. alone says that
// it may take its time: a push waits for a file that the kernel has asked for, and so
// must not keep the thread that is to answer; see fsys.quick.
func (a *ahead) note(f *fsys, l *layerSlot, i overlay.Ino, alone bool) {
	waits := alone && !l.slow.Load()
	p, ok := a.read(l, i, waits)
	if !ok {
		return
	}
	do := func(most time.Duration) {
		_ = f.guard("read ahead", func() error { f.pushFiles(l, &p, most); return nil })
		a.pushed(&p)
	}
	if !waits {
		f.work.Go(func() { do(time.Minute) })
		return
	}
	do(aheadTime)
}

// read returns what to push after a file that was read, if anything.
// A reader who does not wait has read the few files of a small directory before they
// are pushed: for him it must be clear that he reads on.
func (a *ahead) read(l *layerSlot, i overlay.Ino, waits bool) (p push, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.layers[l]
	if r == nil {
		if len(a.layers) >= 256 || a.layers == nil {
			a.layers = map[*layerSlot]*run{}
		}
		a.layers[l] = &run{last: i, next: i + 1}
		return p, false
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
	if r.rest > 0 {
		r.rest--
		r.n = min(r.n, aheadFirst)
	}
	l.readOn.Store(r.n >= aheadLong && r.tiny)
	if r.busy || r.n == 0 || r.rest > 0 {
		return p, false
	}
	r.busy = true
	return push{run: r, from: r.next, n: r.n, jumps: r.jumps, to: r.next}, true
}

// pushed takes note of the end of a push.
func (a *ahead) pushed(p *push) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := p.run
	r.tiny = p.files >= aheadLong && p.size <= p.files*aheadTiny
	if r.busy = false; r.jumps == p.jumps {
		r.next = max(r.next, p.to)
	}
	if r.missed++; !p.missed {
		r.missed = 0
	}
	r.rest = min(1<<r.missed-1, aheadRest)
}

var aheadBuffers = sync.Pool{New: func() any { return new([aheadSize]byte) }}

// pushFiles pushes small files, as many as it can in that time.
func (f *fsys) pushFiles(l *layerSlot, p *push, most time.Duration) {
	end := time.Now().Add(most)
	srv := f.conn.Load()
	buf := aheadBuffers.Get().(*[aheadSize]byte)
	defer aheadBuffers.Put(buf)
	for n := p.n; n > 0 && p.size < aheadBytes && int(p.to) < l.index.Inodes() && f.life.Err() == nil && time.Now().Before(end); {
		i := p.to
		a := l.index.Stat(i)
		if isDir(a.Mode) {
			return // what is in another directory is not what comes next
		}
		p.to++
		if a.Mode&unix.S_IFMT != unix.S_IFREG || a.Size == 0 || a.Size > aheadSize {
			continue
		}
		n--
		if store.ReadWhole(f.life, l.l, i, buf[:a.Size]) != nil {
			return // whoever asks for it is told why
		}
		// A file that the kernel does not know yet is not about to be read.
		if st := srv.InodeNotifyStoreCache(uint64(fileID(l.slot, i)), 0, buf[:a.Size]); st != fuse.OK {
			p.missed = p.files == 0
			return
		}
		p.files, p.size = p.files+1, p.size+int(a.Size)
	}
}
