package beneath

import (
	"fmt"
	"io/fs"
	"os"
)

// OpenPrivate opens a directory for what is derived from stores, and makes it
// where it is missing. It must be the caller's alone: whoever can write what is
// in it decides what a mount shows. fs.ErrPermission if others can.
func OpenPrivate(name string) (*Root, error) {
	if err := os.MkdirAll(name, 0o700); err != nil {
		return nil, err
	}
	r, err := Open(name)
	if err != nil {
		return nil, err
	}
	st, err := r.Stat(".")
	if err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0) {
		err = fmt.Errorf("%s can be written by others: %w", name, fs.ErrPermission)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}
