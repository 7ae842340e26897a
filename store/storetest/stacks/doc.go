// Package stacks makes stacks of layers that are as odd as a tar can be, the
// same for the same seed, and says what a reader must see of them: a model of
// the OCI image spec's layer rules that is as plain as possible and shares no
// code with what it judges.
package stacks

import (
	"path"
	"strings"
)

// Entry is one entry of a layer's tar.
type Entry struct {
	Type   byte   // f file, d directory, l symbolic link, h hard link, c and b devices, p fifo, w whiteout, o opaque, s below a whiteout: nothing
	Name   string // as the tar has it
	Path   string // clean; of a whiteout the name it hides, of an opaque marker its directory
	Link   string // as the tar has it
	Mode   uint32
	UID    int
	GID    int
	Sec    int64
	Nsec   int64
	Major  int64
	Minor  int64
	Xattrs map[string]string
	Body   []byte
	Form   byte // a sparse file: g GNU's old form, x the PAX form 1.0; a whiteout: d a directory, c a device 0:0
}

// Layer is one layer.
type Layer struct {
	Entries []Entry
	Tar     []byte
}

// Stack is layers, bottom first.
type Stack []Layer

// Tars returns the tars of the layers.
func (s Stack) Tars() [][]byte {
	out := make([][]byte, len(s))
	for i, l := range s {
		out[i] = l.Tar
	}
	return out
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }
