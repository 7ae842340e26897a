package layer

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"unicode/utf8"
)

// maxSegment is how much of a stream goes into one record of the tar-split.
const maxSegment = 256 << 10

// recorder passes a tar on and writes its tar-split: what is read while it
// records becomes segments; what is read while it does not is the content of a
// file, which the diff directory keeps.
//
// The format is that of tar-split's JSON packer: one object a line, {"type":2}
// for a segment, {"type":1} for the content of a file with its CRC-64. It is
// written here rather than there because the stock splitter refuses a path that
// occurs twice, and loses bytes of sparse files.
type recorder struct {
	r      io.Reader
	w      io.Writer
	buf    []byte // segment under way
	line   []byte
	pos    int  // records written
	off    bool // not recording
	failed error
}

func (r *recorder) Read(p []byte) (int, error) {
	if r.failed != nil {
		return 0, &sourceError{r.failed}
	}
	n, err := r.r.Read(p)
	if !r.off && n > 0 {
		r.buf = append(r.buf, p[:n]...)
		if len(r.buf) >= maxSegment {
			r.flush()
		}
	}
	return n, err
}

// flush writes the segment under way.
func (r *recorder) flush() {
	if len(r.buf) == 0 {
		return
	}
	r.line = append(r.line[:0], `{"type":2,"payload":"`...)
	r.line = base64.StdEncoding.AppendEncode(r.line, r.buf)
	r.buf = r.buf[:0]
	r.end(`"`)
}

// file writes the record of a file's content.
func (r *recorder) file(name string, size int64, sum uint64) {
	r.flush()
	r.line = append(r.line[:0], `{"type":1,`...)
	if utf8.ValidString(name) {
		q, _ := json.Marshal(name)
		r.line = append(append(append(r.line, `"name":`...), q...), ',')
	} else {
		r.line = append(r.line, `"name_raw":"`...)
		r.line = base64.StdEncoding.AppendEncode(r.line, []byte(name))
		r.line = append(r.line, `",`...)
	}
	r.line = append(r.line, `"size":`...)
	r.line = appendInt(r.line, size)
	r.line = append(r.line, `,"payload":"`...)
	r.line = base64.StdEncoding.AppendEncode(r.line, binary.BigEndian.AppendUint64(nil, sum))
	r.end(`"`)
}

func (r *recorder) end(quote string) {
	r.line = append(r.line, quote...)
	r.line = append(r.line, `,"position":`...)
	r.line = appendInt(r.line, int64(r.pos))
	r.line = append(r.line, "}\n"...)
	r.pos++
	if r.failed == nil {
		_, r.failed = r.w.Write(r.line)
	}
}
