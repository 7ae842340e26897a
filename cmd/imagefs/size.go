package main

import (
	"fmt"

	"github.com/docker/go-units"
)

// size is a flag's value in bytes, as Docker's flags take it: 64m, 4g. n is 0
// if it was not given and -1 for none.
type size struct{ n int64 }

func (s *size) Type() string { return "size" }

func (s *size) String() string {
	if s.n <= 0 {
		return ""
	}
	return units.BytesSize(float64(s.n))
}

func (s *size) Set(text string) error {
	n, err := units.RAMInBytes(text)
	if err != nil || n < 0 {
		return fmt.Errorf("%.50q is no size; give one like 64m or 4g", text)
	}
	if s.n = n; n == 0 {
		s.n = -1
	}
	return nil
}
