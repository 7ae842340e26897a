package conn

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// fixed is a file system of one file with an attribute.
type fixed struct{ fuse.RawFileSystem }

func (fixed) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name != "name" {
		return fuse.ENOENT
	}
	out.NodeId = 7
	return fuse.OK
}

func (fixed) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Size = 70
	return fuse.OK
}

func (fixed) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = in.Flags
	return fuse.OK
}

func (fixed) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if in.Fh != 9 {
		panic("not that handle")
	}
}

func (fixed) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	copy(dest, "XXXXXXXXXXXXXXXX") // may lie where the name came from
	if name != "user.name" {
		return 0, fuse.ENOATTR
	}
	if len(dest) < 5 {
		return 5, fuse.ERANGE
	}
	return uint32(copy(dest, "value")), fuse.OK
}

func (fixed) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if e := out.AddDirLookupEntry(fuse.DirEntry{Name: "name", Ino: 7}); e != nil {
		e.NodeId = 7
	}
	return fuse.OK
}

// request puts a request together as the device has it.
func request(op uint32, body ...string) []byte {
	b := make([]byte, SizeIn, 4096)
	for _, s := range body {
		b = append(b, s...)
	}
	*(*fuse.InHeader)(unsafe.Pointer(&b[0])) = fuse.InHeader{Opcode: op, Length: uint32(len(b)), NodeId: 5, Unique: 3}
	return b
}

// words is a header of 32-bit words.
func words(w ...uint32) string {
	var s strings.Builder
	for n := range w {
		s.Write(bytesOf(&w[n]))
	}
	return s.String()
}

// The hot path's operations are decoded, answered, also where their payload lies, and allocate nothing.
func TestInPlace(t *testing.T) {
	c := New(fixed{fuse.NewDefaultRawFileSystem()}, "", &fuse.MountOptions{}, Options{})
	var call Call
	sizes := map[string]int{"entry": int(unsafe.Sizeof(fuse.EntryOut{})), "attr": int(unsafe.Sizeof(fuse.AttrOut{})), "open": int(unsafe.Sizeof(fuse.OpenOut{}))}
	for what, r := range map[string]struct {
		request []byte
		n       int
		st      fuse.Status
		begins  string
	}{
		"LOOKUP":                   {request(OpLookup, "name\x00"), sizes["entry"], fuse.OK, words(7, 0)},
		"LOOKUP of nothing":        {request(OpLookup, "nam\x00"), 0, fuse.ENOENT, ""},
		"LOOKUP without end":       {request(OpLookup, "name"), sizes["entry"], fuse.OK, ""},
		"LOOKUP of a long name":    {request(OpLookup, strings.Repeat("n", 300)+"\x00"), 0, fuse.ENOENT, ""},
		"GETATTR":                  {request(OpGetattr, words(0, 0, 0, 0)), sizes["attr"], fuse.OK, ""},
		"GETATTR cut off":          {request(OpGetattr), sizes["attr"], fuse.OK, ""},
		"OPEN":                     {request(OpOpen, words(0x8000, 0)), sizes["open"], fuse.OK, words(0, 0, 0x8000)},
		"RELEASE":                  {request(OpRelease, words(9, 0, 0, 0, 0, 0)), 0, fuse.OK, ""},
		"GETXATTR":                 {request(OpGetxattr, words(100, 0), "user.name\x00"), 5, fuse.OK, "value"},
		"GETXATTR of nothing":      {request(OpGetxattr, words(100, 0), "user.none\x00"), 0, fuse.ENOATTR, ""},
		"GETXATTR, only its size":  {request(OpGetxattr, words(0, 0), "user.name\x00"), 8, fuse.OK, words(5, 0)},
		"READDIRPLUS":              {request(OpReaddirplus, words(0, 0, 0, 0, 4096, 0, 0, 0, 0, 0)), sizes["entry"] + 24 + 8, fuse.OK, words(7, 0)},
		"READDIRPLUS without room": {request(OpReaddirplus, words(0, 0, 0, 0, 8, 0, 0, 0, 0, 0)), 0, fuse.OK, ""},
	} {
		out := make([]byte, 4096)
		payload := call.Load(r.request)
		n, st, done := c.InPlace(&call, payload, out)
		if n != r.n || st != r.st || !done || !strings.HasPrefix(string(out[:n]), r.begins) {
			t.Errorf("%s: %d bytes %q, %v, %v; want %d, %v", what, n, out[:n], st, done, r.n, r.st)
		}
		same := append(make([]byte, 0, 4096), payload...)
		call.LoadParts((*fuse.InHeader)(unsafe.Pointer(&r.request[0])), r.request[SizeIn:len(r.request)-len(payload)])
		if n, st, _ := c.InPlace(&call, same, same[:4096]); n != r.n || st != r.st || !strings.HasPrefix(string(same[:n]), r.begins) {
			t.Errorf("%s, answered where its payload lies: %d bytes %q, %v", what, n, same[:n], st)
		}
		if len(payload) > 256 {
			continue
		}
		if a := testing.AllocsPerRun(100, func() { c.InPlace(&call, call.Load(r.request), out) }); a != 0 {
			t.Errorf("%s: %v allocations", what, a)
		}
	}
	if _, _, done := c.InPlace(&call, call.Load(request(OpWrite, words(1, 2, 3, 4), "data")), nil); done {
		t.Error("a WRITE was answered")
	}
}

// A panic is the file system's fault alone: the request fails.
func TestInPlacePanics(t *testing.T) {
	c := New(fixed{fuse.NewDefaultRawFileSystem()}, "", &fuse.MountOptions{PanicHandler: func(any) fuse.Status { return fuse.OK }}, Options{})
	var call Call
	if n, st, done := c.InPlace(&call, call.Load(request(OpRelease, words(1, 0, 0, 0, 0, 0))), nil); n != 0 || st != fuse.EIO || !done {
		t.Errorf("%d, %v, %v", n, st, done)
	}
}
