package docker

import "imagefs/store"

var _ store.Forgetter = (*Store)(nil)

// Forget implements store.Forgetter.
func (s *Store) Forget(l store.Layer) {
	rec, ok := l.(*layerRec)
	if !ok {
		return
	}
	if s.root.Exists(s.at.layer(rec.cache)) {
		return // other images may have it
	}
	s.mu.Lock()
	if s.layers[rec.Key()] == rec {
		delete(s.layers, rec.Key())
	}
	s.mu.Unlock()
	rec.Layer.Forget()
}
