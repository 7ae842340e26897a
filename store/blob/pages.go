package blob

import (
	"container/list"
	"sync"
)

// pageCache keeps decompressed pages, those that were used last.
type pageCache struct {
	mu    sync.Mutex // guards what follows
	max   int64
	used  int64
	byKey map[pageKey]*list.Element
	order list.List // of *page, the last used first

	idle []*stream // those that keep a decoder, the last used last
}

type pageKey struct {
	s *stream
	n int64
}

type page struct {
	key  pageKey
	data []byte // never changed
}

func newPageCache(limit int64) *pageCache {
	return &pageCache{max: limit, byKey: map[pageKey]*list.Element{}}
}

func (c *pageCache) get(k pageKey) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[k]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*page).data, true
}

func (c *pageCache) put(k pageKey, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byKey[k]; ok {
		return
	}
	c.byKey[k] = c.order.PushFront(&page{k, data})
	c.used += int64(len(data))
	for c.used > c.max && c.order.Len() > 1 {
		c.drop(c.order.Back())
	}
}

// drop removes a page; c.mu is held.
func (c *pageCache) drop(e *list.Element) {
	p := c.order.Remove(e).(*page)
	delete(c.byKey, p.key)
	c.used -= int64(len(p.data))
}

// forget removes what belongs to a stream.
func (c *pageCache) forget(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, e := range c.byKey {
		if k.s == s {
			c.drop(e)
		}
	}
}

// maxIdle bounds the decoders that are kept for reads to come.
const maxIdle = 8

// keepsDecoder notes that a stream keeps a decoder, and returns one that should let go of its own.
func (c *pageCache) keepsDecoder(s *stream) *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, o := range c.idle {
		if o == s {
			c.idle = append(c.idle[:i], c.idle[i+1:]...)
			break
		}
	}
	c.idle = append(c.idle, s)
	if len(c.idle) <= maxIdle {
		return nil
	}
	old := c.idle[0]
	c.idle = c.idle[1:]
	return old
}
