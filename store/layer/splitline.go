package layer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"imagefs/store"
)

// parseSplit reads one line of a tar-split. e.Payload's memory is used again.
func parseSplit(line []byte, e *splitEntry) error {
	payload := e.Payload[:0]
	if parseSplitFast(line, e, payload) {
		return nil
	}
	*e = splitEntry{Payload: payload}
	if err := json.Unmarshal(line, e); err != nil {
		return fmt.Errorf("tar-split: %w: %w", store.ErrCorrupt, err)
	}
	return nil
}

// parseSplitFast reads a line that is written as the tar-split library writes
// nearly all of them, these fields in this order and nothing escaped:
//
//	{"type":1,"name":"a/b","size":6,"payload":"base64","position":4}
//
// It returns false for anything else, valid or not. A layer has one or two lines
// a file, and reading them takes most of the time of opening its tar.
func parseSplitFast(line []byte, e *splitEntry, payload []byte) bool {
	s := splitScanner{line}
	var name []byte
	var kind, size int64
	ok := s.skip(`{"type":`) && s.number(&kind)
	if ok && s.skip(`,"name":"`) {
		ok = s.plain(&name)
	}
	if ok && s.skip(`,"size":`) {
		ok = s.number(&size)
	}
	if !ok || !s.skip(`,"payload":`) {
		return false
	}
	var encoded []byte
	if s.skip(`"`) {
		ok = s.until(&encoded)
	} else {
		ok = s.skip("null")
	}
	var position int64
	if !ok || !s.skip(`,"position":`) || !s.number(&position) || !s.skip("}") || len(s.b) > 0 {
		return false
	}
	if n := base64.StdEncoding.DecodedLen(len(encoded)); cap(payload) < n {
		payload = make([]byte, n)
	}
	n, err := base64.StdEncoding.Decode(payload[:cap(payload)], encoded)
	if err != nil || bytes.ContainsAny(encoded, "\r\n") { // which base64 reads over and JSON does not have
		return false
	}
	*e = splitEntry{Type: int(kind), Name: string(name), Size: size, Payload: payload[:n]}
	return true
}

// splitScanner is what is left of a line.
type splitScanner struct{ b []byte }

// skip passes over s if it comes next.
func (s *splitScanner) skip(prefix string) bool {
	if len(s.b) < len(prefix) || string(s.b[:len(prefix)]) != prefix {
		return false
	}
	s.b = s.b[len(prefix):]
	return true
}

// number reads a decimal number as JSON has it, of no more digits than fit.
func (s *splitScanner) number(v *int64) bool {
	n := 0
	for n < len(s.b) && n < 18 && s.b[n] >= '0' && s.b[n] <= '9' {
		*v = *v*10 + int64(s.b[n]-'0')
		n++
	}
	if n == 0 || n > 1 && s.b[0] == '0' {
		return false
	}
	s.b = s.b[n:]
	return true
}

// until reads to the next quote, and past it.
func (s *splitScanner) until(v *[]byte) bool {
	n := bytes.IndexByte(s.b, '"')
	if n < 0 {
		return false
	}
	*v, s.b = s.b[:n], s.b[n+1:]
	return true
}

// plain is until for text in which nothing is escaped.
func (s *splitScanner) plain(v *[]byte) bool {
	if !s.until(v) || !utf8.Valid(*v) {
		return false
	}
	for _, c := range *v {
		if c < ' ' || c == '\\' {
			return false
		}
	}
	return true
}
