package containers

import (
	"context"
	"errors"
	"testing"

	"imagefs/integration/copies"
	"imagefs/store/copy"
	"imagefs/store/save"
	"imagefs/store/storetest"
)

func TestCopied(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			dir, _ := oddStore(t, driver)
			copies.Everywhere(t, openStore(t, dir, Options{}))
		})
	}
}

// Without its tar-split, a layer is only copied to a store that has it already.
func TestCopiedWithoutTarSplits(t *testing.T) {
	dir, _ := oddStore(t, "overlay")
	removeTarSplits(t, dir, "overlay")
	items := copies.Items(t, openStore(t, dir, Options{}))
	sink := &storetest.Sink{}
	var noTar *save.NoTarError
	if _, err := copy.Into(context.Background(), sink, items, copy.Options{}); !errors.As(err, &noTar) || len(sink.Images()) > 0 || sink.Open() > 0 {
		t.Errorf("%v, with %d images", err, len(sink.Images()))
	}
}
