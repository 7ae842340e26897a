package stacks

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// pack writes entries as a tar, in one of the forms that each of them allows.
func pack(r *rand.Rand, es []Entry) []byte {
	var b bytes.Buffer
	if r.IntN(10) == 0 {
		global(&b)
	}
	w := tar.NewWriter(&b)
	for _, e := range es {
		if e.Type == 'f' && e.Form != 0 {
			if err := w.Flush(); err != nil {
				panic(err)
			}
			sparse(&b, &e)
			continue
		}
		h := header(&e)
		var err error
		for _, f := range formats(r) {
			// A form that does not keep everything is not for this entry.
			if f != tar.FormatPAX && (e.Nsec != 0 || len(e.Xattrs) > 0) || f == tar.FormatUSTAR && e.Sec < 0 {
				continue
			}
			h.Format = f
			if err = w.WriteHeader(h); err == nil {
				break
			}
		}
		if err != nil {
			panic(fmt.Sprintf("%+v: %v", h, err))
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(e.Body); err != nil {
				panic(err)
			}
		}
	}
	if err := w.Flush(); err != nil {
		panic(err)
	}
	switch r.IntN(5) {
	case 0: // no end at all
	case 1:
		b.Write(make([]byte, 512))
	case 2:
		b.Write(make([]byte, 10240-b.Len()%10240))
	case 3:
		b.Write(append(make([]byte, 1024), "what is behind the end belongs to the digest"...))
	default:
		b.Write(make([]byte, 1024))
	}
	return b.Bytes()
}

func formats(r *rand.Rand) []tar.Format {
	f := []tar.Format{tar.FormatUSTAR, tar.FormatGNU, tar.FormatPAX}
	k := r.IntN(3)
	return append(f[k:], f[:k]...)
}

var typeflags = map[byte]byte{'f': tar.TypeReg, 'd': tar.TypeDir, 'l': tar.TypeSymlink, 'h': tar.TypeLink, 'c': tar.TypeChar,
	'b': tar.TypeBlock, 'p': tar.TypeFifo, 'w': tar.TypeReg, 'o': tar.TypeReg, 's': tar.TypeReg}

func header(e *Entry) *tar.Header {
	h := &tar.Header{Typeflag: typeflags[e.Type], Name: e.Name, Linkname: e.Link, Mode: int64(e.Mode), Uid: e.UID, Gid: e.GID,
		ModTime: time.Unix(e.Sec, e.Nsec), Devmajor: e.Major, Devminor: e.Minor, Size: int64(len(e.Body))}
	if e.Type == 'w' {
		switch e.Form {
		case 'd':
			h.Typeflag = tar.TypeDir
		case 'c':
			h.Typeflag = tar.TypeChar
		}
	}
	for k, v := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+k] = v
	}
	return h
}

// extents finds the data of a sparse file, in blocks.
func extents(b []byte) (out [][2]int) {
	for i := 0; i < len(b); i += 512 {
		if bytes.Equal(b[i:i+512], make([]byte, 512)) {
			continue
		}
		if n := len(out); n > 0 && out[n-1][1] == i {
			out[n-1][1] = i + 512
		} else {
			out = append(out, [2]int{i, i + 512})
		}
	}
	return out
}

// block writes a raw header, which archive/tar cannot for these.
func block(b *bytes.Buffer, typ byte, name string, e *Entry, size int, fill func(h []byte)) {
	var h [512]byte
	copy(h[:100], name)
	put := func(at, n int, v int64) {
		if v >= 0 && v < 1<<(3*(n-1)) {
			copy(h[at:], fmt.Sprintf("%0*o", n-1, v))
			return
		}
		h[at] = 0x80
		if v < 0 {
			h[at] = 0xff
		}
		for i := n - 1; i > 0; i-- {
			h[at+i] = byte(v)
			v >>= 8
		}
	}
	put(100, 8, int64(e.Mode))
	put(108, 8, int64(e.UID))
	put(116, 8, int64(e.GID))
	put(124, 12, int64(size))
	put(136, 12, e.Sec)
	h[156] = typ
	copy(h[257:], "ustar  \x00")
	if fill != nil {
		fill(h[:])
	}
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	b.Write(h[:])
}

func pad(b *bytes.Buffer) { b.Write(make([]byte, -b.Len()&511)) }

func paxRecord(k, v string) string {
	for n := len(k) + len(v) + 3; ; n++ {
		if s := fmt.Sprintf("%d %s=%s\n", n, k, v); len(s) == n {
			return s
		}
	}
}

// global writes a PAX global header, which says nothing about the tree.
func global(b *bytes.Buffer) {
	rec := paxRecord("comment", "nothing to see")
	block(b, 'g', "pax_global_header", &Entry{Mode: 0o644}, len(rec), nil)
	b.WriteString(rec)
	pad(b)
}

// sparse writes a file with its holes left out.
func sparse(b *bytes.Buffer, e *Entry) {
	ext := extents(e.Body)
	if e.Form == 'g' && len(ext) <= 3 && len(e.Name) <= 100 && e.Nsec == 0 && len(e.Xattrs) == 0 {
		ext = append(ext, [2]int{len(e.Body), len(e.Body)})
		size := 0
		for _, x := range ext {
			size += x[1] - x[0]
		}
		block(b, 'S', e.Name, e, size, func(h []byte) {
			for i, x := range ext {
				copy(h[386+24*i:], fmt.Sprintf("%011o\x00%011o\x00", x[0], x[1]-x[0]))
			}
			copy(h[483:], fmt.Sprintf("%011o\x00", len(e.Body)))
		})
		data(b, e, ext)
		return
	}
	recs := paxRecord("GNU.sparse.major", "1") + paxRecord("GNU.sparse.minor", "0") + paxRecord("GNU.sparse.name", e.Name) +
		paxRecord("GNU.sparse.realsize", fmt.Sprint(len(e.Body)))
	for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
		recs += paxRecord("SCHILY.xattr."+k, e.Xattrs[k])
	}
	if e.Nsec != 0 {
		recs += paxRecord("mtime", paxTime(e.Sec, e.Nsec))
	}
	block(b, 'x', "PaxHeaders/sparse", e, len(recs), nil)
	b.WriteString(recs)
	pad(b)
	m := fmt.Sprintf("%d\n", len(ext))
	size := 0
	for _, x := range ext {
		m += fmt.Sprintf("%d\n%d\n", x[0], x[1]-x[0])
		size += x[1] - x[0]
	}
	m += strings.Repeat("\x00", -len(m)&511)
	block(b, '0', "GNUSparseFile.0/x", e, len(m)+size, nil)
	b.WriteString(m)
	data(b, e, ext)
}

func data(b *bytes.Buffer, e *Entry, ext [][2]int) {
	for _, x := range ext {
		b.Write(e.Body[x[0]:x[1]])
	}
	pad(b)
}

func paxTime(sec, nsec int64) string {
	if sec < 0 && nsec > 0 {
		return fmt.Sprintf("-%d.%09d", -sec-1, 1e9-nsec)
	}
	return fmt.Sprintf("%d.%09d", sec, nsec)
}
