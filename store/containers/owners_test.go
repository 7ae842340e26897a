package containers

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
)

func TestOverride(t *testing.T) {
	file := overlay.Entry{Kind: overlay.File, Attr: overlay.Attr{Mode: 0o755, UID: 1000, GID: 1000, Size: 3, Blocks: 8}}
	for value, want := range map[string]overlay.Entry{
		"7:70000:4711":            {Kind: overlay.File, Attr: overlay.Attr{Mode: 0o4711, UID: 7, GID: 70000, Size: 3, Blocks: 8}},
		"0:0:0644:file":           {Kind: overlay.File, Attr: overlay.Attr{Mode: 0o644, Size: 3, Blocks: 8}},
		"0:6:0660:block-8-300":    {Kind: overlay.Block, Attr: overlay.Attr{Mode: 0o660, GID: 6, Rdev: uint32(unix.Mkdev(8, 300))}},
		"0:0:0666:char-1-3":       {Kind: overlay.Char, Attr: overlay.Attr{Mode: 0o666, Rdev: uint32(unix.Mkdev(1, 3))}},
		"0:0:0600:pipe":           {Kind: overlay.Fifo, Attr: overlay.Attr{Mode: 0o600}},
		"":                        file,
		"0:0":                     file,
		"0:0:8":                   file,
		"-1:0:0644":               file,
		"4294967295:0:0644":       file,
		"0:0:0644:door":           file,
		"0:0:0644:block-8":        file,
		"0:0:0644:char-9999999-1": file,
		"0:0:10644":               file,
	} {
		e := file
		e.Xattrs = []overlay.Xattr{{Name: "user.a"}, {Name: overrideXattr, Value: []byte(value)}, {Name: "user.b"}}
		owners{}.fix(&e)
		if len(e.Xattrs) != 2 || e.Kind != want.Kind || e.Attr != want.Attr {
			t.Errorf("%q: %+v, want %+v", value, e, want)
		}
	}
}

func TestOwners(t *testing.T) {
	text := "root:1:2\nother:500000:65536\nann:100000:65536\n1000:300000:10\nann:x:1\nann:1\n:1:1\n"
	got := parseSubIDs(text, "ann", 1000, 1000)
	if want := []idRange{{0, 1000, 1}, {1, 100000, 65536}, {65537, 300000, 10}}; !slices.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for host, want := range map[uint32]uint32{1000: 0, 100000: 1, 100041: 42, 165535: 65536, 300009: 65546, 300010: 300010, 0: 0} {
		if id := toContainer(got, host); id != want {
			t.Errorf("%d is %d, want %d", host, id, want)
		}
	}
	for _, r := range []idRange{{-1, 0, 9}, {1 << 40, 0, 9}, {0, -5, 2}, {0, 0, -1}, {0, 0, 0}} {
		if id := toContainer([]idRange{r}, 3); id != 3 {
			t.Errorf("%v makes 3 to %d", r, id)
		}
	}
}
