package layer

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// splitLines are as the library writes them, and otherwise.
var splitLines = []string{
	`{"type":2,"payload":"Li8AAAAAAAA=","position":0}`,
	`{"type":1,"name":"./hello.txt","size":6,"payload":"1MTCzlwWtO4=","position":1}`,
	`{"type":1,"name":"d/","payload":null,"position":12}`,
	`{"type":1,"name":"d/","payload":"","position":12}`,
	`{"type":1,"name":"a\u0026b","size":6,"payload":"1MTCzlwWtO4=","position":1}`,
	`{"type":1,"name":"ünï","size":60000000000000000,"payload":"1MTCzlwWtO4=","position":1}`,
	`{"type":1,"name":"x","size":9223372036854775808,"payload":"1MTCzlwWtO4=","position":1}`,
	`{"type":1,"name_raw":"/w==","size":6,"payload":"1MTCzlwWtO4=","position":1}`,
	`{"type":1,"name":"` + "\xff" + `","size":6,"payload":"1MTCzlwWtO4=","position":1}`,
	`{"type":01,"name":"x","size":6,"payload":"1MTCzlwWtO4=","position":1}`,
	`{"type":1,"size":6,"name":"x","payload":"1MTCzlwWtO4=","position":1}`,
	`{"type":1,"name":"x","size":-6,"payload":"1MTCzlwWtO4=","position":1}`,
	`{"type":1,"name":"x","size":6,"payload":"1MTC` + "\r" + `zlwWtO4=","position":1}`,
	`{"type":1,"name":"x","size":6,"payload":"1MTCzlwWtO4","position":1}`,
	`{"type":2,"payload":"","position":1} `,
	`{"type":2,"payload":"","position":1}}`,
	`{`, ``, `{"type":`, `null`,
}

// Both ways to read a line give the same, and the fast one takes what the library writes.
func TestSplitLine(t *testing.T) {
	for n, line := range splitLines {
		sameSplit(t, []byte(line))
		var e splitEntry
		if fast := parseSplitFast([]byte(line), &e, nil); fast != (n < 4 || n == 5) {
			t.Errorf("%s: read fast: %v", line, fast)
		}
	}
}

func sameSplit(t testing.TB, line []byte) {
	t.Helper()
	got := splitEntry{Payload: bytes.Repeat([]byte("x"), 30)}
	if !parseSplitFast(line, &got, got.Payload[:0]) {
		return
	}
	var want splitEntry
	if err := json.Unmarshal(line, &want); err != nil {
		t.Errorf("%q is read and is no JSON: %v", line, err)
	}
	if len(want.Payload) == 0 {
		want.Payload = nil
		if len(got.Payload) == 0 {
			got.Payload = nil
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q: got %+v, want %+v", line, got, want)
	}
}

func FuzzSplitLine(f *testing.F) {
	for _, l := range splitLines {
		f.Add([]byte(l))
	}
	f.Fuzz(func(t *testing.T, line []byte) { sameSplit(t, line) })
}

func BenchmarkSplitLine(b *testing.B) {
	line := []byte(`{"type":2,"payload":"` + strings.Repeat("AAAA", 170) + `","position":1}`)
	var e splitEntry
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if err := parseSplit(line, &e); err != nil {
			b.Fatal(err)
		}
	}
}
