package fusefs

import (
	"fmt"
	"sync"
	"syscall"
)

// maxLists is how many bytes the lists of changes of pairs that are open have
// together. There are more pairs than images, each with a list of its own.
const maxLists = 512 << 20

// openLists counts them, each once however often it is open.
type openLists struct {
	mu    sync.Mutex // guards all
	bytes int
	limit int // 0: maxLists
}

// open counts an open file of a list of so many bytes; ENOMEM if there is no room for it.
func (t *openLists) open(l *changeList, bytes int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.uses == 0 {
		limit := t.limit
		if limit == 0 {
			limit = maxLists
		}
		if t.bytes+bytes > limit {
			return fmt.Errorf("lists of changes that are open have %d bytes, %d more are too many: %w", t.bytes, bytes, syscall.ENOMEM)
		}
		t.bytes += bytes
		l.size = bytes
	}
	l.uses++
	return nil
}

// close ends the counting of an open file.
func (t *openLists) close(l *changeList) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.uses--; l.uses == 0 {
		t.bytes -= l.size
	}
}
