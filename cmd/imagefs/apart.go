package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// reading notes that a store is open: nothing that a command writes may replace
// it or land in it.
func (a *app) reading(path string) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	a.sources = append(a.sources, absolute(path))
}

// apart tells whether a file or a directory can be written without harm to the
// stores that are read. add is for one that is added to: it may be such a store itself.
func (a *app) apart(path string, add bool) error {
	if path == "" || path == "-" {
		return nil
	}
	at := whereTo(absolute(path))
	for _, s := range a.sources {
		if same := sameFile(at, s); same && !add {
			return advised{fmt.Errorf("%s is what is read, and would be replaced", path), "name another file"}
		} else if same {
			continue
		}
		// An archive has nothing below it.
		if strings.HasPrefix(at, strings.TrimSuffix(s, "/")+"/") {
			return advised{fmt.Errorf("%s is in the store that is read, %s", path, s), "name a place outside of it"}
		}
	}
	return nil
}

// sameFile tells whether two paths lead to one file or directory, as they do through a bind mount.
func sameFile(a, b string) bool {
	as, err := os.Stat(a)
	if err != nil {
		return false
	}
	bs, err := os.Stat(b)
	return err == nil && os.SameFile(as, bs)
}

// whereTo follows the links of what is there of a path.
func whereTo(path string) string {
	rest := ""
	for at := path; ; at = filepath.Dir(at) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		if at == filepath.Dir(at) {
			return path
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
}
