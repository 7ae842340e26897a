package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"imagefs/store"
	"imagefs/store/save"
)

// form is what images can be copied to beside stores.
type form string

const (
	toStore         form = ""
	toDockerArchive form = "docker-archive"
	toOCIArchive    form = "oci-archive"
	toOCILayout     form = "oci"
)

// targetNames are the kinds of --to that --store takes too: an archive is read whatever its form.
func targetNames() []string {
	return []string{string(toDockerArchive), string(toOCIArchive), string(toOCILayout)}
}

// target is where images are copied to.
type target struct {
	form form
	path string // absolute, of an archive or a layout
	spec spec   // of a store
}

// parseTarget reads the value of --to: [KIND:]PATH. Where no kind is given it is
// that of what is there, and a store's where nothing is.
func parseTarget(text string) (target, error) {
	k, path, ok := strings.Cut(text, ":")
	if f := form(k); ok && (f == toDockerArchive || f == toOCIArchive || f == toOCILayout) {
		if path == "" || strings.ContainsAny(path, "\x00\n") {
			return target{}, usagef("copy: --to %q: a path is missing; write [KIND:]PATH", text)
		}
		return target{form: f, path: absolute(path)}, nil
	}
	s, err := parseSpecOf("copy: --to", text)
	if err != nil {
		return target{}, err
	}
	if s.kind == "archive" {
		return target{}, usagef("copy: --to %s: say which archive: docker-archive:, oci-archive: or, for a directory, oci:", text)
	}
	if s.kind == "podman" {
		return target{}, usagef("copy: --to %s: such a store is only read; %s", text, sendAdvice)
	}
	if s.kind != "" {
		return target{spec: s}, nil
	}
	st, err := os.Stat(s.path)
	switch {
	case err == nil && !st.IsDir(), err != nil && archiveLike(s.path):
		return target{}, usagef("copy: --to %s: say what it is to be: docker-archive:%s or oci-archive:%s", text, text, text)
	case err == nil && exists(filepath.Join(s.path, "index.json")) && exists(filepath.Join(s.path, "oci-layout")):
		return target{form: toOCILayout, path: s.path}, nil
	}
	return target{spec: s}, nil
}

// archiveLike tells whether a path is called like an archive.
func archiveLike(path string) bool {
	for _, end := range []string{".tar", ".tgz", ".gz", ".zst"} {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return false
}

// compression is that of --compress, which goes with archives and layouts only.
func (t target) compression(text string) (save.Compression, error) {
	c, err := save.ParseCompression(text)
	if err != nil {
		return c, usagef("copy: --compress: %w", err)
	}
	if c != save.None && t.form == toStore {
		return c, usagef("copy: --compress goes with archives and layouts; a store keeps files")
	}
	return c, nil
}

// sendAdvice is what to do about stores that are only read.
const sendAdvice = "send the image to its own program: imagefs save IMAGE | podman load"

// ingester opens the store that is the target, which is made if there is none.
// The caller closes it.
func (a *app) ingester(t target) (store.Store, store.Ingester, error) {
	st, kind, err := openSpec(t.spec, a.complete(openOptions{create: true}))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, advised{fmt.Errorf("target: %w", err), "name an empty directory or a new one; or oci:DIR for a layout"}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("target: %w", err)
	}
	dst, ok := st.(store.Ingester)
	if !ok {
		st.Close()
		advice := "name a store of imagefs or Docker, docker-archive:FILE, oci-archive:FILE or oci:DIR"
		if kind == "podman" {
			advice = sendAdvice
		}
		return nil, nil, advised{store.Cannot(st, "write images"), advice}
	}
	return st, dst, nil
}

// targetError says what to do about a target that cannot be written.
func targetError(err error) error {
	var a advised
	switch {
	case errors.As(err, &a):
	case errors.Is(err, store.ErrReadOnly) && strings.Contains(err.Error(), "running"):
		return advised{err, "send them to it: imagefs save IMAGE | docker load"}
	}
	return err
}
