package containerd

import (
	"testing"

	"imagefs/integration/copies"
	"imagefs/store/storetest"
)

func TestCopied(t *testing.T) {
	for name, unpack := range map[string]bool{"unpacked": true, "not unpacked": false} {
		t.Run(name, func(t *testing.T) {
			r := newRoot(t)
			for _, h := range storetest.Odd() {
				r.image("default", h.Image, storetest.Gzip)
				if unpack {
					r.unpack("default", h.Image)
				}
			}
			copies.Everywhere(t, open(t, r.write(), Options{}))
		})
	}
}
