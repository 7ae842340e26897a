package overlay

import (
	"fmt"
	"strings"
)

// Names with a meaning in a layer's archive (OCI image spec, layer.md, "Whiteouts").
const (
	WhiteoutPrefix = ".wh."
	OpaqueName     = ".wh..wh..opq"
)

// Limits of one path, as Linux has them.
const (
	maxName  = 255
	maxPath  = 4095
	maxDepth = 2048
)

// CleanPath turns a name from an archive into an Entry's Path: "./a//b/",
// "/a/b" and "a/x/../b" become "a/b", "." becomes "". As with every engine ".."
// takes back the component before it, whatever that is on disk. ErrName for a
// name that leads out of the layer, NUL, and what no Linux file system takes.
func CleanPath(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("%.200q has a NUL byte: %w", name, ErrName)
	}
	if isClean(name) {
		return name, checkPath(name)
	}
	parts := strings.Split(name, "/")
	out := parts[:0]
	for _, p := range parts {
		switch p {
		case "", ".":
		case "..":
			if len(out) == 0 {
				return "", fmt.Errorf("%.200q leads out of the layer: %w", name, ErrName)
			}
			out = out[:len(out)-1]
		default:
			out = append(out, p)
		}
	}
	p := strings.Join(out, "/")
	return p, checkPath(p)
}

// isClean tells whether a name needs no cleaning; it is true for nearly all names.
func isClean(s string) bool {
	start := 0
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == '/' {
			switch c := s[start:i]; c {
			case "", ".", "..":
				return s == ""
			}
			start = i + 1
		}
	}
	return true
}

// checkPath refuses what is too long; p is cleaned.
func checkPath(p string) error {
	if len(p) > maxPath {
		return fmt.Errorf("%.100q… is %d bytes long: %w", p, len(p), ErrName)
	}
	depth, start := 1, 0
	for i := 0; i <= len(p); i++ {
		if i == len(p) || p[i] == '/' {
			if i-start > maxName {
				return fmt.Errorf("%.100q… is a name of %d bytes: %w", p[start:], i-start, ErrName)
			}
			start = i + 1
			depth++
		}
	}
	if depth > maxDepth {
		return fmt.Errorf("%.100q… is %d directories deep: %w", p, depth, ErrName)
	}
	return nil
}

// ParseWhiteout tells what the last component of an archive's path means:
// Whiteout with the name that it hides, Opaque, or 0 for an ordinary name.
// AUFS's own files (".wh..wh.plnk", ".wh..wh.aufs") are ordinary, as every
// engine has it. ErrName for a whiteout of nothing, of "." or of "..": taken at
// its word it would hide the directory itself.
func ParseWhiteout(base string) (kind Kind, name string, err error) {
	if base == OpaqueName {
		return Opaque, "", nil
	}
	name, ok := strings.CutPrefix(base, WhiteoutPrefix)
	if !ok {
		return 0, "", nil
	}
	switch {
	case name == "", name == ".", name == "..", strings.IndexByte(name, '/') >= 0:
		return 0, "", fmt.Errorf("whiteout %.200q hides no name: %w", base, ErrName)
	case strings.HasPrefix(name, WhiteoutPrefix):
		return 0, "", nil
	}
	return Whiteout, name, nil
}
