package main

import "testing"

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{"64m": 64 << 20, "4G": 4 << 30, "100": 100, "0": -1} {
		var s size
		if err := s.Set(text); err != nil || s.n != want {
			t.Errorf("%s: %d, %v, want %d", text, s.n, err, want)
		}
	}
	for _, bad := range []string{"", "x", "-1", "-4g", "1.2.3m", "9999999999999g"} {
		var s size
		if err := s.Set(bad); err == nil {
			t.Errorf("%q is %d bytes", bad, s.n)
		}
	}
}
